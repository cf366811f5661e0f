//! What is attached to a model and trained.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rope_offset::{RopeGranularity, RopeOffsetConfig};

/// Everything that a fine-tuning run trains. LongLoRA's "LoRA+" is LoRA with norms and embeddings; without them it
/// loses most of its worth at long contexts (perplexity 11.44 instead of 8.12, arXiv:2309.12307, table 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// Low-rank updates of the projections; `None` attaches none.
    pub lora: Option<LoraConfig>,
    /// Whether the weights of all norms are trained; LongLoRA does.
    pub norms: bool,
    /// Whether the token embeddings are trained; LongLoRA does.
    pub embeddings: bool,
    /// Learnable offsets of the RoPE frequencies; `None` keeps the frequencies fixed, as LongLoRA does.
    pub rope_offset: Option<RopeOffsetConfig>,
}

/// Low-rank updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of each update; LongLoRA trains with 8.
    pub rank: usize,
    /// Numerator of the scale `alpha / rank`; LongLoRA trains with 16.
    pub alpha: f64,
    /// Probability with which an entry of a layer's input is dropped before A, in [0, 1); LongLoRA has 0.
    pub dropout: f64,
    /// Layers that get an update; LongLoRA has q, k, v and o.
    pub target_modules: Vec<TargetModule>,
}

/// A linear layer of a transformer block, by its Hugging Face name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetModule {
    /// `self_attn.q_proj`
    QProj,
    /// `self_attn.k_proj`
    KProj,
    /// `self_attn.v_proj`
    VProj,
    /// `self_attn.o_proj`
    OProj,
    /// `mlp.gate_proj`
    GateProj,
    /// `mlp.up_proj`
    UpProj,
    /// `mlp.down_proj`
    DownProj,
}

/// Why an adapter cannot be attached.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum AdapterError {
    /// A low-rank update of rank zero is none.
    #[error("LoRA rank is `0`; use at least 1, or leave LoRA out")]
    ZeroRank,
    /// The scale would not be a finite number.
    #[error("LoRA alpha `{alpha}` is not a positive number; LongLoRA uses 16")]
    Alpha {
        /// What was asked for.
        alpha: f64,
    },
    /// Not a probability below one.
    #[error("LoRA dropout `{dropout}` is not in [0, 1)")]
    Dropout {
        /// What was asked for.
        dropout: f64,
    },
    /// No layer would get an update.
    #[error("LoRA has no target modules; name some of {known}, or leave LoRA out", known = TargetModule::NAMES)]
    NoTargets,
    /// Not the name of a layer.
    #[error("`{name}` is no target module; known are {known}", known = TargetModule::NAMES)]
    UnknownTarget {
        /// What was asked for.
        name: String,
    },
    /// The bound of the offsets would leave them no room, or let a frequency vanish.
    #[error("RoPE offset bound `{bound}` is not in (0, 2]; the default is ln 2")]
    Bound {
        /// What was asked for.
        bound: f64,
    },
    /// Nothing is trained.
    #[error(
        "nothing would be trained: no LoRA, norms, embeddings or RoPE offsets; switch on at least one"
    )]
    Nothing,
}

impl AdapterConfig {
    /// The recipe of this project: LongLoRA's, with one RoPE offset per layer and kv head.
    pub fn longlora() -> Self {
        Self {
            lora: Some(LoraConfig::default()),
            norms: true,
            embeddings: true,
            rope_offset: Some(RopeOffsetConfig::new(RopeGranularity::Head)),
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`AdapterError`], naming the number.
    pub fn validate(&self) -> Result<(), AdapterError> {
        if let Some(lora) = &self.lora {
            lora.validate()?;
        }
        if let Some(offset) = &self.rope_offset
            && !(offset.bound > 0.0 && offset.bound <= 2.0)
        {
            return Err(AdapterError::Bound { bound: offset.bound });
        }
        if self.lora.is_none() && !self.norms && !self.embeddings && self.rope_offset.is_none() {
            return Err(AdapterError::Nothing);
        }
        Ok(())
    }
}

impl LoraConfig {
    /// The factor of the update: `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn validate(&self) -> Result<(), AdapterError> {
        let Self { rank, alpha, dropout, target_modules } = self;
        if *rank == 0 {
            return Err(AdapterError::ZeroRank);
        }
        if !(alpha.is_finite() && *alpha > 0.0) {
            return Err(AdapterError::Alpha { alpha: *alpha });
        }
        if !(0.0..1.0).contains(dropout) {
            return Err(AdapterError::Dropout { dropout: *dropout });
        }
        if target_modules.is_empty() {
            return Err(AdapterError::NoTargets);
        }
        Ok(())
    }
}

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules = TargetModule::ATTENTION.to_vec();
        Self { rank: 8, alpha: 16.0, dropout: 0.0, target_modules }
    }
}

