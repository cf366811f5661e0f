//! What is compared.

use longlora_adapters::{LoraConfig, RopeGranularity, RopeKind, RopeOffsetConfig};
use longlora_attention::{AttentionPattern, GroupSize, Shift};
use longlora_train::FinetuneConfig;

/// A way to a longer context.
#[derive(Debug)]
pub(super) struct Method {
    /// Its name on the command line and in file names.
    pub(super) name: &'static str,
    /// Its name in tables.
    pub(super) title: &'static str,
    pub(super) way: Way,
    /// Whether it is compared unless others are named.
    pub(super) usual: bool,
}

#[derive(Debug)]
pub(super) enum Way {
    /// The model as it is, or stretched by this RoPE scaling.
    Untrained(Option<RopeKind>),
    /// Trained; what differs from plain LongLoRA, which is half of the heads shifted, groups of a quarter, LoRA with norms
    /// and embeddings, no RoPE offsets.
    Trained(fn(&mut FinetuneConfig)),
}

/// The model as it is: what everything is compared with.
pub(super) const UNTOUCHED: &str = "untouched";

/// All of them, in the order of the tables.
pub(super) static METHODS: [Method; 23] = [
    untrained(UNTOUCHED, "untouched", None),
    untrained("linear", "position interpolation, untrained", Some(RopeKind::Linear)),
    untrained("ntk", "NTK, untrained", Some(RopeKind::Ntk)),
    untrained("dynamic", "dynamic NTK, untrained", Some(RopeKind::Dynamic)),
    untrained("yarn", "YaRN, untrained", Some(RopeKind::Yarn)),
    trained("lora-half-length", "LoRA, full attention, windows of half the length", half_length),
    trained("lora", "LoRA, full attention", |config| {
        config.attention = AttentionPattern::Full;
        lora_alone(config);
    }),
    trained("lora-plus", "LoRA, norms, embeddings, full attention", full_attention),
    trained("longlora", "LongLoRA", |_| {}),
    trained("longlora-alternate", "LongLoRA, alternate layers", |config| {
        shift(config, Shift::AlternateLayers);
    }),
    trained("longlora-offsets", "LongLoRA, RoPE offsets", |config| {
        offsets(config, RopeGranularity::Head);
    }),
    trained("longlora-lora-only", "LongLoRA without norms and embeddings", lora_alone),
    trained("yarn-longlora", "YaRN + LongLoRA", |config| {
        config.context.rope_scaling = RopeKind::Yarn;
    }),
    trained("full", "full fine-tuning, full attention", |config| {
        full_attention(config);
        config.adapters = None;
    }),
    ablation("full-s2", "full fine-tuning, S²-Attn", |config| config.adapters = None),
    ablation("longlora-unshifted", "LongLoRA, no shift", |config| shift(config, Shift::Unshifted)),
    ablation("longlora-group-2", "LongLoRA, groups of 1/2", |config| group(config, 2.0)),
    ablation("longlora-group-6", "LongLoRA, groups of 1/6", |config| group(config, 6.0)),
    ablation("longlora-group-8", "LongLoRA, groups of 1/8", |config| group(config, 8.0)),
    ablation("longlora-offsets-pair", "LongLoRA, RoPE offsets per frequency", |config| {
        offsets(config, RopeGranularity::Pair);
    }),
    ablation("longlora-offsets-shared", "LongLoRA, shared RoPE offsets", |config| {
        offsets(config, RopeGranularity::Shared);
    }),
    ablation("longlora-norms", "LongLoRA without embeddings", |config| {
        adapters(config).embeddings = false;
    }),
    ablation("longlora-embeddings", "LongLoRA without norms", |config| {
        adapters(config).norms = false;
    }),
];

const fn untrained(name: &'static str, title: &'static str, kind: Option<RopeKind>) -> Method {
    Method { name, title, way: Way::Untrained(kind), usual: true }
}

const fn trained(
    name: &'static str,
    title: &'static str,
    change: fn(&mut FinetuneConfig),
) -> Method {
    Method { name, title, way: Way::Trained(change), usual: true }
}

/// One that answers a question about the method, and is of no use to a user.
const fn ablation(
    name: &'static str,
    title: &'static str,
    change: fn(&mut FinetuneConfig),
) -> Method {
    Method { name, title, way: Way::Trained(change), usual: false }
}

/// As many tokens per step, in twice as many windows; positions are stretched to the whole length, at which all methods are
/// measured.
fn half_length(config: &mut FinetuneConfig) {
    config.attention = AttentionPattern::Full;
    lora_alone(config);
    config.context.train_length = Some(config.context.length / 2);
    config.training.accumulation *= 2;
}

fn full_attention(config: &mut FinetuneConfig) {
    config.attention = AttentionPattern::Full;
}

fn lora_alone(config: &mut FinetuneConfig) {
    let adapters = adapters(config);
    adapters.norms = false;
    adapters.embeddings = false;
}

fn offsets(config: &mut FinetuneConfig, granularity: RopeGranularity) {
    adapters(config).rope_offset = Some(RopeOffsetConfig::new(granularity));
}

fn shift(config: &mut FinetuneConfig, shift: Shift) {
    if let AttentionPattern::Shifted { shift: of_config, .. } = &mut config.attention {
        *of_config = shift;
    }
}

fn group(config: &mut FinetuneConfig, parts: f64) {
    if let AttentionPattern::Shifted { group_size, .. } = &mut config.attention {
        *group_size = GroupSize::Ratio(1.0 / parts);
    }
}

fn adapters(config: &mut FinetuneConfig) -> &mut longlora_adapters::AdapterConfig {
    config.adapters.as_mut().expect("the plain method attaches something")
}

/// What all trained methods start from: LongLoRA as published, with the sizes and rates of `config`.
pub(super) fn plain(mut config: FinetuneConfig) -> FinetuneConfig {
    config.attention = AttentionPattern::LONGLORA;
    let mut adapters =
        config.adapters.take().unwrap_or(longlora_adapters::AdapterConfig::longlora());
    adapters.lora.get_or_insert_with(LoraConfig::default);
    adapters.norms = true;
    adapters.embeddings = true;
    adapters.head = false;
    adapters.rope_offset = None;
    config.adapters = Some(adapters);
    config
}

/// The method of this name.
pub(super) fn named(name: &str) -> Result<&'static Method, String> {
    let known = || METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", ");
    let found = METHODS.iter().find(|method| method.name == name);
    found.ok_or_else(|| {
        format!("there is no method `{name}`; the methods are {}, or `all` alone", known())
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_method_is_valid_and_no_two_are_the_same() {
        let base = plain(FinetuneConfig::longlora(PathBuf::from("m"), PathBuf::from("d"), 2048));
        let mut seen: Vec<FinetuneConfig> = vec![];
        for method in &METHODS {
            let Way::Trained(change) = method.way else { continue };
            let mut config = base.clone();
            change(&mut config);
            config.validate().unwrap();
            assert!(!seen.contains(&config), "{}", method.name);
            let tokens = |config: &FinetuneConfig| {
                let training = &config.training;
                config.context.window() * training.accumulation * training.batch_size
            };
            assert_eq!(tokens(&config), tokens(&base), "{}", method.name);
            assert_eq!(config.context.length, base.context.length, "{}", method.name);
            seen.push(config);
        }
        assert_eq!(named("longlora").unwrap().title, "LongLoRA");
        let error = named("long").unwrap_err();
        assert!(error.contains("`long`") && error.contains("lora-half-length"), "{error}");
    }
}
