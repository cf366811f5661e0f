//! Models as GGUF files: out and in again, and what the format cannot hold.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use longlora_adapters::{RopeKind, RopeScaling};
use longlora_gguf::{GgufFile, Metadata, TensorKind, Value as Entry};
use longlora_llama::{Llama, Selection, collect, load_pretrained, save_gguf};
use tempfile::TempDir;

use crate::fixture::{Tensors, golden};
use crate::random::redraw;
use crate::sentence;

const FAMILIES: [&str; 5] = ["llama_tied", "mistral_window", "mixtral", "qwen2", "qwen3"];

fn family(name: &str) -> Llama {
    let mut llama =
        load_pretrained(&golden(&format!("families/{name}")), &Device::default()).unwrap();
    // llama.cpp has no windows for Mistral.
    llama.config.windows.fill(None);
    llama
}

fn weights(llama: &Llama) -> Tensors {
    collect(llama, &Selection::Base)
}

fn saved(llama: &Llama, kind: TensorKind) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    save_gguf(llama, &path, kind, &Metadata::new()).unwrap();
    (folder, path)
}

fn load(path: &Path) -> Llama {
    load_pretrained(path, &Device::default()).unwrap()
}

#[test]
fn every_family_comes_back_bit_for_bit() {
    for name in FAMILIES {
        let llama = family(name);
        let (_folder, path) = saved(&llama, TensorKind::F32);
        let again = load(&path);
        assert_eq!(weights(&again), weights(&llama), "{name}");
        let (ours, theirs) = (&llama.config, &again.config);
        assert_eq!(theirs.rope, ours.rope, "{name}");
        assert_eq!(theirs.rms_norm_eps, ours.rms_norm_eps, "{name}");
        assert_eq!(theirs.experts, ours.experts, "{name}");
        assert_eq!(theirs.tie_word_embeddings, ours.tie_word_embeddings, "{name}");
        assert_eq!((theirs.qkv_bias, theirs.qk_norm), (ours.qkv_bias, ours.qk_norm), "{name}");
    }
}

/// Matrices are rounded once, vectors not at all.
#[test]
fn half_precision_rounds_matrices_once() {
    for (kind, dtype) in [(TensorKind::F16, DType::F16), (TensorKind::BF16, DType::BF16)] {
        let llama = family("qwen3");
        let (_folder, path) = saved(&llama, kind);
        for (name, again) in weights(&load(&path)) {
            let ours = weights(&llama).remove(&name).unwrap();
            let expected = match ours.shape().to_vec().len() {
                1 => ours,
                _ => ours.convert_dtype(dtype).convert_dtype(DType::F32),
            };
            assert_eq!(again, expected, "{kind}: {name}");
        }
    }
}

/// Rows that do not fill blocks of 32 are F16, as llama.cpp's converter has it.
#[test]
fn q8_0_is_close_and_falls_back_to_f16() {
    let llama = family("qwen2");
    let (_folder, path) = saved(&llama, TensorKind::Q8_0);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.tensor("blk.0.ffn_up.weight").unwrap().kind, TensorKind::Q8_0);
    assert_eq!(file.tensor("blk.0.ffn_down.weight").unwrap().kind, TensorKind::F16);
    assert_eq!(file.tensor("blk.0.attn_q.bias").unwrap().kind, TensorKind::F32);
    for (name, again) in weights(&load(&path)) {
        let ours = weights(&llama).remove(&name).unwrap();
        let largest = ours.iter::<f64>().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let mut off = ours.iter::<f64>().zip(again.iter::<f64>()).map(|(a, b)| (a - b).abs());
        // Half a step of 1/127 of a block's largest entry, and the rounding of the step to f16.
        assert!(off.all(|off| off <= largest / 127.0 * 0.51), "{name}");
    }
}

