//! What changes nothing: packing, batching, merging, attaching, saving.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, TensorData};
use longlora_adapters::{AdapterConfig, LoraConfig, RopeGranularity, RopeOffsetConfig};
use longlora_attention::{AttentionPattern, GroupSize, Layout, Row, Shift};
use longlora_data::{TokenBatch, Window};
use longlora_llama::{
    Llama, MAX_SHARD_BYTES, Selection, collect, load_pretrained, read_tensors, save_pretrained,
    write_tensors,
};
use proptest::prelude::*;
use serde_json::{Map, json};

use crate::fixture::{Tensors, step_batch, windows, write_json};
use crate::gradients::absolute_error;
use crate::random::{config, redraw, tokens};

const VOCAB: usize = 37;

/// Groups of a third of the row, which depend on its length.
const SHIFTED: AttentionPattern =
    AttentionPattern::Shifted { group_size: GroupSize::Ratio(0.34), shift: Shift::HalfHeads };

fn model(seed: u64) -> Llama {
    redraw(config(json!({})).init(&Device::default()), seed)
}

/// Negative log-likelihood of each position, padding left out, row after row; zero where there is no target.
fn nll(llama: &Llama, pattern: AttentionPattern, windows: &[Window]) -> Vec<f32> {
    let batch = TokenBatch::from_windows(windows, 0);
    let row = |window: &Window| Row {
        length: window.tokens.len(),
        document_starts: window.document_starts.clone(),
    };
    let layout = Layout { seq: batch.seq, rows: windows.iter().map(row).collect() };
    let hidden = llama.hidden(batch.inputs(&llama.device()), &llama.pass(pattern, &layout));
    let nll = llama.nll(hidden.flatten(0, 1), batch.target_ids());
    let rows = nll.chunks(batch.seq).zip(&batch.lengths);
    rows.flat_map(|(row, &length)| row[..length].to_vec()).collect()
}

/// Losses here are about 4 nats; only the order of summation and the rounding of a rotation by larger positions differ.
/// 4e-6 was the largest difference in 4,000 cases.
#[track_caller]
fn check(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    for (position, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let error = (ours - theirs).abs();
        assert!(error <= 1e-5, "position {position}: {ours} instead of {theirs}");
    }
}

fn logits(llama: &Llama, pattern: AttentionPattern, ids: &[u32]) -> TensorData {
    let batch = step_batch(&[ids.to_vec()]);
    let pass = llama.pass(pattern, &Layout::dense(1, ids.len()));
    llama.logits(batch.micro_batches[0].inputs(&llama.device()), &pass).into_data()
}

