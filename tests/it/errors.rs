//! A user's mistakes: each is one sentence that names the file and the value. Nothing panics, nothing is passed over.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use longlora_llama::{Llama, load_pretrained, read_tensors, write_tensors};
use longlora_train::FinetuneConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{self, golden, model_with, read, write, write_json};
use crate::sentence::check;

fn load(model: &Path) -> Result<Llama, longlora_llama::LlamaError> {
    load_pretrained(model, &Device::default())
}

/// The tiny model, in a folder of its own, with some of its `config.json` changed.
fn tiny(changes: Value) -> TempDir {
    model_with(&golden("tiny/model"), changes)
}

/// Loads the tiny model with some of its `config.json` changed.
#[track_caller]
fn check_config(changes: Value, parts: &[&str]) {
    let model = tiny(changes);
    let path = model.path().join("config.json").display().to_string();
    check(&load(model.path()).unwrap_err(), &[parts, &[path.as_str()]].concat());
}

/// Loads the tiny model after `spoil` changed its weights.
#[track_caller]
fn check_weights(spoil: impl Fn(&Path), parts: &[&str]) {
    let model = tiny(json!({}));
    spoil(&model.path().join("model.safetensors"));
    let folder = model.path().display().to_string();
    check(&load(model.path()).unwrap_err(), &[parts, &[folder.as_str()]].concat());
}

#[test]
fn a_path_that_is_no_model_folder_is_named() {
    check(&load(Path::new("no/such/model")).unwrap_err(), &["`no/such/model`"]);
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().display().to_string();
    check(&load(empty.path()).unwrap_err(), &[&path, "no `config.json`"]);
    let weightless = tiny(json!({}));
    fs::remove_file(weightless.path().join("model.safetensors")).unwrap();
    let path = weightless.path().display().to_string();
    check(&load(weightless.path()).unwrap_err(), &[&path, "no `model.safetensors`"]);
}

/// A head that is the table of embeddings may lie under either name; two that differ cannot both be kept.
#[test]
fn a_tied_head_is_one_table() {
    let model = tiny(json!({ "tie_word_embeddings": true }));
    let file = model.path().join("model.safetensors");
    let mut tensors = read_tensors(&file).unwrap();
    let table = tensors["model.embed_tokens.weight"].clone();
    let loaded = || {
        let llama = load(model.path()).unwrap();
        llama.model.embed_tokens.weight.val().into_data()
    };
    tensors.insert("lm_head.weight".to_owned(), table.clone());
    write_tensors(&file, &tensors).unwrap();
    assert_eq!(loaded(), table);

    tensors.remove("model.embed_tokens.weight");
    write_tensors(&file, &tensors).unwrap();
    assert_eq!(loaded(), table);

    tensors.insert("model.embed_tokens.weight".to_owned(), table.clone());
    let zeros = TensorData::zeros::<f32, _>(table.shape().clone());
    tensors.insert("lm_head.weight".to_owned(), zeros);
    write_tensors(&file, &tensors).unwrap();
    let path = model.path().display().to_string();
    check(&load(model.path()).unwrap_err(), &["`lm_head.weight`", "tie_word_embeddings", &path]);
}

#[test]
fn names_without_the_prefix_of_a_whole_model_are_found() {
    let model = tiny(json!({ "tie_word_embeddings": true }));
    let file = model.path().join("model.safetensors");
    let tensors = read_tensors(&file).unwrap().into_iter();
    let short = |name: String| name.trim_start_matches("model.").to_owned();
    let tensors = tensors.map(|(name, tensor)| (short(name), tensor)).collect();
    write_tensors(&file, &tensors).unwrap();
    load(model.path()).unwrap();
}

#[test]
fn weights_of_a_few_bits_are_named() {
    let spoil = |file: &Path| {
        let mut tensors = read_tensors(file).unwrap();
        let name = "model.layers.0.self_attn.q_proj.weight";
        let weight = tensors.remove(name).unwrap();
        tensors.insert(name.replace("weight", "qweight"), weight);
        write_tensors(file, &tensors).unwrap();
    };
    check_weights(spoil, &["q_proj.qweight", "quantised", "quantised from"]);
}

#[test]
fn no_number_of_key_heads_is_as_many_as_there_are_heads() {
    let changes = json!({ "num_key_value_heads": null, "model_type": "mistral" });
    let config = tiny(changes);
    let config = longlora_llama::LlamaConfig::read(config.path()).unwrap();
    assert_eq!(config.num_key_value_heads, config.num_attention_heads);
}