#[track_caller]
fn check_rope(scaling: RopeScaling, expected: Option<RopeScaling>) {
    let mut llama = family("llama_tied");
    llama.config.rope.scaling = scaling.clone();
    llama.config.rope.max_position_embeddings = 256;
    let (_folder, path) = saved(&llama, TensorKind::F32);
    let again = load(&path).config.rope;
    let expected = expected.unwrap_or(scaling);
    assert_eq!(again.scaling, expected);
    let (ours, theirs) = (llama.config.rope.frequencies(256), again.frequencies(256));
    assert_eq!(theirs.attention_factor, ours.attention_factor, "{expected:?}");
    for (ours, theirs) in ours.inv_freq.iter().zip(&theirs.inv_freq) {
        // Divisors are f32 in the file: two roundings.
        assert!((ours / theirs - 1.0).abs() < 3e-7, "{expected:?}");
    }
}

#[test]
fn rope_scalings_come_back() {
    check_rope(RopeScaling::None, None);
    check_rope(linear(None), None);
    check_rope(linear(Some(64)), None);
    check_rope(RopeScaling::stretch(RopeKind::Yarn, 64, 256), None);
    for factor in [1.0, 1.25] {
        let mut hot = RopeScaling::stretch(RopeKind::Yarn, 64, 256);
        let RopeScaling::Yarn { attention_factor, .. } = &mut hot else { panic!("it is YaRN") };
        *attention_factor = Some(factor);
        check_rope(hot, None);
    }
    check_rope(longrope(vec![1.5; 8], vec![4.0, 3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 1.0]), None);
    check_rope(longrope(vec![1.25; 8], vec![1.25; 8]), None);
    let llama3 = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    check_rope(llama3, None);
}

fn linear(original_max_position_embeddings: Option<usize>) -> RopeScaling {
    RopeScaling::Linear { factor: 4.0, original_max_position_embeddings }
}

