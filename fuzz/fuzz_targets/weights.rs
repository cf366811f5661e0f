//! Any bytes are the weights of a model, or the index of their files, or an error that names the file.
#![no_main]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs, process};

use burn::tensor::{DType, Device};
use libfuzzer_sys::fuzz_target;
use longlora_llama::{
    LlamaConfig, LlamaError, MAX_SHARD_BYTES, load_pretrained, read_tensors, save_pretrained,
};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = r#"{
    "model_type": "llama", "hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 1, "vocab_size": 2, "max_position_embeddings": 8
}"#;

/// Two models of this process: one whose weights are the input, one whose index is, beside whole weights.
static MODELS: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    let folder = env::temp_dir().join(format!("longlora-fuzz-weights-{}", process::id()));
    let (single, sharded) = (folder.join("single"), folder.join("sharded"));
    for model in [&single, &sharded] {
        fs::create_dir_all(model).expect("a folder");
        fs::write(model.join("config.json"), CONFIG).expect("a file");
    }
    let whole = LlamaConfig::read(&single).expect("a configuration").init(&Device::default());
    save_pretrained(&whole, &single, DType::F32, MAX_SHARD_BYTES).expect("a model");
    load_pretrained(&single, &Device::default()).expect("what we wrote");
    fs::copy(single.join(WEIGHTS), sharded.join("whole.safetensors")).expect("a copy");
    (single, sharded)
});

fuzz_target!(|bytes: &[u8]| {
    let (single, sharded) = &*MODELS;
    weights(single, bytes);
    // A length that fits and as much data as the last bytes say, so that mutations of the header get further.
    if let Some((header, data)) = bytes.split_last_chunk() {
        let length = (header.len() as u64).to_le_bytes();
        let data = vec![0; u16::from_le_bytes(*data).into()];
        weights(single, &[&length, header, &data].concat());
    }
    fs::write(sharded.join(INDEX), bytes).expect("a file");
    let loaded = load_pretrained(sharded, &Device::default());
    check(loaded, sharded);
});

fn weights(model: &Path, bytes: &[u8]) {
    let path = model.join(WEIGHTS);
    fs::write(&path, bytes).expect("a file");
    if let Some(tensors) = check(read_tensors(&path), &path) {
        let read: usize = tensors.values().map(|tensor| tensor.as_bytes().len()).sum();
        assert!(read <= bytes.len(), "more was read than is there");
    }
    check(load_pretrained(model, &Device::default()), model);
}

fn check<T>(read: Result<T, LlamaError>, path: &Path) -> Option<T> {
    read.map_err(|error| {
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        let sentence = format!("{error}: {cause}");
        assert!(sentence.contains(&path.display().to_string()), "{sentence}");
        assert!(!sentence.contains(char::is_control) && sentence.len() < 4000, "{sentence}");
    })
    .ok()
}