#[test]
fn a_config_that_is_no_json_or_lacks_a_key_is_named() {
    let model = tiny(json!({}));
    let config = model.path().join("config.json");
    for text in ["", "{", "[]", "hello", "{\"model_type\": \"llama\"}"] {
        write(&config, text);
        check(&load(model.path()).unwrap_err(), &[&config.display().to_string()]);
    }
    let lacking = json!({ "model_type": "llama", "hidden_size": 64 });
    write_json(&config, &lacking);
    let error = load(model.path()).unwrap_err();
    check(&error, &["missing field `intermediate_size`"]);
    assert!(!error.to_string().contains("`64`"), "{error}");
    check_config(json!({ "hidden_size": null }), &["null"]);
    check_config(json!({ "vocab_size": "many" }), &["`vocab_size`", "many"]);
    check_config(json!({ "num_hidden_layers": -2 }), &["`num_hidden_layers`", "-2"]);
    check_config(json!({ "eos_token_id": 0.5 }), &["`eos_token_id`", "0.5"]);
}

#[test]
fn what_would_be_ignored_is_refused() {
    check_config(json!({ "model_type": "gemma" }), &["`model_type`", "`gemma`", "`llama`"]);
    check_config(json!({ "model_type": null }), &["`model_type`", "`null`"]);
    check_config(json!({ "model_type": -1 }), &["`model_type`", "`-1`"]);
    let rope = json!({ "rope_type": "default", "partial_rotary_factor": 0.5 });
    check_config(json!({ "rope_parameters": rope }), &["`partial_rotary_factor`", "`0.5`"]);
    check_config(json!({ "hidden_act": "gelu" }), &["`hidden_act`", "`gelu`", "`silu`"]);
    check_config(json!({ "attention_bias": "yes" }), &["`attention_bias`", "`\"yes\"`"]);
    for (family, key) in [("mistral", "attention_bias"), ("qwen3", "mlp_bias")] {
        check_config(json!({ "model_type": family, key: true }), &[key, "`true`"]);
    }
    check_config(json!({ "quantization_config": {} }), &["`quantization_config`", "GGUF"]);
    let qwen = |mut more: Value| {
        more["model_type"] = "qwen2".into();
        more["use_sliding_window"] = true.into();
        more["sliding_window"] = 16.into();
        more
    };
    let types = json!({ "layer_types": ["full_attention", "linear_attention"] });
    check_config(qwen(types), &["`layer_types`", "`linear_attention`"]);
    check_config(qwen(json!({ "layer_types": ["full_attention"] })), &["`layer_types`", "1"]);
    let mixtral = |key: &str, value: Value| json!({ "model_type": "mixtral", key: value });
    check_config(mixtral("num_experts_per_tok", json!(9)), &["`9`", "`8`"]);
    check_config(mixtral("router_jitter_noise", json!(0.1)), &["`router_jitter_noise`", "`0.1`"]);
    check_config(mixtral("output_router_logits", json!(true)), &["`output_router_logits`"]);
    check_config(json!({ "sliding_window": 4096 }), &["`sliding_window`", "`4096`"]);
    check_config(json!({ "partial_rotary_factor": 0.5 }), &["`partial_rotary_factor`", "`0.5`"]);
}

/// What is meant to be there is not made up.
#[test]
fn biases_and_norms_that_a_config_promises_have_to_be_there() {
    for (change, tensor) in [
        (json!({ "attention_bias": true }), "q_proj.bias"),
        (json!({ "mlp_bias": true }), "gate_proj.bias"),
        (json!({ "model_type": "qwen2" }), "q_proj.bias"),
        (json!({ "model_type": "qwen3" }), "q_norm.weight"),
        (json!({ "model_type": "mixtral" }), "block_sparse_moe"),
    ] {
        let model = tiny(change);
        check(&load(model.path()).unwrap_err(), &["lacks tensor", tensor]);
    }
}

#[test]
fn sizes_that_contradict_each_other_are_refused() {
    check_config(
        json!({ "num_key_value_heads": 3 }),
        &["`num_attention_heads`", "`4`", "`num_key_value_heads`", "`3`"],
    );
    check_config(json!({ "num_key_value_heads": 0 }), &["`num_key_value_heads`", "`0`"]);
    for key in ["num_hidden_layers", "head_dim", "hidden_size", "vocab_size"] {
        check_config(json!({ key: 4_000_000_000_u64 }), &[key, "`4000000000`"]);
    }
    check_config(json!({ "num_attention_heads": 0 }), &["no heads"]);
    check_config(json!({ "num_hidden_layers": 0 }), &["layers"]);
    check_config(json!({ "head_dim": 15 }), &["head_dim", "`15`"]);
    check_config(json!({ "hidden_size": 0, "head_dim": 16 }), &["`hidden_size`", "`0`"]);
    check_config(json!({ "intermediate_size": 0 }), &["`intermediate_size`", "`0`"]);
    for epsilon in [0.0, -1.0, 1e300, 1e-300] {
        check_config(json!({ "rms_norm_eps": epsilon }), &["`rms_norm_eps`", "positive"]);
    }
    check_config(json!({ "max_position_embeddings": 1_u64 << 32 }), &["`4294967296`", "at most"]);
}

