//! A model folder of Hugging Face: its weights in, and out again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, TensorData};
use serde::Deserialize;
use serde_json::Value;

use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::files::{TensorFile, write_atomically, write_tensors};
use crate::llama::Llama;
use crate::parameters::{Selection, collect, restore};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads a model folder: `config.json`, and `model.safetensors` or its shards in bf16, f16 or f32. Weights are kept as
/// f32.
///
/// # Errors
/// [`LlamaError`], naming the file and the tensor: nothing missing, torn, misshapen or left over is accepted.
pub fn load_pretrained(model: &Path, device: &Device) -> Result<Llama, LlamaError> {
    let config = LlamaConfig::read(model)?;
    let mut checkpoint = Checkpoint::open(model)?;
    let llama = config.init(device);
    let llama = restore(llama, &Selection::Base, model, |name| checkpoint.read(name))?;
    checkpoint.refuse_leftovers(&config)?;
    Ok(llama)
}

/// Writes a model folder that Hugging Face's tools read: weights without adapters, as floats of type `dtype`, and the
/// `config.json` with the RoPE parameters in force.
///
/// # Errors
/// [`LlamaError`], if the disk refuses.
pub fn save_pretrained(llama: &Llama, model: &Path, dtype: DType) -> Result<(), LlamaError> {
    std::fs::create_dir_all(model).map_err(LlamaError::file("create", model))?;
    let tensors = collect(llama, &Selection::Base)
        .into_iter()
        .map(|(name, tensor)| (name, tensor.convert_dtype(dtype)))
        .collect();
    write_tensors(&model.join(SINGLE), &tensors)?;
    let mut config = llama.config.to_hugging_face();
    config.insert("torch_dtype".to_owned(), torch_name(dtype).into());
    let config =
        serde_json::to_string_pretty(&Value::Object(config)).expect("a JSON object can be printed");
    write_atomically(&model.join("config.json"), format!("{config}\n").as_bytes())
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

/// One file, or shards with an index, and what has been read of them.
struct Checkpoint {
    model: PathBuf,
    files: Vec<TensorFile>,
    /// Which file holds a tensor, until it is read.
    unread: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    fn open(model: &Path) -> Result<Self, LlamaError> {
        let (single, index) = (model.join(SINGLE), model.join(INDEX));
        if single.exists() {
            let file = TensorFile::open(&single)?;
            let unread = file.names().into_iter().map(|name| (name, 0)).collect();
            return Ok(Self { model: model.to_owned(), files: vec![file], unread });
        }
        if !index.exists() {
            return Err(LlamaError::NotAModel { path: model.to_owned(), missing: SINGLE });
        }
        let text = std::fs::read_to_string(&index).map_err(LlamaError::file("read", &index))?;
        let Index { weight_map } = serde_json::from_str(&text)
            .map_err(|source| LlamaError::Json { path: index.clone(), source })?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort_unstable();
        shards.dedup();
        let files = shards.iter().map(|shard| TensorFile::open(&model.join(shard)));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let shard_of = |shard: &String| {
            shards.binary_search(&shard).expect("every shard of the map is in the list")
        };
        let unread =
            weight_map.iter().map(|(name, shard)| (name.clone(), shard_of(shard))).collect();
        Ok(Self { model: model.to_owned(), files, unread })
    }

    fn read(&mut self, name: &str) -> Result<TensorData, LlamaError> {
        let file = self.unread.remove(name).ok_or_else(|| LlamaError::Missing {
            path: self.model.clone(),
            tensor: name.to_owned(),
        })?;
        self.files[file].read(name)
    }

    /// Old checkpoints carry tables that are computed, and tied ones may carry the head once more.
    fn refuse_leftovers(&self, config: &LlamaConfig) -> Result<(), LlamaError> {
        let known = |name: &str| {
            name.ends_with("rotary_emb.inv_freq")
                || (config.tie_word_embeddings && name == "lm_head.weight")
        };
        match self.unread.keys().find(|name| !known(name)) {
            None => Ok(()),
            Some(tensor) => {
                Err(LlamaError::Unused { path: self.model.clone(), tensor: tensor.clone() })
            }
        }
    }
}
