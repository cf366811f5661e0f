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
    /// Where a tensor is, until it is read.
    unread: BTreeMap<String, Place>,
}

#[derive(Debug, Clone)]
struct Place {
    file: usize,
    /// What it is called there.
    name: String,
}

/// The table of embeddings, and the head that may be the same.
const TABLE: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

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
                let names = file.names().into_iter().map(|name| (name, 0)).collect();
                return Ok(Self::new(model, vec![file], names));
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
        let names =
            weight_map.iter().map(|(name, shard)| (name.clone(), shard_of(shard))).collect();
        Ok(Self::new(model, files, names))
    }

    /// A model that was saved without its head has names without `model.`, which transformers puts before them, too.
    fn new(model: &Path, files: Vec<WeightFile>, names: Vec<(String, usize)>) -> Self {
        let has_prefix = names.iter().any(|(name, _)| name.starts_with("model."));
        let place = |(name, file): (String, usize)| {
            let whole =
                if has_prefix || name == HEAD { name.clone() } else { format!("model.{name}") };
            (whole, Place { file, name })
        };
        let unread = names.into_iter().map(place).collect();
        Self { model: model.to_owned(), files, unread }
    }

    /// Reads one tensor in the file's own type.
    pub(crate) fn read(&mut self, name: &str) -> Result<TensorData, LlamaError> {
        let place = self.unread.remove(name).ok_or_else(|| self.missing(name))?;
        self.read_at(&place)
    }

    fn read_at(&mut self, Place { file, name }: &Place) -> Result<TensorData, LlamaError> {
        match &mut self.files[*file] {
            WeightFile::Safetensors(file) => file.read(name),
            WeightFile::Pickle(file) => file.read(name),
        }
    }

    fn missing(&self, name: &str) -> LlamaError {
        let (path, tensor) = (self.model.clone(), name.to_owned());
        // As GPTQ's and AWQ's tools name it.
        let packed = name.strip_suffix("weight").map(|layer| format!("{layer}qweight"));
        match packed.filter(|packed| self.unread.contains_key(packed)) {
            Some(packed) => LlamaError::Quantised { path, tensor: packed, kind: "qweight".into() },
            None => LlamaError::Missing { path, tensor },
        }
    }

    /// A head that is the table of embeddings may be stored under either name, or under both.
    ///
    /// # Errors
    /// [`LlamaError::Contradiction`], if there are two that differ: one would be lost.
    pub(crate) fn tie(&mut self, config: &LlamaConfig) -> Result<(), LlamaError> {
        if !config.tie_word_embeddings {
            return Ok(());
        }
        let [table, head] = [TABLE, HEAD].map(|name| self.unread.get(name).cloned());
        match (table, head) {
            (None, Some(head)) => {
                self.unread.remove(HEAD);
                self.unread.insert(TABLE.to_owned(), head);
                Ok(())
            }
            (Some(table), Some(head)) if self.read_at(&table)? != self.read_at(&head)? => {
                let reason = format!(
                    "`tie_word_embeddings` is true, but `{HEAD}` and `{TABLE}` are two different tables; set it to \
                     false in config.json to keep both"
                );
                Err(LlamaError::Contradiction { path: self.model.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Old checkpoints carry tables that are computed, and tied ones may carry the head once more.
    pub(crate) fn refuse_leftovers(&self, config: &LlamaConfig) -> Result<(), LlamaError> {
        let known = |name: &str| {
            name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == HEAD)
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
