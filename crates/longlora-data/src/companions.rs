//! What lies beside the weights of a model folder.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{DataError, atomic};

/// Files of a model folder that are neither weights nor `config.json`, and that other programs need.
const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// Where transformers keeps chat templates that have names.
const TEMPLATES: &str = "additional_chat_templates";
/// Keys that hold the context, and their files.
const OF_CONTEXT: [(&str, &str); 2] =
    [("tokenizer_config.json", "model_max_length"), ("generation_config.json", "max_length")];

/// Copies tokenizer, chat template and generation settings from one model folder to another, each whole or not at all.
///
/// `model_max_length` of `tokenizer_config.json`, at which other programs cut or warn, becomes `context` tokens, and so does
/// `max_length` of `generation_config.json`, beyond which transformers reads nothing.
///
/// # Errors
/// [`DataError`], if a file cannot be read or written, or one of those two is no JSON object.
pub fn copy_companions(from: &Path, to: &Path, context: usize) -> Result<(), DataError> {
    for name in COMPANIONS {
        let path = from.join(name);
        if !path.exists() {
            continue;
        }
        let mut content =
            fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        if let Some((_, key)) = OF_CONTEXT.iter().find(|(file, _)| *file == name) {
            let changed = with_context(&content, key, context)
                .map_err(|source| DataError::BadTokenizerConfig { path: path.clone(), source })?;
            content = changed.unwrap_or(content);
        }
        atomic::write(&to.join(name), &content)?;
    }
    copy_templates(&from.join(TEMPLATES), &to.join(TEMPLATES))
}

/// Chat templates beside the one that counts, such as one for tools.
fn copy_templates(from: &Path, to: &Path) -> Result<(), DataError> {
    if !from.is_dir() {
        return Ok(());
    }
    let unreadable = |source| DataError::Read { path: from.to_owned(), source };
    fs::create_dir_all(to).map_err(|source| DataError::Write { path: to.to_owned(), source })?;
    for entry in fs::read_dir(from).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let (Some(name), true) = (path.file_name(), path.is_file()) else { continue };
        let content =
            fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        atomic::write(&to.join(name), &content)?;
    }
    Ok(())
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

        copy_companions(from.path(), to.path(), 1024).unwrap();

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
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("tokenizer_config.json"), "[1").unwrap();
        let error = copy_companions(from.path(), to.path(), 1024).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json"), "{error}");
    }
}
