//! What stands beside `tokenizer.json`, and what transformers (4.57) makes of it.
//!
//! - `tokenizer_config.json` names special tokens and may add tokens that `tokenizer.json` lacks.
//! - `special_tokens_map.json` names those that it leaves out.
//! - The classes of LLaMA have names for both ends of a text by themselves, and put them around it as `add_bos_token` and
//!   `add_eos_token` say, whatever `tokenizer.json` asks for. Every other class leaves that to `tokenizer.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::processors::template::TemplateProcessing;

use crate::DataError;
use crate::tokenizer::{SpecialToken, SpecialTokens, read_if_present};

/// The classes that put the ends around a text by themselves.
const LLAMA_CLASSES: [&str; 4] =
    ["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"];

/// The files beside a `tokenizer.json`.
pub(crate) struct TokenizerConfig {
    path: PathBuf,
    keys: Map<String, Value>,
}

/// The keys that each name a special token.
pub(crate) const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

impl TokenizerConfig {
    /// What stands beside `tokenizer`; nothing, if there is nothing.
    ///
    /// # Errors
    /// [`DataError`], if a file is not JSON or no object.
    pub(crate) fn beside(tokenizer: &Path) -> Result<Self, DataError> {
        let path = config_beside(tokenizer);
        let mut keys = object(&path)?;
        for (key, value) in object(&tokenizer.with_file_name("special_tokens_map.json"))? {
            keys.entry(key).or_insert(value);
        }
        Ok(Self { path, keys })
    }

    /// What the files say, by the keys of `tokenizer_config.json`.
    pub(crate) fn into_keys(self) -> Value {
        Value::Object(self.keys)
    }

    /// Adds the tokens that `inner` lacks, and what is put around every text; the tokens at both ends.
    ///
    /// # Errors
    /// [`DataError::UnknownSpecialToken`], if a name is not in the vocabulary.
    pub(crate) fn apply(
        &self,
        inner: &mut tokenizers::Tokenizer,
    ) -> Result<SpecialTokens, DataError> {
        let bad = |source| DataError::BadTokenizer { path: self.path.clone(), source };
        let tokens = self.added_tokens().into_iter().chain(self.more_special_tokens());
        let known = |token: &AddedToken| inner.token_to_id(&token.content).is_some();
        let named = self.named_tokens().filter(known).collect::<Vec<_>>();
        for token in tokens.chain(named) {
            if !inner.get_added_vocabulary().get_vocab().contains_key(&token.content) {
                inner.add_tokens([token]).map_err(bad)?;
            }
        }
        let special = SpecialTokens {
            bos: self.named(inner, "bos_token", "<s>")?,
            eos: self.named(inner, "eos_token", "</s>")?,
        };
        if self.is_llamas() {
            let template = self.template(&special).map_err(bad)?;
            inner.with_post_processor(Some(template));
        }
        Ok(special)
    }

    fn is_llamas(&self) -> bool {
        let class = self.keys.get("tokenizer_class").and_then(Value::as_str);
        class.is_some_and(|class| LLAMA_CLASSES.contains(&class))
    }

    /// The token that a key names; of LLaMA's classes, where the key is absent, `default`, if there is such a token.
    fn named(
        &self,
        inner: &tokenizers::Tokenizer,
        key: &str,
        default: &str,
    ) -> Result<Option<SpecialToken>, DataError> {
        let token = |content: &str| {
            let id = inner.token_to_id(content)?;
            Some(SpecialToken { content: content.to_owned(), id })
        };
        let unknown = |token: String| {
            let path = self.path.clone();
            Err(DataError::UnknownSpecialToken { path, token })
        };
        match self.keys.get(key) {
            None if self.is_llamas() => Ok(token(default)),
            None | Some(Value::Null) => Ok(None),
            Some(value) => match content(value) {
                Some("") => Ok(None),
                Some(content) => {
                    token(content).map_or_else(|| unknown(content.to_owned()), |it| Ok(Some(it)))
                }
                None => unknown(value.to_string()),
            },
        }
    }

