//! PyTorch's own files: read as safetensors are, whole or not at all.

use std::path::Path;

use burn::tensor::{DType, Device};
use longlora_llama::{Llama, LlamaError, Selection, collect, load_pretrained};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{Tensors, golden, read, write, write_json};

fn load(folder: &Path) -> Result<Llama, LlamaError> {
    load_pretrained(folder, &Device::default())
}

fn weights(llama: &Llama) -> Tensors {
    collect(llama, &Selection::Base)
}

/// The tiny model, its weights in files of `tests/golden/pickles`, each under a name of its own.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = "config.json";
    write(&folder.path().join(config), read(&golden("tiny/model").join(config)));
    for (file, name) in files {
        write(&folder.path().join(name), read(&golden("pickles").join(file)));
    }
    folder
}

/// What safetensors has, rounded as the file was.
fn expected(round: impl Fn(&str) -> DType) -> Tensors {
    let tensors = weights(&load(&golden("tiny/model")).unwrap()).into_iter();
    let rounded = tensors.map(|(name, tensor)| {
        let tensor = tensor.convert_dtype(round(&name)).convert_dtype(DType::F32);
        (name, tensor)
    });
    rounded.collect()
}

#[test]
fn a_file_of_pytorch_is_read_as_safetensors_are() {
    for file in ["half.bin", "legacy.bin"] {
        let folder = folder(&[(file, "pytorch_model.bin")]);
        let ours = weights(&load(folder.path()).unwrap());
        assert_eq!(ours, expected(|_| DType::F16), "{file}");
    }
}

/// Transposed views, and types that differ from tensor to tensor.
#[test]
fn shards_of_pytorch_are_read_as_safetensors_are() {
    let shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let index = "pytorch_model.bin.index.json";
    let folder = folder(&[(shards[0], shards[0]), (shards[1], shards[1]), (index, index)]);
    let ours = weights(&load(folder.path()).unwrap());
    let vector = |name: &str| if name.contains("norm") { DType::BF16 } else { DType::F32 };
    assert_eq!(ours, expected(vector));
}

/// safetensors, where there are both: they are what the other file was made from, or into.
#[test]
fn safetensors_are_preferred() {
    let folder = folder(&[("half.bin", "pytorch_model.bin")]);
    let safetensors = "model.safetensors";
    write(&folder.path().join(safetensors), read(&golden("tiny/model").join(safetensors)));
    assert_eq!(weights(&load(folder.path()).unwrap()), expected(|_| DType::F32));
}

#[test]
fn a_torn_file_is_named_wherever_it_ends() {
    let whole = read(&golden("pickles/half.bin"));
    for length in [0, 1, 4, 30, 100, 1000, whole.len() / 2, whole.len() - 1] {
        let folder = folder(&[]);
        let path = folder.path().join("pytorch_model.bin");
        write(&path, &whole[..length]);
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{length} bytes: {error}");
        assert!(error.contains("not a whole PyTorch file"), "{length} bytes: {error}");
    }
}

/// One byte changed: an error that names the file, or a tensor that the checksum does not cover; never a panic.
#[test]
fn a_damaged_file_is_an_error_or_a_model() {
    let whole = read(&golden("pickles/half.bin"));
    for place in (0..whole.len()).step_by(whole.len() / 97) {
        let folder = folder(&[]);
        let path = folder.path().join("pytorch_model.bin");
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        write(&path, damaged);
        if let Err(error) = load(folder.path()) {
            let folder = folder.path().display().to_string();
            assert!(error.to_string().contains(&folder), "byte {place}: {error}");
        }
    }
}

/// An index comes from a stranger.
#[test]
fn a_shard_outside_the_folder_is_refused() {
    for shard in ["../model.safetensors", "/etc/passwd", "shards/a.safetensors", "..", ""] {
        for index in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
            let folder = folder(&[]);
            let path = folder.path().join(index);
            write_json(&path, &json!({ "weight_map": { "model.norm.weight": shard } }));
            let error = load(folder.path()).unwrap_err().to_string();
            let named = error.contains(&path.display().to_string());
            assert!(named && error.contains(&format!("`{shard}`")), "{error}");
        }
    }
}

/// A shard that is the index itself, and one that is not there.
#[test]
fn a_cyclic_or_missing_shard_is_named() {
    let index = "model.safetensors.index.json";
    for shard in [index, "model-00001-of-00001.safetensors"] {
        let folder = folder(&[]);
        let map = json!({ "weight_map": { "model.norm.weight": shard } });
        write_json(&folder.path().join(index), &map);
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&folder.path().join(shard).display().to_string()), "{error}");
    }
}