fn adapters(granularity: RopeGranularity) -> AdapterConfig {
    AdapterConfig {
        rope_offset: Some(RopeOffsetConfig::new(granularity)),
        ..AdapterConfig::longlora()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Documents of a window do not see each other, and RoPE knows distances alone.
    #[test]
    fn a_packed_window_is_its_documents_one_by_one(
        lengths in prop::collection::vec(1..12usize, 1..5), window in 1..9usize, seed: u64,
    ) {
        let llama = model(seed);
        let documents: Vec<Vec<u32>> = (0..)
            .zip(&lengths)
            .map(|(n, &length)| tokens(length, VOCAB, seed.wrapping_add(n)))
            .collect();
        let starts = lengths.iter().scan(0, |next, length| {
            let start = *next;
            *next += length;
            Some(start)
        });
        let packed = Window::new(documents.concat(), starts.collect());
        for pattern in [AttentionPattern::Full, AttentionPattern::SlidingWindow { window }] {
            let together = nll(&llama, pattern, std::slice::from_ref(&packed));
            let alone: Vec<f32> = windows(&documents)
                .chunks(1)
                .flat_map(|document| nll(&llama, pattern, document))
                .collect();
            check(&together, &alone);
        }
    }

    /// Rows of a batch do not see each other, nor does anyone see padding.
    #[test]
    fn a_batch_is_its_rows_one_by_one(
        lengths in prop::collection::vec(1..24usize, 1..4), seed: u64,
    ) {
        let llama = model(seed);
        let rows: Vec<Vec<u32>> = (0..)
            .zip(&lengths)
            .map(|(n, &length)| tokens(length, VOCAB, seed.wrapping_add(n)))
            .collect();
        for pattern in [AttentionPattern::Full, SHIFTED] {
            let together = nll(&llama, pattern, &windows(&rows));
            let alone: Vec<f32> =
                windows(&rows).chunks(1).flat_map(|row| nll(&llama, pattern, row)).collect();
            check(&together, &alone);
        }
    }

    /// B is zero and so are the offsets: the model computes what it did, to the bit.
    #[test]
    fn fresh_adapters_change_no_bit(length in 1..24usize, seed: u64) {
        for granularity in [RopeGranularity::Head, RopeGranularity::Pair, RopeGranularity::Shared] {
            let llama = model(seed);
            let ids = tokens(length, VOCAB, seed);
            let before = logits(&llama, SHIFTED, &ids);
            let after = logits(&llama.attach(&adapters(granularity), seed), SHIFTED, &ids);
            prop_assert_eq!(before, after);
        }
    }

    /// `x·W + scale·(x·A)·B = x·(W + scale·A·B)`, offsets staying beside the weights.
    #[test]
    fn a_merged_model_computes_the_same(
        length in 1..24usize, rank in 1..6usize, alpha in 0.5..4.0f64, seed: u64,
    ) {
        let lora = LoraConfig { rank, alpha, ..LoraConfig::default() };
        let adapters =
            AdapterConfig { lora: Some(lora), ..adapters(RopeGranularity::Head) };
        let llama = config(json!({})).init(&Device::default()).attach(&adapters, seed);
        let llama = redraw(llama, seed);
        let ids = tokens(length, VOCAB, seed);
        let before = logits(&llama, SHIFTED, &ids);
        let merged = llama.merge();
        let error = absolute_error(&logits(&merged, SHIFTED, &ids), &before);
        // 1.0e-4 was the largest of 4,000 cases: rank 1, alpha near 4, a softmax that is nearly a maximum.
        prop_assert!(error < 3e-4, "off by {}", error);
        let offsets = Selection::Adapter(AdapterConfig { lora: None, ..adapters });
        let deltas = collect(&merged, &offsets).into_keys().filter(|name| name.ends_with("delta"));
        prop_assert_eq!(deltas.count(), 3);
    }
}

/// The weights as a file of type `dtype` holds them, as f32 again.
fn rounded(tensors: &Tensors, dtype: DType) -> Tensors {
    let round = |tensor: &TensorData| tensor.clone().convert_dtype(dtype).convert_dtype(DType::F32);
    tensors.iter().map(|(name, tensor)| (name.clone(), round(tensor))).collect()
}

/// Saves a model, loads it again, and expects the same bits, rounded once to `dtype`; `reshape` may rewrite the folder
/// in between.
#[track_caller]
fn check_folder(tied: bool, dtype: DType, reshape: impl Fn(&Path)) {
    let llama = redraw(config(json!({ "tie_word_embeddings": tied })).init(&Device::default()), 3);
    let folder = tempfile::tempdir().unwrap();
    save_pretrained(&llama, folder.path(), dtype, MAX_SHARD_BYTES).unwrap();
    reshape(folder.path());

    let loaded = load_pretrained(folder.path(), &Device::default()).unwrap();
    let weights = |llama: &Llama| collect(llama, &Selection::Base);
    assert_eq!(weights(&loaded), rounded(&weights(&llama), dtype), "tied: {tied}, {dtype:?}");
    if dtype == DType::F32 {
        let ids = tokens(19, VOCAB, 4);
        assert_eq!(logits(&loaded, SHIFTED, &ids), logits(&llama, SHIFTED, &ids));
    }
}

#[test]
fn a_saved_model_is_loaded_bit_for_bit() {
    for tied in [false, true] {
        check_folder(tied, DType::F32, |_| {});
        check_folder(tied, DType::F16, |_| {});
        check_folder(tied, DType::BF16, |_| {});
    }
}

/// Splits `model.safetensors` as Hugging Face does: shards, and an index that names the shard of each tensor.
fn shard(folder: &Path) {
    let single = folder.join("model.safetensors");
    let tensors = read_tensors(&single).unwrap();
    fs::remove_file(single).unwrap();
    let mut map = Map::new();
    let mut shards = vec![Tensors::new(); 3];
    for (n, (name, tensor)) in tensors.into_iter().enumerate() {
        // Not in the order of the names.
        let number = n * 7 % 3;
        map.insert(name.clone(), format!("model-{:05}-of-00003.safetensors", number + 1).into());
        shards[number].insert(name, tensor);
    }
    for (number, shard) in (1..).zip(&shards) {
        let path = folder.join(format!("model-{number:05}-of-00003.safetensors"));
        write_tensors(&path, shard).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    write_json(&folder.join("model.safetensors.index.json"), &index);
}

#[test]
fn a_sharded_model_is_loaded_bit_for_bit() {
    check_folder(false, DType::F32, shard);
    check_folder(true, DType::BF16, shard);
}

/// Old checkpoints carry tables that are computed, and tied ones the head once more.
#[test]
fn tensors_that_are_known_to_be_redundant_are_passed_over() {
    check_folder(true, DType::F32, |folder| {
        let path = folder.join("model.safetensors");
        let mut tensors = read_tensors(&path).unwrap();
        let head = tensors["model.embed_tokens.weight"].clone();
        let table = tensors["model.norm.weight"].clone();
        tensors.insert("lm_head.weight".to_owned(), head);
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), table);
        write_tensors(&path, &tensors).unwrap();
    });
}

#[test]
fn a_model_on_the_autodiff_device_computes_the_same_bits() {
    let llama = model(6);
    let on_autodiff = redraw(config(json!({})).init(&Device::default().autodiff()), 6);
    let ids = tokens(21, VOCAB, 5);
    let ours = logits(&llama, SHIFTED, &ids);
    assert_eq!(ours, logits(&on_autodiff, SHIFTED, &ids));
    assert_eq!(ours, logits(&on_autodiff.valid(), SHIFTED, &ids));
}

#[test]
#[should_panic(expected = "has an adapter already")]
fn a_trained_adapter_is_not_lost_to_a_second_one() {
    let only_lora = AdapterConfig { rope_offset: None, ..adapters(RopeGranularity::Head) };
    config(json!({})).init(&Device::default()).attach(&only_lora, 1).attach(&only_lora, 2);
}