    /// Those of `added_tokens_decoder`, in the order of their ids.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let decoder = self.keys.get("added_tokens_decoder").and_then(Value::as_object);
        let token = |(id, token): (&String, &Value)| {
            let flag = |key: &str| token[key].as_bool().unwrap_or(false);
            let special = flag("special");
            let added = AddedToken::from(content(token)?, special)
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(token["normalized"].as_bool().unwrap_or(!special));
            Some((id.parse::<u32>().ok()?, added))
        };
        let mut tokens: Vec<_> = decoder.into_iter().flatten().filter_map(token).collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens.into_iter().map(|(_, token)| token).collect()
    }

    fn more_special_tokens(&self) -> Vec<AddedToken> {
        let names = self.keys.get("additional_special_tokens").and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(content);
        names.map(|name| AddedToken::from(name, true)).collect()
    }

    /// Those that a key of their own names.
    fn named_tokens(&self) -> impl Iterator<Item = AddedToken> {
        let names = SPECIAL_TOKENS.iter().filter_map(|key| content(self.keys.get(*key)?));
        let names = names.filter(|name| !name.is_empty());
        names.map(|name| AddedToken::from(name, true))
    }

    /// What LLaMA's classes put around a text.
    fn template(&self, special: &SpecialTokens) -> tokenizers::Result<TemplateProcessing> {
        let asked = |key, default| self.keys.get(key).and_then(Value::as_bool).unwrap_or(default);
        let bos = special.bos.as_ref().filter(|_| asked("add_bos_token", true));
        let eos = special.eos.as_ref().filter(|_| asked("add_eos_token", false));
        around_text(bos.map(pair), eos.map(pair))
    }
}

/// The `tokenizer_config.json` of a `tokenizer.json`.
pub(crate) fn config_beside(tokenizer: &Path) -> PathBuf {
    tokenizer.with_file_name("tokenizer_config.json")
}

fn object(path: &Path) -> Result<Map<String, Value>, DataError> {
    let Some(content) = read_if_present(path)? else { return Ok(Map::new()) };
    let bad = |source| DataError::BadTokenizerConfig { path: path.into(), source };
    serde_json::from_slice(&content).map_err(bad)
}

/// A token's spelling, which transformers has written in two forms.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

fn pair(SpecialToken { content, id }: &SpecialToken) -> (&str, u32) {
    (content, *id)
}

