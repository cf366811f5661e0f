//! Files that the tests read: golden vectors beside them, larger ones outside the checkout.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use longlora_adapters::Dropout;
use longlora_data::{TokenBatch, Window};
use longlora_llama::{read_tensors, write_tensors};
use longlora_train::StepBatch;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use tempfile::TempDir;

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, TensorData>;

/// A file or folder below `tests/golden`.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

/// A file or folder of `../shared`, beside the checkout. Where there is none, says that `test` is skipped.
pub(crate) fn shared(test: &str, path: &str) -> Option<PathBuf> {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !shared.exists() {
        writeln!(std::io::stderr(), "skipped: {test}: ../shared is absent").unwrap();
        return None;
    }
    Some(shared.join(path))
}

/// A file or folder of `models`, which `cargo xtask models` fills. Where it is absent, says that `test` is skipped.
pub(crate) fn model(test: &str, name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models")).join(name);
    if !path.exists() {
        writeln!(
            std::io::stderr(),
            "skipped: {test}: models/{name} is absent; `cargo xtask models` brings it"
        )
        .unwrap();
        return None;
    }
    Some(path)
}

/// Reads a JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

/// Reads a file.
#[track_caller]
pub(crate) fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read `{}`: {error}", path.display()))
}

/// What another program computed, from a safetensors file.
pub(crate) struct Vectors(Tensors);

impl Vectors {
    /// Reads all tensors, token ids included.
    #[track_caller]
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = read(path);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors.iter().map(|(name, view)| {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::I64 => DType::I64,
                other => panic!("`{name}` is of type {other:?}"),
            };
            let shape = view.shape().to_vec();
            (name.to_owned(), TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype))
        });
        Self(tensors.collect())
    }

    /// The tensor of this name.
    #[track_caller]
    pub(crate) fn tensor(&self, name: &str) -> &TensorData {
        self.0.get(name).unwrap_or_else(|| panic!("there is no `{name}`"))
    }

    /// A tensor of one entry.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> f64 {
        self.tensor(name).iter::<f64>().next().unwrap()
    }

    /// `input_ids`, row by row.
    #[track_caller]
    pub(crate) fn input_ids(&self) -> Vec<Vec<u32>> {
        let ids = self.tensor("input_ids");
        let flat: Vec<u32> = ids.iter::<i64>().map(|id| u32::try_from(id).unwrap()).collect();
        flat.chunks(ids.shape()[1]).map(<[u32]>::to_vec).collect()
    }

    /// The tensors whose names begin with `prefix`, without it; `.default`, PEFT's name of its only adapter in memory,
    /// is left out, as PEFT does in its files.
    pub(crate) fn below(&self, prefix: &str) -> Tensors {
        let named = |(name, tensor): (&String, &TensorData)| {
            let name = name.strip_prefix(prefix)?.replace(".default.weight", ".weight");
            Some((name, tensor.clone()))
        };
        self.0.iter().filter_map(named).collect()
    }
}

/// Windows of one document each.
pub(crate) fn windows(rows: &[Vec<u32>]) -> Vec<Window> {
    rows.iter().map(|tokens| Window::new(tokens.clone(), vec![0])).collect()
}

/// A step over one micro-batch of such windows.
pub(crate) fn step_batch(rows: &[Vec<u32>]) -> StepBatch {
    let micro_batches = vec![TokenBatch::from_windows(&windows(rows), 0)];
    StepBatch { micro_batches, dropout: Dropout::new(0) }
}

/// A copy of a model folder whose `config.json` has other values for some keys.
pub(crate) fn model_with(model: &Path, changes: Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config: Map<String, Value> =
        serde_json::from_slice(&read(&model.join("config.json"))).unwrap();
    let Value::Object(changes) = changes else { panic!("needs an object, got {changes}") };
    config.extend(changes);
    let tied = config.get("tie_word_embeddings") == Some(&Value::Bool(true));
    write_json(&folder.path().join("config.json"), &Value::Object(config));
    let (from, to) = (model.join("model.safetensors"), folder.path().join("model.safetensors"));
    if tied {
        let mut tensors = read_tensors(&from).unwrap();
        tensors.remove("lm_head.weight");
        write_tensors(&to, &tensors).unwrap();
    } else {
        write(&to, read(&from));
    }
    folder
}

/// Writes a JSON file.
pub(crate) fn write_json(path: &Path, value: &Value) {
    write(path, value.to_string());
}

/// Writes a file.
#[track_caller]
pub(crate) fn write(path: &Path, contents: impl AsRef<[u8]>) {
    fs::write(path, contents).unwrap_or_else(|e| panic!("cannot write `{}`: {e}", path.display()));
}
