use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use longlora_gguf::{GgufFile, is_gguf};
use serde_json::json;

use crate::tokenizer_config::{TokenizerConfig, config_beside};
use crate::{DataError, atomic};

/// Turns text into token ids and back, as the model's `tokenizer.json` says.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special_tokens: SpecialTokens,
    vocab_size: usize,
}

/// The tokens that begin and end a text, where a model has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpecialTokens {
    /// Beginning of a text.
    pub bos: Option<SpecialToken>,
    /// End of a text; generation stops at it.
    pub eos: Option<SpecialToken>,
}

/// A token that stands for something other than text.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecialToken {
    /// How it is spelled, as in `</s>`.
    pub content: String,
    /// Its id.
    pub id: u32,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or the one in a model's folder, and what `tokenizer_config.json` and
    /// `special_tokens_map.json` beside it add, as transformers' fast tokenizers do; or all of it from a `.gguf` file.
    ///
    /// Truncation and padding that the file asks for are switched off: a book is encoded whole.
    ///
    /// # Errors
    /// A file or folder that is not there, a file of another format, and a special token that is
    /// not in the vocabulary.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        if is_gguf(path) {
            return Self::from_gguf(&GgufFile::open(path)?);
        }
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.into() };
        let Some(content) = read_if_present(&file)? else {
            return Err(match path.is_dir() {
                true => DataError::NoTokenizer { path: path.into() },
                false => DataError::Missing { path: path.into() },
            });
        };
        let bad = |source| DataError::BadTokenizer { path: file.clone(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(content).map_err(bad)?;
        inner.with_truncation(None).map_err(bad)?;
        inner.with_padding(None);
        let special_tokens = TokenizerConfig::beside(&file)?.apply(&mut inner)?;
        Ok(Self::new(inner, special_tokens))
    }

    pub(crate) fn new(inner: tokenizers::Tokenizer, special_tokens: SpecialTokens) -> Self {
        // Vocabularies may have holes: the number of tokens is no bound for the ids.
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        Self { inner, special_tokens, vocab_size }
    }

    /// The ids of a text, with the special tokens that this tokenizer adds to every text.
    ///
    /// # Errors
    /// [`DataError::Encode`], if the tokenizer refuses.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode_with(text, true)
    }

    /// The ids of a text that already has its special tokens, as a rendered
    /// [`ChatTemplate`](crate::ChatTemplate) does: those spelled out in it become their ids, none
    /// is added.
    ///
    /// # Errors
    /// [`DataError::Encode`], if the tokenizer refuses.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, add_special_tokens);
        let encoding =
            encoding.map_err(|source| DataError::Encode { bytes: text.len(), source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text, each with the bytes of it that it stands for: none, of a special token that was added to it.
    pub(crate) fn encode_with_places(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<(u32, Range<usize>)>, DataError> {
        let encoding = self.inner.encode(text, add_special_tokens);
        let encoding =
            encoding.map_err(|source| DataError::Encode { bytes: text.len(), source })?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().copied().zip(places).collect())
    }

    /// The text of ids, special tokens left out.
    ///
    /// So are ids that the tokenizer does not know, as in Hugging Face: many models have more
    /// embeddings than tokens.
    ///
    /// # Errors
    /// [`DataError::Decode`], if the tokenizer refuses.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        let text = self.inner.decode(ids, true);
        text.map_err(|source| DataError::Decode { tokens: ids.len(), source })
    }

    /// How a token is spelled.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token stands for a single byte, as `<0x0A>` does in sentencepiece's vocabularies.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| is_byte_token(&token))
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token by its spelling, as in `</s>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id of a token that stands for something other than text, and is in none that [`decode`](Self::decode) makes.
    pub fn special_token_id(&self, token: &str) -> Option<u32> {
        let is_special = self.inner.get_added_vocabulary().is_special_token(token);
        if is_special { self.token_id(token) } else { None }
    }

    /// Whether a token stands for something other than text.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let token = self.token(id);
        token.is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// The tokens that begin and end a text, as far as the files name them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special_tokens
    }

    /// Writes `tokenizer.json`, replacing what was there as a whole or not at all.
    ///
    /// If there is no `tokenizer_config.json` beside it, writes one that names the special tokens,
    /// so that [`read`](Self::read) and transformers' `AutoTokenizer` find them again.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        atomic::write(path, self.to_json()?.as_bytes())?;
        let config = config_beside(path);
        if config.exists() {
            return Ok(());
        }
        let mut names = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        let SpecialTokens { bos, eos } = &self.special_tokens;
        for (key, token) in [("bos_token", bos), ("eos_token", eos)] {
            if let Some(token) = token {
                names[key] = token.content.as_str().into();
            }
        }
        atomic::write(&config, format!("{names:#}\n").as_bytes())
    }

    pub(crate) fn to_json(&self) -> Result<String, DataError> {
        let json = self.inner.to_string(true);
        json.map_err(|source| DataError::BuildTokenizer { vocab_size: self.vocab_size, source })
    }
}

/// `<0x00>` to `<0xFF>`.
pub(crate) fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

pub(crate) fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        // A link to nothing is there.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() =>
        {
            Ok(None)
        }
        Err(source) => Err(DataError::Read { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde::Deserialize;

    use super::*;
    use crate::train_byte_level_bpe;

    const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");

    fn trained() -> Tokenizer {
        train_byte_level_bpe(["the cat and the hat"; 3].into_iter(), 270).unwrap()
    }

    /// Against the tokenizer of transformers 4.57.1, for the texts that break tokenizers.
    #[test]
    fn ids_match_hugging_face() {
        #[derive(Deserialize)]
        struct Case {
            text: String,
            ids: Vec<u32>,
        }
        let shared = Path::new(SHARED);
        if !shared.exists() {
            writeln!(std::io::stderr(), "skipped: ids_match_hugging_face: ../shared is absent")
                .unwrap();
            return;
        }
        let cases = fs::read(shared.join("golden/stories260k/tokenizer_cases.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
        assert!(!cases.is_empty());

        let tokenizer = Tokenizer::read(&shared.join("models/stories260k")).unwrap();

        for Case { text, ids } in cases {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        }
        assert_eq!(tokenizer.vocab_size(), 512);
        let SpecialTokens { bos, eos } = tokenizer.special_tokens();
        assert_eq!(bos.as_ref().map(|token| token.id), Some(1));
        assert_eq!(eos.as_ref().map(|token| token.id), Some(2));
    }

    #[test]
    fn tokens_with_their_places_are_those_of_the_text() {
        let (tokenizer, text) = (trained(), "the cat</s> café 🙂");
        let placed = tokenizer.encode_with_places(text, true).unwrap();
        let ids: Vec<u32> = placed.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, tokenizer.encode(text).unwrap());
        assert_eq!(placed[0], (0, 0..0));
        let end = placed.iter().find(|(id, _)| *id == 1).unwrap().1.clone();
        assert_eq!(&text[end], "</s>");
        assert_eq!(placed.last().unwrap().1, text.len() - 4..text.len());
        assert!(tokenizer.is_special(1) && !tokenizer.is_special(ids[1]));
    }

    #[test]
    fn a_saved_tokenizer_is_read_back_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let ours = trained();
        ours.save(&folder.path().join("tokenizer.json")).unwrap();

        let read = Tokenizer::read(folder.path()).unwrap();

        assert_eq!(read.to_json().unwrap(), ours.to_json().unwrap());
        assert_eq!(read.special_tokens(), ours.special_tokens());
        assert_eq!(read.vocab_size(), ours.vocab_size());
    }

    #[test]
    fn saving_keeps_the_configuration_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("tokenizer_config.json");
        fs::write(&config, r#"{"bos_token": null, "eos_token": {"content": "</s>"}}"#).unwrap();
        trained().save(&folder.path().join("tokenizer.json")).unwrap();

        let read = Tokenizer::read(folder.path()).unwrap();

        let eos = SpecialToken { content: "</s>".into(), id: 1 };
        assert_eq!(read.special_tokens(), &SpecialTokens { bos: None, eos: Some(eos) });
    }

    #[test]
    fn a_file_that_truncates_does_not_cut_a_book() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut cutting = trained();
        let truncation = tokenizers::TruncationParams { max_length: 4, ..Default::default() };
        cutting.inner.with_truncation(Some(truncation)).unwrap();
        cutting.save(&path).unwrap();
        assert_eq!(cutting.encode("the cat and the hat").unwrap().len(), 4);

        let read = Tokenizer::read(&path).unwrap();

        assert!(read.encode("the cat and the hat").unwrap().len() > 4);
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_left_out() {
        let tokenizer = trained();
        let mut ids = tokenizer.encode("the hat").unwrap();
        ids.push(tokenizer.vocab_size() as u32 + 5);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "the hat");
    }

    #[test]
    fn added_tokens_count_towards_the_vocabulary() {
        let mut inner = trained().inner;
        let known = inner.get_vocab_size(true);
        inner.add_tokens([tokenizers::AddedToken::from("<pad>", true)]).unwrap();
        let tokenizer = Tokenizer::new(inner, SpecialTokens::default());
        assert_eq!(tokenizer.vocab_size(), known + 1);
        assert_eq!(tokenizer.token_id("<pad>"), Some(known as u32));
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let check = |path: &Path, expected: &[&str]| {
            let error = Tokenizer::read(path).unwrap_err().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        };
        check(folder.path(), &["no tokenizer.json"]);
        check(&folder.path().join("absent.json"), &["absent.json", "does not exist"]);
        check(&file("book.json", "once upon a time"), &["book.json"]);

        trained().save(&folder.path().join("tokenizer.json")).unwrap();
        file("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#);
        check(folder.path(), &["tokenizer_config.json", "`<|im_end|>`"]);
        file("tokenizer_config.json", r#"{"eos_token": 5}"#);
        check(folder.path(), &["tokenizer_config.json", "`5`"]);
        file("tokenizer_config.json", "[]");
        check(folder.path(), &["tokenizer_config.json"]);
    }
}
