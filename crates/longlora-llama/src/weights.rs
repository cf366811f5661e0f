//! Model folders as Hugging Face's tools read and write them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device};
use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::files::{write_atomically, write_views};
use crate::gguf;
use crate::llama::Llama;
use crate::parameters::{Handle, Selection, handles, restore_as};
use crate::storage::WeightStorage;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Largest weight file that [`save_pretrained`] writes; transformers' own default.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// Reads a model: a Hugging Face folder, with its weights as safetensors or as PyTorch's pickles, in one file or in
/// shards; or a GGUF file.
///
/// Tensors are read one at a time, in whatever float type, and kept as f32: at the peak, memory holds what is kept and
/// one tensor more. Files are not mapped: one that shrinks under its mapping kills the process.
///
/// # Errors
/// [`LlamaError`], naming the file and the tensor: nothing missing, torn, misshapen or left over is accepted.
pub fn load_pretrained(model: &Path, device: &Device) -> Result<Llama, LlamaError> {
    load_pretrained_as(model, WeightStorage::F32, device)
}

/// The same, with matrices kept as `storage` says, computing in what [suits them](WeightStorage::compute_on). Those in bf16
/// and NF4 are frozen; what is trained later is widened first, and starts from the rounded numbers.
///
/// # Errors
/// As [`load_pretrained`].
pub fn load_pretrained_as(
    model: &Path,
    storage: WeightStorage,
    device: &Device,
) -> Result<Llama, LlamaError> {
    let llama = if longlora_gguf::is_gguf(model) {
        gguf::load(model, storage, device)?
    } else {
        load_folder(&LlamaConfig::read(model)?, model, storage, device)?
    };
    Ok(llama.computing_in(storage.compute_on(device)))
}

/// Reads the weights of a model folder whose configuration is known, say, by
/// [`LlamaConfig::from_family`] of a family of one's own.
///
/// # Errors
/// As [`load_pretrained`].
pub fn load_weights(
    config: &LlamaConfig,
    model: &Path,
    device: &Device,
) -> Result<Llama, LlamaError> {
    load_folder(config, model, WeightStorage::F32, device)
}

fn load_folder(
    config: &LlamaConfig,
    model: &Path,
    storage: WeightStorage,
    device: &Device,
) -> Result<Llama, LlamaError> {
    let mut checkpoint = Checkpoint::open(model)?;
    checkpoint.tie(config)?;
    let llama = storage.prepare(config.init(device));
    let llama = restore_as(llama, &Selection::Base, storage, model, |name| checkpoint.read(name))?;
    checkpoint.refuse_leftovers(config)?;
    Ok(llama)
}

/// Writes a model folder that Hugging Face's tools read: weights without adapters, as floats of type `dtype`, and the
/// `config.json` with the RoPE parameters in force.
///
/// Weights of more than `max_shard_bytes` in all are cut into shards with an index. One tensor at a time is converted,
/// so that no second copy of the model is held.
///
/// # Errors
/// [`LlamaError`], if the disk refuses, or the folder holds a model in one file where this one comes in shards, or the
/// other way round.
pub fn save_pretrained(
    llama: &Llama,
    model: &Path,
    dtype: DType,
    max_shard_bytes: u64,
) -> Result<(), LlamaError> {
    std::fs::create_dir_all(model).map_err(LlamaError::file("create", model))?;
    let parameters = handles(llama, &Selection::Base);
    let shards = shards(&parameters, dtype, max_shard_bytes);
    // Whoever reads the folder would take the other one's weights.
    let other = model.join(if shards.len() == 1 { INDEX } else { SINGLE });
    if other.exists() {
        return Err(LlamaError::Exists { path: other });
    }
    match shards.as_slice() {
        [_] => write_shard(&model.join(SINGLE), &parameters, &shards[0], dtype)?,
        _ => write_shards(model, &parameters, &shards, dtype)?,
    }
    let mut config = llama.config.to_hugging_face();
    config.remove("dtype");
    config.insert("torch_dtype".to_owned(), torch_name(dtype).into());
    write_json(&model.join("config.json"), &Value::Object(config))
}

/// The names of each shard's tensors, in order; a tensor that is larger than a shard has one of its own.
fn shards(
    parameters: &BTreeMap<String, Handle>,
    dtype: DType,
    max_shard_bytes: u64,
) -> Vec<Vec<&str>> {
    let mut shards: Vec<Vec<&str>> = vec![vec![]];
    let mut filled = 0;
    for (name, parameter) in parameters {
        let bytes = parameter.byte_len(dtype) as u64;
        if filled > 0 && filled + bytes > max_shard_bytes {
            shards.push(vec![]);
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("there is a first shard").push(name);
    }
    shards
}

fn write_shard(
    path: &Path,
    parameters: &BTreeMap<String, Handle>,
    names: &[&str],
    dtype: DType,
) -> Result<(), LlamaError> {
    write_views(path, names.iter().map(|&name| (name, parameters[name].view(dtype))))
}

/// The index is written last: without it, the shards are no model.
fn write_shards(
    model: &Path,
    parameters: &BTreeMap<String, Handle>,
    shards: &[Vec<&str>],
    dtype: DType,
) -> Result<(), LlamaError> {
    let mut weight_map = BTreeMap::new();
    for (index, names) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_shard(&model.join(&file), parameters, names, dtype)?;
        weight_map.extend(names.iter().map(|&name| (name, file.clone())));
    }
    let total_size: usize = parameters.values().map(|parameter| parameter.byte_len(dtype)).sum();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    write_json(&model.join(INDEX), &index)
}

fn write_json(path: &Path, value: &Value) -> Result<(), LlamaError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be printed");
    write_atomically(path, format!("{text}\n").as_bytes())
}

/// PyTorch's name of a float type.
fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::F64 => "float64",
        _ => "float32",
    }
}