fn longrope(short_factor: Vec<f64>, long_factor: Vec<f64>) -> RopeScaling {
    RopeScaling::LongRope {
        short_factor,
        long_factor,
        factor: None,
        original_max_position_embeddings: 64,
        attention_factor: Some(1.25),
    }
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Llama), parts: &[&str]) {
    let mut llama = family("llama_tied");
    change(&mut llama);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let error = save_gguf(&llama, &path, TensorKind::F32, &Metadata::new()).unwrap_err();
    let error = error.to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    assert!(!path.exists());
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused() {
    let dynamic = RopeScaling::stretch(RopeKind::Dynamic, 64, 128);
    check_refused(|llama| llama.config.rope.scaling = dynamic, &["dynamic NTK", "GGUF"]);
    check_refused(|llama| llama.config.windows.fill(Some(12)), &["sliding window", "`12`", "`64`"]);
    check_refused(|llama| llama.config.model_type = "seed_oss".to_owned(), &["`seed_oss`"]);
    check_refused(
        |llama| {
            llama.config.model_type = "qwen2".to_owned();
            llama.config.rope.scaling = longrope(vec![2.0; 8], vec![2.0; 8]);
        },
        &["`qwen2`", "divisors"],
    );
    let mut yarn = RopeScaling::stretch(RopeKind::Yarn, 64, 256);
    let RopeScaling::Yarn { beta_fast, .. } = &mut yarn else { panic!("it is YaRN") };
    *beta_fast = 16.0;
    check_refused(|llama| llama.config.rope.scaling = yarn, &["`beta_fast`", "`16`"]);
}

/// The file of a tiny model with other metadata, or without a tensor.
fn changed(change: impl FnOnce(&mut Metadata), without: Option<&str>) -> (TempDir, PathBuf) {
    let (folder, path) = saved(&family("llama_tied"), TensorKind::F32);
    let mut file = GgufFile::open(&path).unwrap();
    let mut metadata = Metadata::new();
    for (key, value) in file.metadata().iter() {
        metadata.insert(key, value.clone());
    }
    change(&mut metadata);
    let infos = file.tensors().to_vec();
    let kept = infos.iter().filter(|info| Some(info.name.as_str()) != without);
    let numbers: Vec<_> =
        kept.map(|info| (info.clone(), file.read_f32(&info.name).unwrap())).collect();
    let tensors = numbers.iter().map(|(info, numbers)| longlora_gguf::NewTensor {
        name: info.name.clone(),
        shape: info.shape.clone(),
        kind: TensorKind::F32,
        data: longlora_gguf::TensorData::Slice(numbers),
    });
    let changed = folder.path().join("changed.gguf");
    longlora_gguf::write(&changed, &metadata, tensors).unwrap();
    (folder, changed)
}

/// Reads such a file, and expects an error with these parts.
#[track_caller]
fn check_file(change: impl FnOnce(&mut Metadata), without: Option<&str>, parts: &[&str]) {
    let (_folder, changed) = changed(change, without);
    let error = load_pretrained(&changed, &Device::default()).unwrap_err();
    let path = changed.display().to_string();
    sentence::check(&error, &[parts, &[path.as_str()]].concat());
}

#[test]
fn a_file_that_is_no_model_of_ours_is_named() {
    let text = |text: &str| Entry::String(text.to_owned());
    check_file(|m| m.insert("general.architecture", text("gemma")), None, &["`gemma`", "`llama`"]);
    check_file(
        |m| m.insert("general.architecture", Entry::U32(1)),
        None,
        &["general.architecture"],
    );
    check_file(|m| m.insert("llama.block_count", Entry::U32(3)), None, &["blk.2."]);
    check_file(|m| m.insert("llama.block_count", Entry::U32(1)), None, &["blk.1."]);
    check_file(|m| m.insert("llama.block_count", text("two")), None, &["llama.block_count"]);
    check_file(|m| m.insert("llama.feed_forward_length", Entry::U32(8)), None, &["shape"]);
    check_file(|m| m.insert("llama.attention.head_count", Entry::U32(0)), None, &["heads"]);
    check_file(|m| m.insert("llama.attention.head_count_kv", Entry::U32(3)), None, &["`3`"]);
    check_file(|m| m.insert("llama.rope.dimension_count", Entry::U32(8)), None, &["`0.5`"]);
    check_file(|m| m.insert("llama.rope.scaling.type", text("spiral")), None, &["`spiral`"]);
    check_file(|m| m.insert("llama.rope.scaling.type", text("yarn")), None, &["factor"]);
    check_file(|m| m.insert("llama.rope.scaling.type", text("longrope")), None, &["rope_factors"]);
    for number in [f32::NAN, f32::INFINITY] {
        check_file(|m| m.insert("llama.rope.freq_base", Entry::F32(number)), None, &["freq_base"]);
        let epsilon = "llama.attention.layer_norm_rms_epsilon";
        check_file(|m| m.insert(epsilon, Entry::F32(number)), None, &["rms_epsilon"]);
    }
    check_file(|m| m.insert("split.count", Entry::U32(2)), None, &["`split.count`", "--merge"]);
    // What llama.cpp would heed.
    check_file(|m| m.insert("llama.logit_scale", Entry::F32(2.0)), None, &["`llama.logit_scale`"]);
    check_file(|m| m.insert("llama.rope.scale_linear", Entry::F32(2.0)), None, &["scale_linear"]);
    let temperature = "llama.rope.scaling.attn_factor";
    check_file(|m| m.insert(temperature, Entry::F32(1.5)), None, &["attn_factor"]);
    // Numbers that would take the memory of a city.
    for key in ["block_count", "attention.head_count"] {
        let key = format!("llama.{key}");
        check_file(|m| m.insert(key, Entry::U32(u32::MAX)), None, &["`4294967295`"]);
    }
    check_file(|_| (), Some("token_embd.weight"), &["token_embd.weight"]);
    check_file(|_| (), Some("blk.1.attn_k.weight"), &["blk.1.attn_k.weight"]);
}

/// llama.cpp takes a factor without a type for linear interpolation.
#[test]
fn a_factor_without_a_type_is_linear() {
    let factor = |m: &mut Metadata| m.insert("llama.rope.scaling.factor", Entry::F32(4.0));
    let (_folder, changed) = changed(factor, None);
    assert_eq!(load(&changed).config.rope.scaling, linear(None));
}

/// A model whose numbers were drawn anew is another model: the comparison above is no tautology.
#[test]
fn another_model_is_another_file() {
    let llama = family("llama_tied");
    let (_folder, path) = saved(&redraw(llama.clone(), 5), TensorKind::F32);
    assert_ne!(weights(&load(&path)), weights(&llama));
}