/// A token before every text and one behind it, as transformers writes it for `add_bos_token` and `add_eos_token`.
pub(crate) fn around_text(
    bos: Option<(&str, u32)>,
    eos: Option<(&str, u32)>,
) -> tokenizers::Result<TemplateProcessing> {
    let token =
        |content: &str, text: u32| json!({ "SpecialToken": { "id": content, "type_id": text } });
    let text = |name: &str, text: u32| {
        let sequence = json!({ "Sequence": { "id": name, "type_id": text } });
        let before = bos.map(|(content, _)| token(content, text));
        let behind = eos.map(|(content, _)| token(content, text));
        before.into_iter().chain([sequence]).chain(behind)
    };
    let entry = |(content, id): (&str, u32)| {
        let entry = json!({ "id": content, "ids": [id], "tokens": [content] });
        (content.to_owned(), entry)
    };
    let tokens: Map<_, _> = bos.into_iter().chain(eos).map(entry).collect();
    Ok(serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": text("A", 0).collect::<Vec<_>>(),
        "pair": text("A", 0).chain(text("B", 1)).collect::<Vec<_>>(),
        "special_tokens": tokens,
    }))?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Tokenizer, train_byte_level_bpe};

    /// Tokens of "the hat" in a folder with these files beside its `tokenizer.json`, whose own rule is to begin with `<s>`,
    /// 0; `</s>` is 1. Those of the text itself are left out.
    fn around(files: &[(&str, Value)]) -> Vec<u32> {
        let tokenizer = with(files);
        let text = tokenizer.encode_rendered("the hat").unwrap();
        let ids = tokenizer.encode("the hat").unwrap();
        ids.into_iter().filter(|id| !text.contains(id)).collect()
    }

    fn with(files: &[(&str, Value)]) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = train_byte_level_bpe(["the cat and the hat"; 3].into_iter(), 270).unwrap();
        tokenizer.save(&folder.path().join("tokenizer.json")).unwrap();
        fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
        for (name, keys) in files {
            fs::write(folder.path().join(name), keys.to_string()).unwrap();
        }
        Tokenizer::read(folder.path()).unwrap()
    }

    fn config(keys: Value) -> (&'static str, Value) {
        ("tokenizer_config.json", keys)
    }

    /// As transformers 4.57.1 encodes with such files.
    #[test]
    fn llamas_classes_put_the_ends_around_a_text_by_themselves() {
        let llama = |keys: Value| {
            let mut all = json!({ "tokenizer_class": "LlamaTokenizer" });
            all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            around(&[config(all)])
        };
        assert_eq!(llama(json!({})), [0]);
        assert_eq!(llama(json!({ "add_bos_token": false })), [0_u32; 0]);
        assert_eq!(llama(json!({ "add_eos_token": true })), [0, 1]);
        assert_eq!(llama(json!({ "add_bos_token": false, "add_eos_token": true })), [1]);
        assert_eq!(llama(json!({ "bos_token": "</s>" })), [1]);
        assert_eq!(llama(json!({ "bos_token": { "content": "</s>" } })), [1]);
    }

    #[test]
    fn other_classes_leave_that_to_their_file() {
        for keys in [json!({}), json!({ "tokenizer_class": "PreTrainedTokenizerFast" })] {
            let mut asking = keys.clone();
            asking["add_bos_token"] = false.into();
            asking["add_eos_token"] = true.into();
            assert_eq!(around(&[config(keys)]), [0]);
            assert_eq!(around(&[config(asking)]), [0]);
        }
        assert_eq!(around(&[]), [0]);
    }

    #[test]
    fn the_map_names_what_the_configuration_does_not() {
        let map = ("special_tokens_map.json", json!({ "bos_token": "<s>", "eos_token": "<s>" }));
        let tokenizer = with(&[config(json!({ "eos_token": "</s>" })), map.clone()]);
        let SpecialTokens { bos, eos } = tokenizer.special_tokens();
        assert_eq!([bos, eos].map(|token| token.as_ref().unwrap().id), [0, 1]);
        let tokenizer = with(&[config(json!({ "bos_token": "", "eos_token": null })), map]);
        assert_eq!(tokenizer.special_tokens(), &SpecialTokens::default());
    }

    /// In the vocabulary, but not among the added tokens of `tokenizer.json`.
    #[test]
    fn a_token_that_is_named_stands_for_no_text() {
        let tokenizer = with(&[config(json!({ "eos_token": "b" }))]);
        let ids = tokenizer.encode_rendered("abc").unwrap();
        assert_eq!(ids.len(), 3);
        assert_eq!(tokenizer.special_token_id("b"), Some(ids[1]));
        assert_eq!(tokenizer.special_token_id("a"), None);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "ac");
    }

    #[test]
    fn tokens_that_the_file_lacks_are_added_in_the_order_of_their_ids() {
        let size = with(&[]).vocab_size() as u32;
        let decoder = json!({
            "10": { "content": "<|two|>", "special": true },
            "9": { "content": "one", "special": false },
            "0": { "content": "<s>", "special": true },
        });
        let more = json!(["<|three|>", { "content": "<|two|>" }]);
        let keys = json!({ "added_tokens_decoder": decoder, "additional_special_tokens": more });
        let tokenizer = with(&[config(keys)]);
        let ids = tokenizer.encode_rendered("<|two|>one<|three|>").unwrap();
        assert_eq!(ids, [size + 1, size, size + 2]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "one");
        assert_eq!(tokenizer.vocab_size() as u32, size + 3);
    }
}
