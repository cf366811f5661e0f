use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::HubError;

/// What a model is besides its weights. Few models have all of them.
const BESIDES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer.model",
];

/// Weights, by preference; an index stands for its shards.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The files of a repository that a model is read from, its weights or their index last. `None` if it has no weights.
pub(crate) fn whole_model(files: &[String]) -> Option<Vec<String>> {
    let there = |name: &&str| files.iter().any(|file| file == name);
    let weights = WEIGHTS.into_iter().find(there)?;
    Some(BESIDES.into_iter().filter(there).chain([weights]).map(str::to_owned).collect())
}

/// Whether a file of [`whole_model`] stands for shards.
pub(crate) fn is_index(file: &str) -> bool {
    file.ends_with(".index.json")
}

/// The shards that an index names, each once.
pub(crate) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let no_index = |reason: String| HubError::Index { path: index.to_owned(), reason };
    let bytes = fs::read(index).map_err(HubError::file("read", index))?;
    let json: Value =
        serde_json::from_slice(&bytes).map_err(|error| no_index(error.to_string()))?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| no_index("it has no object `weight_map`".to_owned()))?;
    let shards: BTreeSet<_> = map.values().filter_map(Value::as_str).map(str::to_owned).collect();
    if shards.is_empty() {
        return Err(no_index("its `weight_map` names no file".to_owned()));
    }
    Ok(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str]) -> Option<Vec<String>> {
        whole_model(&files.iter().map(|file| (*file).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn safetensors_are_preferred_and_the_rest_is_left_alone() {
        let files =
            ["README.md", "model.safetensors", "pytorch_model.bin", "config.json", "x.gguf"];
        assert_eq!(chosen(&files).unwrap(), ["config.json", "model.safetensors"]);
        let files = ["pytorch_model.bin.index.json", "model.safetensors.index.json"];
        assert_eq!(chosen(&files).unwrap(), ["model.safetensors.index.json"]);
        assert_eq!(chosen(&["pytorch_model.bin"]).unwrap(), ["pytorch_model.bin"]);
        assert_eq!(chosen(&["config.json", "consolidated.00.pth"]), None);
    }

    #[test]
    fn an_index_names_its_shards_once_or_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            shards(&path).map_err(|error| error.to_string())
        };
        let map = r#"{"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#;
        let names: Vec<_> = read(map).unwrap().into_iter().collect();
        assert_eq!(names, ["1.safetensors", "2.safetensors"]);
        assert!(read("{").unwrap_err().contains("i.json` is no index of shards: EOF"));
        assert!(read("{}").unwrap_err().contains("no object `weight_map`"));
        assert!(read(r#"{"weight_map":{"a":1}}"#).unwrap_err().contains("names no file"));
    }
}
