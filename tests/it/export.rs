//! What other programs get: sharded folders, RoPE offsets as longrope factors, and a proof that they compute the same.

use burn::module::Module;
use burn::tensor::{DType, Device};
use longlora_adapters::{AdapterConfig, RopeGranularity, RopeKind, RopeOffsetConfig, RopeScaling};
use longlora_attention::AttentionPattern;
use longlora_llama::{Llama, Selection, agreement, collect, load_pretrained, save_pretrained};
use serde_json::json;

use crate::by_hand::{choice, divergence, logits};
use crate::fixture;
use crate::random::{config, redraw, tokens};

const VOCAB: usize = 37;

/// A model with learned offsets, all of its numbers drawn anew; its context is stretched from 64 to 256 tokens.
fn adapted(granularity: RopeGranularity, kind: RopeKind) -> Llama {
    let mut base = config(json!({})).init(&Device::default());
    base.config.rope.scaling = RopeScaling::stretch(kind, 64, 256);
    base.config.rope.max_position_embeddings = 256;
    let adapters = AdapterConfig {
        rope_offset: Some(RopeOffsetConfig::new(granularity)),
        ..AdapterConfig::longlora()
    };
    // Offsets and B matrices are zero at first.
    redraw(base.attach(&adapters, 0), 1).valid()
}

/// At the beginning of the text, from whole logits in f64.
#[test]
fn an_agreement_is_what_its_definition_says() {
    let [first, second] =
        [1, 2].map(|seed| redraw(config(json!({})).init(&Device::default()), seed));
    let text = tokens(40, VOCAB, 3);
    let [a, b] = [&first, &second].map(|llama| logits(llama, &text, AttentionPattern::Full));
    let rows = || a.iter().zip(&b);
    let nats: f64 = rows().map(|(a, b)| divergence(a, b)).sum();
    let same = rows().filter(|(a, b)| choice(a) == choice(b)).count();
    let largest = |entries: Vec<f64>| entries.into_iter().fold(0.0, f64::max);
    let apart = rows().flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
    let magnitudes = a.iter().flatten().map(|logit| logit.abs());

    let parts = agreement(&first, &second, &text);

    assert_eq!(parts.iter().map(|part| part.first_position).collect::<Vec<_>>(), [0, 24]);
    let part = &parts[0];
    assert_eq!((part.positions, part.same_choice), (40, same));
    assert!(same < 40, "two models that choose the same everywhere");
    for (ours, by_hand) in [
        (part.mean_divergence, nats / 40.0),
        (part.largest_difference, largest(apart.collect())),
        (part.largest_logit, largest(magnitudes.collect())),
    ] {
        assert!((ours / by_hand - 1.0).abs() < 1e-5, "{ours} instead of {by_hand}: {part:?}");
    }
}

#[track_caller]
fn check_shared(kind: RopeKind) {
    let llama = adapted(RopeGranularity::Shared, kind).merge();
    let exported = llama.clone().with_offsets_as_longrope().unwrap();
    let folder = tempfile::tempdir().unwrap();
    save_pretrained(&exported, folder.path(), DType::F32, u64::MAX).unwrap();
    let again = load_pretrained(folder.path(), &Device::default()).unwrap();

    let written = fixture::json(&folder.path().join("config.json"));
    assert_eq!(written["rope_scaling"]["rope_type"], "longrope", "{kind:?}");
    assert_eq!(written["max_position_embeddings"], 256, "{kind:?}");
    for part in agreement(&llama, &again, &tokens(200, VOCAB, 3)) {
        // Frequencies are divided and multiplied again: an angle at position 200 is off by a few of its last digits.
        let error = part.largest_difference / part.largest_logit;
        assert!(error < 3e-5, "{kind:?}: {part:?}");
    }
    // Without them it is another function: the comparison above is no tautology.
    let without = llama.clone().without_offsets();
    let parts = agreement(&llama, &without, &tokens(200, VOCAB, 3));
    assert!(parts.iter().any(|part| part.largest_difference > 1e-2), "{kind:?}: {parts:?}");
}

#[test]
fn shared_offsets_are_exported_as_longrope_factors() {
    for kind in [RopeKind::None, RopeKind::Linear, RopeKind::Ntk, RopeKind::Yarn, RopeKind::Llama3]
    {
        check_shared(kind);
    }
}

#[test]
fn offsets_that_no_other_program_has_are_refused_with_the_reason() {
    for granularity in [RopeGranularity::Head, RopeGranularity::Pair] {
        let llama = adapted(granularity, RopeKind::Linear).merge();
        let error = llama.clone().with_offsets_as_longrope().unwrap_err().to_string();
        let parts = ["differ between layers", "offsets that all share", "drop these"];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        // Left out, the rest is exported.
        llama.without_offsets().with_offsets_as_longrope().unwrap();
    }
    let dynamic = adapted(RopeGranularity::Shared, RopeKind::Dynamic).merge();
    let error = dynamic.with_offsets_as_longrope().unwrap_err().to_string();
    assert!(error.contains("dynamic NTK"), "{error}");
}

/// Offsets that training left at zero change nothing, and neither does their export.
#[test]
fn offsets_of_zero_are_left_out() {
    for granularity in [RopeGranularity::Head, RopeGranularity::Shared] {
        let adapters = AdapterConfig {
            rope_offset: Some(RopeOffsetConfig::new(granularity)),
            ..AdapterConfig::longlora()
        };
        let base = config(json!({})).init(&Device::default());
        let rope = base.config.rope.clone();
        let exported = base.attach(&adapters, 0).merge().with_offsets_as_longrope().unwrap();
        assert_eq!(exported.config.rope, rope);
        assert!(exported.model.rope_offset.is_none());
    }
}

/// Shards are no larger than asked for, the index names each tensor's, and all of them come back.
#[test]
fn a_large_model_is_cut_into_shards() {
    let llama = redraw(config(json!({})).init(&Device::default()), 4);
    let folder = tempfile::tempdir().unwrap();
    let limit = 6_000;
    save_pretrained(&llama, folder.path(), DType::F32, limit).unwrap();

    let index = fixture::json(&folder.path().join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let weights = collect(&llama, &Selection::Base);
    assert_eq!(map.keys().collect::<Vec<_>>(), weights.keys().collect::<Vec<_>>());
    let total: usize = weights.values().map(|tensor| tensor.as_bytes().len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let mut shards: Vec<&str> = map.values().map(|shard| shard.as_str().unwrap()).collect();
    shards.dedup();
    assert!(shards.len() > 3, "{shards:?}");
    for shard in shards {
        let header = 8 + 100 * weights.len() as u64;
        let size = folder.path().join(shard).metadata().unwrap().len();
        assert!(size <= limit + header, "{shard}: {size}");
    }
    assert!(!folder.path().join("model.safetensors").exists());
    let again = load_pretrained(folder.path(), &Device::default()).unwrap();
    assert_eq!(collect(&again, &Selection::Base), weights);
}