#[test]
fn rope_scalings_that_cannot_be_are_refused() {
    let scaling = |value: Value| json!({ "rope_scaling": value });
    check_config(scaling(json!({ "rope_type": "bogus" })), &["`bogus`", "linear"]);
    check_config(scaling(json!({ "rope_type": "linear" })), &["`factor`", "`linear`"]);
    check_config(scaling(json!({ "rope_type": "linear", "factor": 0.5 })), &["`factor`", "`0.5`"]);
    check_config(scaling(json!({ "rope_type": "yarn", "factor": "4" })), &["`factor`", "\"4\""]);
    check_config(scaling(json!(4)), &["`4`"]);
}

#[test]
fn torn_weights_are_found_wherever_they_end() {
    let whole = read(&golden("tiny/model/model.safetensors"));
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.len() - 1] {
        let cut = |path: &Path| write(path, &whole[..length]);
        check_weights(cut, &["not a whole safetensors file", "fetch or copy it again"]);
    }
    let longer = |path: &Path| write(path, [whole.clone(), vec![0; 4]].concat());
    check_weights(longer, &["not a whole safetensors file", &format!("`{}`", whole.len() + 4)]);
}

#[test]
fn headers_that_cannot_be_are_refused_before_memory_is_asked_for() {
    let whole = read(&golden("tiny/model/model.safetensors"));
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, 100_000_001, whole.len() as u64] {
        let spoiled = |path: &Path| write(path, [&length.to_le_bytes(), &whole[8..]].concat());
        check_weights(spoiled, &["not a whole safetensors file", &format!("`{length}`")]);
    }
    let tensor = |dtype: &str, shape: Value, end: u64| {
        json!({ "x": { "dtype": dtype, "shape": shape, "data_offsets": [0, end] } }).to_string()
    };
    let headers = [
        "x".repeat(64),
        "{\"x\": 1}".to_owned(),
        "[]".to_owned(),
        tensor("F32", json!([4]), 4),
        tensor("F32", json!([1u64 << 62, 4]), 4),
        tensor("F32", json!([1]), u64::MAX),
        tensor("F999", json!([1]), 4),
    ];
    for header in headers {
        let length = (header.len() as u64).to_le_bytes();
        let file = [&length, header.as_bytes(), &[0; 4]].concat();
        check_weights(|path| write(path, &file), &["not a whole safetensors file"]);
    }
}

/// Rewrites the weights with one tensor changed.
fn rewrite(path: &Path, change: impl Fn(&mut fixture::Tensors)) {
    let mut tensors = read_tensors(path).unwrap();
    change(&mut tensors);
    write_tensors(path, &tensors).unwrap();
}

#[test]
fn missing_misshapen_and_left_over_tensors_are_named() {
    const NAME: &str = "model.layers.1.mlp.up_proj.weight";
    let missing = |path: &Path| {
        rewrite(path, |tensors| assert!(tensors.remove(NAME).is_some()));
    };
    check_weights(missing, &["lacks", NAME]);
    let misshapen = |path: &Path| {
        rewrite(path, |tensors| {
            let tensor = TensorData::new(vec![0f32; 64 * 111], [111, 64]);
            tensors.insert(NAME.to_owned(), tensor);
        });
    };
    check_weights(misshapen, &[NAME, "[111, 64]", "[112, 64]"]);
    // As many entries, but turned: the square projections would not notice by their size.
    let turned = |path: &Path| {
        rewrite(path, |tensors| {
            let tensor = TensorData::new(vec![0f32; 64 * 112], [64, 112]);
            tensors.insert(NAME.to_owned(), tensor);
        });
    };
    check_weights(turned, &[NAME, "[64, 112]", "[112, 64]"]);
    let left_over = |path: &Path| {
        rewrite(path, |tensors| {
            let tensor = TensorData::new(vec![0f32; 64], [64]);
            tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), tensor);
        });
    };
    check_weights(left_over, &["model.layers.0.self_attn.q_proj.bias", "no place"]);
    check_config_of_other_size();
}

/// One layer more or less than the file holds.
#[track_caller]
fn check_config_of_other_size() {
    let model = tiny(json!({ "num_hidden_layers": 3 }));
    check(&load(model.path()).unwrap_err(), &["lacks", "model.layers.2."]);
    let model = tiny(json!({ "num_hidden_layers": 1 }));
    check(&load(model.path()).unwrap_err(), &["model.layers.1.", "no place"]);
    // An untied model whose config says tied: its head would be ignored only if it were the table.
    let model = tiny(json!({ "vocab_size": 95 }));
    check(&load(model.path()).unwrap_err(), &["[96, 64]", "[95, 64]"]);
}

