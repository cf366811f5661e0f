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

/// Copies tokenizer, chat template and generation settings from one model folder to another, each whole or not at all.
///
/// `model_max_length` of `tokenizer_config.json`, at which other programs cut or warn, becomes `context` tokens.
///
/// # Errors
/// [`DataError`], if a file cannot be read or written, or `tokenizer_config.json` is no JSON object.
pub fn copy_companions(from: &Path, to: &Path, context: usize) -> Result<(), DataError> {
    for name in COMPANIONS {
        let path = from.join(name);
        if !path.exists() {
            continue;
        }
        let mut content =
            fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        if name == "tokenizer_config.json" {
            content = with_context(&content, context)
                .map_err(|source| DataError::BadTokenizerConfig { path: path.clone(), source })?;
        }
        atomic::write(&to.join(name), &content)?;
    }
    Ok(())
}

fn with_context(config: &[u8], context: usize) -> Result<Vec<u8>, serde_json::Error> {
    let mut config: Map<String, Value> = serde_json::from_slice(config)?;
    if config.contains_key("model_max_length") {
        config.insert("model_max_length".to_owned(), context.into());
    }
    Ok(format!("{:#}\n", Value::Object(config)).into_bytes())
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
        fs::write(from.path().join("model.safetensors"), "weights").unwrap();

        copy_companions(from.path(), to.path(), 1024).unwrap();

        let read = |name: &str| fs::read_to_string(to.path().join(name)).unwrap();
        let config: Value = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
        assert_eq!(config, serde_json::json!({ "bos_token": "<s>", "model_max_length": 1024 }));
        assert_eq!(read("merges.txt"), "a b\n");
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
