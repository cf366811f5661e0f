//! What is attached and trained, from the command line.

use clap::{Args, ValueEnum};
use longlora_adapters::{
    AdapterConfig, LoraConfig, RopeGranularity, RopeOffsetConfig, TargetModule,
};

/// Everything that says what is attached.
const ADAPTER_OPTIONS: [&str; 10] = [
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target",
    "use_rslora",
    "use_dora",
    "train_norm",
    "train_embed",
    "train_head",
    "rope_offset",
];

/// Adapters, or none.
#[derive(Args)]
pub(crate) struct AdapterArgs {
    /// Attach nothing, and train every weight: full fine-tuning. The result is a model, in the folder `model` of the run
    #[arg(long, conflicts_with_all = ADAPTER_OPTIONS)]
    full: bool,
    /// Rank of the low-rank updates [default: 8]
    #[arg(long, value_name = "RANK", visible_alias = "lora-r")]
    lora_rank: Option<usize>,
    /// Numerator of their scale, alpha / rank [default: 16]
    #[arg(long, value_name = "ALPHA")]
    lora_alpha: Option<f64>,
    /// Share of a layer's input that is dropped before the low-rank updates [default: 0]
    #[arg(long, value_name = "PROBABILITY")]
    lora_dropout: Option<f64>,
    /// Layers that get one, separated by commas: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; or all-linear,
    /// which is all of them; of a mixture of experts the first four alone [default: the first four]
    #[arg(long, value_name = "MODULE,…", value_delimiter = ',', value_parser = target)]
    lora_target: Option<Vec<Target>>,
    /// Scale them by alpha / √rank: rank-stabilized LoRA
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    use_rslora: Option<bool>,
    /// Train the magnitude of each output beside them: DoRA
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    use_dora: Option<bool>,
    /// Train the norms [default: true]
    #[arg(long, value_name = "BOOL")]
    train_norm: Option<bool>,
    /// Train the token embeddings [default: true]
    #[arg(long, value_name = "BOOL")]
    train_embed: Option<bool>,
    /// Train the head; one that is the embedding table gets a table of its own [default: false]
    #[arg(long, value_name = "BOOL")]
    train_head: Option<bool>,
    /// Learnable RoPE offsets, which are not of LongLoRA [default: none]
    #[arg(long, value_name = "GRANULARITY")]
    rope_offset: Option<OffsetKind>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OffsetKind {
    /// Keep the frequencies fixed
    None,
    /// One per layer and kv head
    Head,
    /// One per layer, kv head and frequency
    Pair,
    /// One per frequency for the whole model
    Shared,
}

impl AdapterArgs {
    /// What is not said stays as it is.
    pub(crate) fn apply(&self, adapters: &mut Option<AdapterConfig>) {
        if self.full {
            *adapters = None;
            return;
        }
        if adapters.is_none() && !self.asks_for_any() {
            return;
        }
        let config = adapters.get_or_insert_with(AdapterConfig::longlora);
        if self.asks_for_lora() {
            config.lora.get_or_insert_with(LoraConfig::default);
        }
        if let Some(lora) = &mut config.lora {
            lora.rank = self.lora_rank.unwrap_or(lora.rank);
            lora.alpha = self.lora_alpha.unwrap_or(lora.alpha);
            lora.dropout = self.lora_dropout.unwrap_or(lora.dropout);
            lora.use_rslora = self.use_rslora.unwrap_or(lora.use_rslora);
            lora.use_dora = self.use_dora.unwrap_or(lora.use_dora);
            if let Some(targets) = &self.lora_target {
                lora.target_modules = modules(targets);
            }
        }
        config.norms = self.train_norm.unwrap_or(config.norms);
        config.embeddings = self.train_embed.unwrap_or(config.embeddings);
        config.head = self.train_head.unwrap_or(config.head);
        let granularity = match self.rope_offset {
            None => return,
            Some(OffsetKind::None) => None,
            Some(OffsetKind::Head) => Some(RopeGranularity::Head),
            Some(OffsetKind::Pair) => Some(RopeGranularity::Pair),
            Some(OffsetKind::Shared) => Some(RopeGranularity::Shared),
        };
        config.rope_offset = granularity.map(RopeOffsetConfig::new);
    }

    /// A file that trains every weight stays so, unless an option says otherwise.
    fn asks_for_any(&self) -> bool {
        self.asks_for_lora()
            || self.train_norm.is_some()
            || self.train_embed.is_some()
            || self.train_head.is_some()
            || self.rope_offset.is_some()
    }

    /// A file without LoRA stays without it, unless an option says otherwise.
    fn asks_for_lora(&self) -> bool {
        self.lora_rank.is_some()
            || self.lora_alpha.is_some()
            || self.lora_dropout.is_some()
            || self.lora_target.is_some()
            || self.use_rslora == Some(true)
            || self.use_dora == Some(true)
    }
}

/// What `--lora-target` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Module(TargetModule),
    /// PEFT's `all-linear`.
    AllLinear,
}

fn target(name: &str) -> Result<Target, String> {
    if name == "all-linear" {
        return Ok(Target::AllLinear);
    }
    name.parse().map(Target::Module).map_err(|error| format!("{error}, and all-linear"))
}

fn modules(targets: &[Target]) -> Vec<TargetModule> {
    let module = |target: &Target| match target {
        Target::Module(module) => Some(*module),
        Target::AllLinear => None,
    };
    let named: Option<Vec<_>> = targets.iter().map(module).collect();
    named.unwrap_or_else(|| TargetModule::ALL.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_linear_is_every_layer_whatever_stands_beside_it() {
        let of = |names: &[&str]| {
            let targets: Vec<_> = names.iter().map(|name| target(name).unwrap()).collect();
            modules(&targets)
        };
        assert_eq!(of(&["all-linear"]), TargetModule::ALL);
        assert_eq!(of(&["v_proj", "all-linear"]), TargetModule::ALL);
        assert_eq!(of(&["v_proj", "q_proj"]), [TargetModule::VProj, TargetModule::QProj]);
        let error = target("all").unwrap_err();
        assert!(error.contains("`all`") && error.contains("all-linear"), "{error}");
    }
}