impl TargetModule {
    /// The projections of attention, LongLoRA's targets.
    pub const ATTENTION: [Self; 4] = [Self::QProj, Self::KProj, Self::VProj, Self::OProj];
    /// Every linear layer of a block.
    pub const ALL: [Self; 7] = [
        Self::QProj,
        Self::KProj,
        Self::VProj,
        Self::OProj,
        Self::GateProj,
        Self::UpProj,
        Self::DownProj,
    ];
    const NAMES: &str = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";

    /// Hugging Face's name of the layer.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }
}

impl fmt::Display for TargetModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TargetModule {
    type Err = AdapterError;

    fn from_str(name: &str) -> Result<Self, AdapterError> {
        let known = Self::ALL.into_iter().find(|module| module.name() == name);
        known.ok_or_else(|| AdapterError::UnknownTarget { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";

    #[track_caller]
    fn check(change: impl FnOnce(&mut AdapterConfig), expected: &str) {
        let mut config = AdapterConfig::longlora();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().to_string(), expected);
    }

    #[track_caller]
    fn check_lora(change: impl FnOnce(&mut LoraConfig), expected: &str) {
        check(|config| change(config.lora.as_mut().unwrap()), expected);
    }

    #[track_caller]
    fn check_bound(bound: f64, expected: &str) {
        check(|config| config.rope_offset.as_mut().unwrap().bound = bound, expected);
    }

    #[test]
    fn a_number_that_cannot_be_meant_is_refused_by_name() {
        check_lora(|lora| lora.rank = 0, "LoRA rank is `0`; use at least 1, or leave LoRA out");
        check_lora(
            |lora| lora.alpha = -16.0,
            "LoRA alpha `-16` is not a positive number; LongLoRA uses 16",
        );
        check_lora(
            |lora| lora.alpha = f64::NAN,
            "LoRA alpha `NaN` is not a positive number; LongLoRA uses 16",
        );
        check_lora(|lora| lora.dropout = 1.0, "LoRA dropout `1` is not in [0, 1)");
        check_lora(|lora| lora.dropout = -0.5, "LoRA dropout `-0.5` is not in [0, 1)");
        check_lora(
            |lora| lora.target_modules.clear(),
            &format!("LoRA has no target modules; name some of {KNOWN}, or leave LoRA out"),
        );
        check_bound(0.0, "RoPE offset bound `0` is not in (0, 2]; the default is ln 2");
        check_bound(2.5, "RoPE offset bound `2.5` is not in (0, 2]; the default is ln 2");
        check_bound(f64::NAN, "RoPE offset bound `NaN` is not in (0, 2]; the default is ln 2");
    }

    #[test]
    fn an_adapter_that_trains_nothing_is_refused() {
        let nothing =
            AdapterConfig { lora: None, norms: false, embeddings: false, rope_offset: None };
        assert_eq!(
            nothing.validate().unwrap_err().to_string(),
            "nothing would be trained: no LoRA, norms, embeddings or RoPE offsets; switch on at least one"
        );
        let longlora = AdapterConfig::longlora();
        for one in [
            AdapterConfig { lora: longlora.lora.clone(), ..nothing.clone() },
            AdapterConfig { norms: true, ..nothing.clone() },
            AdapterConfig { embeddings: true, ..nothing.clone() },
            AdapterConfig { rope_offset: longlora.rope_offset, ..nothing },
        ] {
            one.validate().unwrap();
        }
    }

    #[test]
    fn the_recipe_of_longlora_is_valid_and_has_the_papers_numbers() {
        let config = AdapterConfig::longlora();
        config.validate().unwrap();
        let lora = config.lora.unwrap();
        assert_eq!((lora.rank, lora.alpha, lora.scale(), lora.dropout), (8, 16.0, 2.0, 0.0));
        assert_eq!(lora.target_modules, TargetModule::ATTENTION);
        assert!(config.norms && config.embeddings);
    }

    #[test]
    fn a_target_module_is_read_and_written_by_the_name_it_prints() {
        for module in TargetModule::ALL {
            assert_eq!(module.to_string().parse(), Ok(module));
            let json = serde_json::to_string(&module).unwrap();
            assert_eq!(json, format!("\"{module}\""));
        }
        assert_eq!(TargetModule::ALL.map(TargetModule::name).join(", "), KNOWN);
    }

    #[test]
    fn an_unknown_target_module_is_refused_with_the_known_ones() {
        for name in ["lm_head", "Q_PROJ", "q_proj ", ""] {
            let error = name.parse::<TargetModule>().unwrap_err().to_string();
            assert_eq!(error, format!("`{name}` is no target module; known are {KNOWN}"));
        }
    }
}
