//! The weight files of a model folder: one or several, safetensors or PyTorch's pickles.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use burn::tensor::TensorData;
use serde::Deserialize;

use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::files::TensorFile;
use crate::pickle::PickleFile;

/// Names of the single file and of the index of several, in the order in which they are looked for.
const LAYOUTS: [(&str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
];

/// The files, and what has been read of them.
pub(crate) struct Checkpoint {
    model: PathBuf,
    files: Vec<WeightFile>,
    /// Which file holds a tensor, until it is read.
    unread: BTreeMap<String, usize>,
}

enum WeightFile {
    Safetensors(TensorFile),
    Pickle(PickleFile),
}

/// The files that a model is read from: its `config.json` and its weights, or the GGUF file.
///
/// # Errors
/// [`LlamaError`], if there are none, or one is torn.
pub fn model_files(model: &Path) -> Result<Vec<PathBuf>, LlamaError> {
    if longlora_gguf::is_gguf(model) {
        return Ok(vec![model.to_owned()]);
    }
    let weights = Checkpoint::open(model)?.files.into_iter().map(WeightFile::into_path);
    Ok(std::iter::once(model.join("config.json")).chain(weights).collect())
}

/// The index of several files, as transformers writes it.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    pub(crate) fn open(model: &Path) -> Result<Self, LlamaError> {
        for (single, index) in LAYOUTS {
            if model.join(single).exists() {
                let file = WeightFile::open(&model.join(single))?;
                let unread = file.names().into_iter().map(|name| (name, 0)).collect();
                return Ok(Self { model: model.to_owned(), files: vec![file], unread });
            }
            if model.join(index).exists() {
                return Self::open_shards(model, &model.join(index));
            }
        }
        Err(LlamaError::NotAModel { path: model.to_owned(), missing: LAYOUTS[0].0 })
    }

    fn open_shards(model: &Path, index: &Path) -> Result<Self, LlamaError> {
        let text = std::fs::read_to_string(index).map_err(LlamaError::file("read", index))?;
        let Index { weight_map } = serde_json::from_str(&text)
            .map_err(|source| LlamaError::Json { path: index.to_owned(), source })?;
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort_unstable();
        shards.dedup();
        if let Some(shard) = shards.iter().find(|shard| !is_file_name(shard)) {
            let reason = format!("shard `{shard}` is not the name of a file beside it");
            return Err(LlamaError::Config { path: index.to_owned(), reason });
        }
        let files = shards.iter().map(|shard| WeightFile::open(&model.join(shard)));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let shard_of = |shard: &String| {
            shards.binary_search(&shard).expect("every shard of the map is in the list")
        };
        let unread =
            weight_map.iter().map(|(name, shard)| (name.clone(), shard_of(shard))).collect();
        Ok(Self { model: model.to_owned(), files, unread })
    }

    /// Reads one tensor in the file's own type.
    pub(crate) fn read(&mut self, name: &str) -> Result<TensorData, LlamaError> {
        let file = self.unread.remove(name).ok_or_else(|| LlamaError::Missing {
            path: self.model.clone(),
            tensor: name.to_owned(),
        })?;
        match &mut self.files[file] {
            WeightFile::Safetensors(file) => file.read(name),
            WeightFile::Pickle(file) => file.read(name),
        }
    }

    /// Old checkpoints carry tables that are computed, and tied ones may carry the head once more.
    pub(crate) fn refuse_leftovers(&self, config: &LlamaConfig) -> Result<(), LlamaError> {
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

impl WeightFile {
    fn open(path: &Path) -> Result<Self, LlamaError> {
        if path.extension().is_some_and(|extension| extension == "bin") {
            PickleFile::open(path).map(Self::Pickle)
        } else {
            TensorFile::open(path).map(Self::Safetensors)
        }
    }

    fn into_path(self) -> PathBuf {
        match self {
            Self::Safetensors(file) => file.path,
            Self::Pickle(file) => file.path,
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Pickle(file) => file.names(),
        }
    }
}

/// Longest name of a file, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// An index comes from a stranger: it may not lead out of its folder, and errors show the file's name.
fn is_file_name(shard: &str) -> bool {
    let mut components = Path::new(shard).components();
    let is_one =
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    is_one && shard.len() <= MAX_NAME_BYTES && !shard.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_file_beside_the_index() {
        assert!(is_file_name("model-00001-of-00002.safetensors"));
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for strange in ["", ".", "..", "a/b", "/a", "../a", "\u{7f}hole.safetensors", "a\n", &long]
        {
            assert!(!is_file_name(strange), "{strange:?}");
        }
    }
}
