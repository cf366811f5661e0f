//! What lies beside the weights of a model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longlora_gguf::{GgufFile, is_gguf};
use serde_json::{Map, Value};

use crate::gguf_tokenizer::files_of_gguf;
use crate::tokenizer::read_if_present;
use crate::{DataError, Tokenizer, atomic};

const TOKENIZER: &str = "tokenizer.json";
const GENERATION: &str = "generation_config.json";
/// Files of a model folder that are neither weights nor `config.json`, and that other programs need.
const NAMES: [&str; 10] = [
    TOKENIZER,
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    GENERATION,
];

/// Where transformers keeps chat templates that have names.
const TEMPLATES: &str = "additional_chat_templates";
/// Keys that hold the context, and their files.
const OF_CONTEXT: [(&str, &str); 2] =
    [("tokenizer_config.json", "model_max_length"), (GENERATION, "max_length")];

/// Tokenizer, chat templates and settings of generation of a model, read and not yet written: what cannot be read is told
/// of before the model that they go with takes its time.
#[derive(Clone, Debug)]
pub struct Companions {
    /// By their places in the folder.
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Companions {
    /// Reads what lies in a model's folder, or what a GGUF file has in its place: `tokenizer.json` and
    /// `tokenizer_config.json` with the chat template.
    ///
    /// `model_max_length` of `tokenizer_config.json`, at which other programs cut or warn, becomes `context` tokens, and so
    /// does `max_length` of `generation_config.json`, beyond which transformers reads nothing.
    ///
    /// # Errors
    /// [`DataError`], if a file cannot be read, one of those two is no JSON object, or the tokenizer is none.
    pub fn read(model: &Path, context: usize) -> Result<Self, DataError> {
        if is_gguf(model) {
            return Ok(Self { files: files_of_gguf(&GgufFile::open(model)?, context)? });
        }
        let mut files = templates(&model.join(TEMPLATES))?;
        for name in NAMES {
            let path = model.join(name);
            let Some(mut content) = read_if_present(&path)? else { continue };
            if let Some((_, key)) = OF_CONTEXT.iter().find(|(file, _)| *file == name) {
                let changed = with_context(&content, key, context)
                    .map_err(|source| DataError::BadTokenizerConfig { path, source })?;
                content = changed.unwrap_or(content);
            }
            files.insert(name.into(), content);
        }
        if files.contains_key(Path::new(TOKENIZER)) {
            // One that cannot be read is told of by its own name, not by that of its copy.
            Tokenizer::read(model)?;
        }
        Ok(Self { files })
    }

    /// The same with tokenizer and chat templates of another folder; settings of generation stay the model's.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn with_tokenizer_of(self, folder: &Path, context: usize) -> Result<Self, DataError> {
        let mut files = Self::read(folder, context)?.files;
        let of_generation = |name: &Path| name == Path::new(GENERATION);
        files.retain(|name, _| !of_generation(name));
        files.extend(self.files.into_iter().filter(|(name, _)| of_generation(name)));
        Ok(Self { files })
    }

    /// Writes each file whole or not at all.
    ///
    /// # Errors
    /// [`DataError::Write`], if the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<(), DataError> {
        for (name, content) in &self.files {
            let path = folder.join(name);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent)
                .map_err(|source| DataError::Write { path: parent.to_owned(), source })?;
            atomic::write(&path, content)?;
        }
        Ok(())
    }
}

/// Chat templates beside the one that counts, such as one for tools.
fn templates(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, DataError> {
    let mut files = BTreeMap::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    let unreadable = |source| DataError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let (Some(name), true) = (path.file_name(), path.is_file()) else { continue };
        let content =
            fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        files.insert(Path::new(TEMPLATES).join(name), content);
    }
    Ok(files)
}

/// `None`, if it says nothing of it.
fn with_context(
    config: &[u8],
    key: &str,
    context: usize,
) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let mut config: Map<String, Value> = serde_json::from_slice(config)?;
    if !config.contains_key(key) {
        return Ok(None);
    }
    config.insert(key.to_owned(), context.into());
    Ok(Some(format!("{:#}\n", Value::Object(config)).into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_copied_and_knows_the_new_context() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = r#"{"bos_token": "<s>", "model_max_length": 256}"#;
        fs::write(from.path().join("tokenizer_config.json"), config).unwrap();
        fs::write(from.path().join("merges.txt"), "a b\n").unwrap();
        let generation = r#"{"max_length": 256, "eos_token_id": 2}"#;
        fs::write(from.path().join("generation_config.json"), generation).unwrap();
        fs::create_dir(from.path().join(TEMPLATES)).unwrap();
        fs::write(from.path().join(TEMPLATES).join("tool_use.jinja"), "{{ tools }}").unwrap();
        fs::write(from.path().join("model.safetensors"), "weights").unwrap();

        Companions::read(from.path(), 1024).unwrap().write(to.path()).unwrap();

        let read = |name: &str| fs::read_to_string(to.path().join(name)).unwrap();
        let config: Value = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
        assert_eq!(config, serde_json::json!({ "bos_token": "<s>", "model_max_length": 1024 }));
        assert_eq!(read("merges.txt"), "a b\n");
        let generation: Value = serde_json::from_str(&read("generation_config.json")).unwrap();
        assert_eq!(generation, serde_json::json!({ "max_length": 1024, "eos_token_id": 2 }));
        assert_eq!(read("additional_chat_templates/tool_use.jinja"), "{{ tools }}");
        assert!(!to.path().join("model.safetensors").exists());
    }

    #[test]
    fn a_config_that_is_no_json_is_named() {
        let from = tempfile::tempdir().unwrap();
        for name in ["tokenizer_config.json", "generation_config.json", "tokenizer.json"] {
            fs::write(from.path().join(name), "[1").unwrap();
            let error = Companions::read(from.path(), 1024).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            fs::remove_file(from.path().join(name)).unwrap();
        }
    }

    #[test]
    fn the_tokenizer_may_be_anothers_and_the_settings_of_generation_are_the_models() {
        let [model, adapter, to] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let files = [
            (&model, "merges.txt", "a b"),
            (&model, "chat_template.jinja", "old"),
            (&model, "generation_config.json", "{}"),
            (&adapter, "chat_template.jinja", "new"),
            (&adapter, "generation_config.json", "{ }"),
        ];
        for (folder, name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        let companions = Companions::read(model.path(), 8).unwrap();
        companions.with_tokenizer_of(adapter.path(), 8).unwrap().write(to.path()).unwrap();
        let read = |name: &str| fs::read_to_string(to.path().join(name)).unwrap();
        assert_eq!(
            (read("chat_template.jinja"), read("generation_config.json")),
            ("new".into(), "{}".into())
        );
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 2, "the old tokenizer is left behind");
    }
}
