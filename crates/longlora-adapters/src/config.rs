//! What is attached to a model and trained.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rope_offset::RopeOffsetConfig;

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
    /// Whether the matrix of the head is trained; LongLoRA does not. A head that was the embedding table gets a table
    /// of its own: trained embeddings alone stay tied, and are trained in both roles.
    #[serde(default)]
    pub head: bool,
    /// Learnable offsets of the RoPE frequencies; `None` keeps the frequencies fixed, as LongLoRA does.
    pub rope_offset: Option<RopeOffsetConfig>,
}

/// Low-rank updates.
///
/// `exclude_modules` and the patterns name layers by the end of their path, whole words of it: `down_proj` is every
/// such layer, `layers.0.mlp.down_proj` that of the first block.
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
    /// Layers among them that get none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_modules: Vec<String>,
    /// Whether the scale is `alpha / √rank`: rank-stabilized LoRA (arXiv:2312.03732), for large ranks.
    #[serde(default)]
    pub use_rslora: bool,
    /// Whether each output has a trained magnitude beside the update of its direction: DoRA (arXiv:2402.09353).
    #[serde(default)]
    pub use_dora: bool,
    /// Layers with a rank of their own. The longest name that fits a layer counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Layers with an alpha of their own. The longest name that fits a layer counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
}

/// The low-rank update of one layer: what a [`LoraConfig`] says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateConfig {
    /// Rank of the update.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Factor of the update.
    pub scale: f64,
    /// Probability with which an entry of the input is dropped before A.
    pub dropout: f64,
    /// Whether each output has a trained magnitude.
    pub use_dora: bool,
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
    /// A low-rank update of rank zero is none.
    #[error(
        "LoRA rank of `{module}` is `0`; use at least 1, or name the layer in `exclude_modules`"
    )]
    ZeroRankOf {
        /// The layer.
        module: String,
    },
    /// The scale of a layer would not be a positive number.
    #[error("LoRA alpha `{alpha}` of `{module}` is not a positive number")]
    AlphaOf {
        /// The layer.
        module: String,
        /// What was asked for.
        alpha: f64,
    },
    /// No layer's path ends so.
    #[error(
        "`{name}` in `{option}` is not the end of a layer's path, like `up_proj` or `layers.0.mlp.up_proj`; layers are \
         {known}",
        known = TargetModule::NAMES
    )]
    NotALayer {
        /// The list or table.
        option: &'static str,
        /// What stands there.
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
        "nothing would be trained: no LoRA, norms, embeddings, head or RoPE offsets; switch on at least one"
    )]
    Nothing,
}

impl AdapterConfig {
    /// LongLoRA's recipe: LoRA, norms and embeddings. RoPE offsets, which are ours, are for whoever asks for them: no other
    /// program computes those of layers and heads.
    pub fn longlora() -> Self {
        Self {
            lora: Some(LoraConfig::default()),
            norms: true,
            embeddings: true,
            head: false,
            rope_offset: None,
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
        let weights = self.norms || self.embeddings || self.head;
        if self.lora.is_none() && !weights && self.rope_offset.is_none() {
            return Err(AdapterError::Nothing);
        }
        Ok(())
    }
}

impl LoraConfig {
    /// The update of the layer at `module`, its path with dots; `None`, if it gets none.
    pub fn of(&self, module: &str) -> Option<UpdateConfig> {
        let targeted = self.target_modules.iter().any(|target| ends_with(module, target.name()));
        if !targeted || self.exclude_modules.iter().any(|excluded| ends_with(module, excluded)) {
            return None;
        }
        let rank = *longest_match(&self.rank_pattern, module).unwrap_or(&self.rank);
        let alpha = *longest_match(&self.alpha_pattern, module).unwrap_or(&self.alpha);
        let rank_part = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Some(UpdateConfig {
            rank,
            alpha,
            scale: alpha / rank_part,
            dropout: self.dropout,
            use_dora: self.use_dora,
        })
    }

    fn validate(&self) -> Result<(), AdapterError> {
        let (rank, alpha, dropout) = (self.rank, self.alpha, self.dropout);
        if rank == 0 {
            return Err(AdapterError::ZeroRank);
        }
        if !is_positive(alpha) {
            return Err(AdapterError::Alpha { alpha });
        }
        if !(0.0..1.0).contains(&dropout) {
            return Err(AdapterError::Dropout { dropout });
        }
        if self.target_modules.is_empty() {
            return Err(AdapterError::NoTargets);
        }
        self.validate_names()?;
        if let Some((module, _)) = self.rank_pattern.iter().find(|&(_, &rank)| rank == 0) {
            return Err(AdapterError::ZeroRankOf { module: module.clone() });
        }
        match self.alpha_pattern.iter().find(|&(_, &alpha)| !is_positive(alpha)) {
            None => Ok(()),
            Some((module, &alpha)) => Err(AdapterError::AlphaOf { module: module.clone(), alpha }),
        }
    }

    /// A name that can fit no layer is a slip of the pen.
    fn validate_names(&self) -> Result<(), AdapterError> {
        let names = self.exclude_modules.iter().map(|name| ("exclude_modules", name));
        let names = names.chain(self.rank_pattern.keys().map(|name| ("rank_pattern", name)));
        let mut names = names.chain(self.alpha_pattern.keys().map(|name| ("alpha_pattern", name)));
        let fits = |name: &str| TargetModule::ALL.iter().any(|layer| ends_with(name, layer.name()));
        match names.find(|(_, name)| !fits(name)) {
            None => Ok(()),
            Some((option, name)) => Err(AdapterError::NotALayer { option, name: name.clone() }),
        }
    }
}

fn is_positive(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

/// Whether the last words of a path are those of `end`.
fn ends_with(path: &str, end: &str) -> bool {
    endings(path).any(|ending| ending == end)
}

/// The value of the longest name that the path ends with.
fn longest_match<'a, T>(pattern: &'a BTreeMap<String, T>, path: &str) -> Option<&'a T> {
    endings(path).find_map(|ending| pattern.get(ending))
}

/// `a.b.c`, `b.c`, `c`
fn endings(path: &str) -> impl Iterator<Item = &str> {
    let after_dots = path.match_indices('.').map(|(dot, _)| &path[dot + 1..]);
    std::iter::once(path).chain(after_dots)
}

impl Default for LoraConfig {
    fn default() -> Self {
        let target_modules = TargetModule::ATTENTION.to_vec();
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            target_modules,
            exclude_modules: vec![],
            use_rslora: false,
            use_dora: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
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
mod tests;