#[test]
fn weights_that_are_no_floats_are_refused() {
    let header = json!({
        "model.embed_tokens.weight": { "dtype": "I8", "shape": [4], "data_offsets": [0, 4] },
    })
    .to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat();
    check_weights(|path| write(path, &file), &["`model.embed_tokens.weight`", "I8"]);
}

#[test]
fn a_missing_or_lying_shard_is_named() {
    let shards = |map: Value| {
        let model = tiny(json!({}));
        let single = model.path().join("model.safetensors");
        fs::rename(single, model.path().join("model-00001-of-00002.safetensors")).unwrap();
        let index = model.path().join("model.safetensors.index.json");
        write_json(&index, &json!({ "weight_map": map }));
        let error = load(model.path()).unwrap_err();
        (model, error)
    };
    let name = "model.embed_tokens.weight";
    let (_folder, error) = shards(json!({ name: "model-00002-of-00002.safetensors" }));
    check(&error, &["cannot open", "model-00002-of-00002.safetensors"]);
    let (_folder, error) = shards(json!({ name: "model-00001-of-00002.safetensors" }));
    check(&error, &["lacks tensor `model.layers.0.self_attn.q_proj.weight`"]);
    let (_folder, error) = shards(json!({ "model.extra": "model-00001-of-00002.safetensors" }));
    check(&error, &["lacks tensor `model.embed_tokens.weight`"]);
    let (_folder, error) = shards(json!([1]));
    check(&error, &["model.safetensors.index.json"]);
}

/// A run description with a mistake.
#[track_caller]
fn check_run(change: impl Fn(&str) -> String, parts: &[&str]) {
    let good = FinetuneConfig::longlora("model".into(), "data".into(), 512).to_toml();
    let path = Path::new("runs/mine.toml");
    assert!(FinetuneConfig::from_toml(&good, path).is_ok());
    let changed = change(&good);
    assert_ne!(changed, good, "nothing was changed");
    let parsed = FinetuneConfig::from_toml(&changed, path);
    match parsed.map(|config| config.validate()) {
        Err(error) => check(&error, &[parts, &["runs/mine.toml"]].concat()),
        Ok(checked) => check(&checked.unwrap_err(), parts),
    }
}

#[test]
fn a_run_file_with_a_mistake_is_named_with_the_key() {
    let error = FinetuneConfig::read(Path::new("no/such/run.toml")).unwrap_err();
    check(&error, &["cannot read", "`no/such/run.toml`"]);
    check_run(|text| text.replace("accumulation", "acumulation"), &["acumulation", "accumulation"]);
    check_run(|text| text.replace("seed = 0\n", ""), &["seed"]);
    check_run(|text| text.replace("seed = 0", "seed = \"zero\""), &["`seed = \"zero\"`", "line 1"]);
    check_run(|text| text.replace("seed = 0", "seed = = 0"), &["`seed = = 0`", "line 1"]);
    check_run(|text| text.replace("linear", "bogus"), &["bogus", "linear"]);
    check_run(|text| text.replace("q_proj", "c_attn"), &["c_attn", "q_proj"]);
}

#[test]
fn a_run_that_cannot_be_is_named_by_its_number() {
    let value = |from: &'static str, to: &'static str| move |text: &str| text.replace(from, to);
    check_run(value("length = 512", "length = 1"), &["`context.length`", "`1`"]);
    check_run(value("fraction = 0.05", "fraction = 1.0"), &["held_out", "`1`"]);
    check_run(value("ratio = 0.25", "ratio = 0.0"), &["group ratio", "`0`"]);
    check_run(value("ratio = 0.25", "tokens = 7"), &["group size", "`7`"]);
    check_run(value("ratio = 0.25", "tokens = 512"), &["group size", "`512`"]);
    check_run(value("rank = 8", "rank = 0"), &["rank", "`0`"]);
    check_run(value("dropout = 0.0", "dropout = 1.0"), &["dropout", "`1`"]);
    check_run(value("\nsteps = 1000", "\nsteps = 0"), &["`training.steps`", "`0`"]);
    check_run(value("accumulation = 8", "accumulation = 0"), &["`training.accumulation`", "`0`"]);
    check_run(value("epsilon = ", "epsilon = 0.0 #"), &["`training.epsilon`", "`0`"]);
    check_run(value("max_grad_norm = 1.0", "max_grad_norm = -1.0"), &["max_grad_norm", "`-1`"]);
    check_run(value("betas = [0.9, 0.95]", "betas = [0.9, 1.0]"), &["`training.betas`", "1.0"]);
    check_run(value("rope_offsets = ", "rope_offsets = nan #"), &["rope_offsets", "`NaN`"]);
}
