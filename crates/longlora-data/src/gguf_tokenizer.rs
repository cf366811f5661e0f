use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use longlora_gguf::{GgufFile, Metadata};
use serde_json::{Value as Json, json};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper};

use crate::gguf_keys as keys;
use crate::gguf_vocabulary::{TokenKind, Vocabulary, Words, is_filler};
use crate::tokenizer::is_byte_token;
use crate::tokenizer_config::around_text;
use crate::{DataError, SpecialToken, SpecialTokens, Tokenizer, VocabularyProblem};

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes: byte-level BPE (`gpt2`) or the BPE of
    /// sentencepiece (`llama`).
    ///
    /// It encodes as transformers encodes with the `tokenizer.json` that the file was made from,
    /// BOS and EOS included.
    ///
    /// # Errors
    /// A tokenizer of another kind or with an unknown pre-tokenizer, and one that contradicts
    /// itself.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self, DataError> {
        tokenizer(gguf.metadata(), gguf.path())
    }
}

/// The tokenizer that metadata describe; the path is for errors.
pub(crate) fn tokenizer(metadata: &Metadata, path: &Path) -> Result<Tokenizer, DataError> {
    Vocabulary::read(metadata, path)?.tokenizer(path)
}

/// A GGUF file's tokenizer as a Hugging Face folder has it: `tokenizer.json` and `tokenizer_config.json`, the chat template
/// in the latter, and as `model_max_length` the `context` that the model in the folder has.
///
/// # Errors
/// Those of [`Tokenizer::from_gguf`].
pub(crate) fn files_of_gguf(
    gguf: &GgufFile,
    context: usize,
) -> Result<BTreeMap<PathBuf, Vec<u8>>, DataError> {
    let tokenizer = Tokenizer::from_gguf(gguf)?.to_json()?;
    let mut config = tokenizer_config(gguf.metadata(), gguf.path())?;
    config["model_max_length"] = context.into();
    let config = format!("{config:#}\n");
    let files = [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)];
    Ok(BTreeMap::from(files.map(|(name, content)| (PathBuf::from(name), content.into_bytes()))))
}

/// The `tokenizer_config.json` that belongs to a GGUF file.
pub(crate) fn tokenizer_config(metadata: &Metadata, path: &Path) -> Result<Json, DataError> {
    let vocabulary = Vocabulary::read(metadata, path)?;
    let (bos, eos) = vocabulary.added_ids();
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "add_bos_token": bos.is_some(),
        "add_eos_token": eos.is_some(),
    });
    let Vocabulary { bos, eos, unknown, padding, .. } = vocabulary;
    let names = ["bos_token", "eos_token", "unk_token", "pad_token"];
    for (name, id) in names.into_iter().zip([bos, eos, unknown, padding]) {
        if let Some(id) = id {
            config[name] = vocabulary.token(id).into();
        }
    }
    if let Some(template) = metadata.string(keys::CHAT_TEMPLATE)? {
        config["chat_template"] = template.into();
    }
    Ok(config)
}

impl<'a> Vocabulary<'a> {
    fn tokenizer(&self, path: &Path) -> Result<Tokenizer, DataError> {
        let inner = self.build().map_err(|error| DataError::BadGgufTokenizer {
            path: path.into(),
            key: keys::TOKENS,
            problem: VocabularyProblem::NotBuilt { reason: error.to_string() },
        })?;
        let special =
            |id: Option<u32>| id.map(|id| SpecialToken { content: self.token(id).to_string(), id });
        let special_tokens = SpecialTokens { bos: special(self.bos), eos: special(self.eos) };
        Ok(Tokenizer::new(inner, special_tokens))
    }

    fn build(&self) -> tokenizers::Result<tokenizers::Tokenizer> {
        let model = BPE::builder().vocab_and_merges(self.ids(), self.merges());
        let mut inner = match &self.words {
            Words::Bytes { pre_tokenizer, .. } => {
                let model = model.ignore_merges(pre_tokenizer.ignore_merges);
                let mut inner = tokenizers::Tokenizer::new(model.build()?);
                inner.with_normalizer(pre_tokenizer.normalizer())?;
                inner.with_pre_tokenizer(Some(pre_tokenizer.build()));
                inner.with_decoder(Some(ByteLevel::new(false, true, true)));
                inner
            }
            Words::Characters { prefixes_space, .. } => {
                let mut model = model.fuse_unk(true).byte_fallback(self.has_bytes());
                if let Some(unknown) = self.unknown {
                    model = model.unk_token(self.token(unknown).to_string());
                }
                let mut inner = tokenizers::Tokenizer::new(model.build()?);
                inner.with_normalizer(Some(spaces_to_marks(*prefixes_space)))?;
                inner.with_decoder(Some(marks_to_spaces(*prefixes_space)));
                inner
            }
        };
        let added = |token: &str, special| AddedToken::from(token, special).normalized(false);
        inner.add_special_tokens(self.special().map(|token| added(token, true)))?;
        inner.add_tokens(self.of_kind(TokenKind::UserDefined).map(|token| added(token, false)))?;
        let (bos, eos) = self.added_ids();
        if bos.is_some() || eos.is_some() {
            let [bos, eos] = [bos, eos].map(|id| id.map(|id| (self.token(id), id)));
            inner.with_post_processor(Some(around_text(bos, eos)?));
        }
        Ok(inner)
    }

    /// All but those that only fill up the embedding table.
    fn ids(&self) -> tokenizers::models::bpe::Vocab {
        let named = self.named_ids();
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        let tokens = tokens.map(|(id, (token, kind))| (id as u32, token, *kind));
        tokens
            .filter(|(id, token, kind)| {
                named.contains(id) || !is_filler(*id as usize, token, *kind)
            })
            .map(|(id, token, _)| (token.clone(), id))
            .collect()
    }

    fn merges(&self) -> Vec<(String, String)> {
        let owned = |(left, right): &(&str, &str)| (left.to_string(), right.to_string());
        match &self.words {
            Words::Bytes { merges, .. } => merges.iter().map(owned).collect(),
            Words::Characters { scores, .. } => {
                merges_by_score(self.tokens, scores, &self.kinds).iter().map(owned).collect()
            }
        }
    }

    fn has_bytes(&self) -> bool {
        self.tokens.iter().any(|token| is_byte_token(token))
    }

    fn of_kind(&self, kind: TokenKind) -> impl Iterator<Item = &'a str> {
        let tokens = self.tokens.iter().zip(&self.kinds);
        tokens.filter(move |(_, its)| **its == kind).map(|(token, _)| token.as_str())
    }

    /// What the file calls the beginning, the end, the unknown and the padding.
    fn named_ids(&self) -> Vec<u32> {
        [self.bos, self.eos, self.unknown, self.padding].into_iter().flatten().collect()
    }

    /// Those of the kind, in the order of their ids, and those that the file names.
    fn special(&self) -> impl Iterator<Item = &'a str> {
        let named = self.named_ids();
        let is_special =
            move |id: usize, kind: TokenKind| kind.is_special() || named.contains(&(id as u32));
        let tokens = self.tokens.iter().zip(&self.kinds).enumerate();
        tokens
            .filter(move |(id, (_, kind))| is_special(*id, **kind))
            .map(|(_, (token, _))| token.as_str())
    }
}

/// The merges that choose, of all neighbours that make up a token, those whose token has the highest
/// score; where scores are equal those with the longest left part, as transformers does it
/// (`generate_merges` in `convert_slow_tokenizer.py`).
///
/// Special tokens and bytes are not made of characters.
pub(crate) fn merges_by_score<'a>(
    tokens: &'a [String],
    scores: &[f64],
    kinds: &[TokenKind],
) -> Vec<(&'a str, &'a str)> {
    let all = tokens.iter().zip(scores).zip(kinds).enumerate();
    let all = all.filter(|(id, ((token, _), kind))| !is_filler(*id, token, **kind));
    let known: HashSet<&str> = all.clone().map(|(_, ((token, _), _))| token.as_str()).collect();
    let mut merges = Vec::new();
    for (_, ((token, score), kind)) in all {
        if !matches!(kind, TokenKind::Normal | TokenKind::Unused) {
            continue;
        }
        let cuts = token.char_indices().enumerate().skip(1);
        let cuts = cuts.map(|(length, (place, _))| (length, token.split_at(place)));
        let of_tokens =
            cuts.filter(|(_, (left, right))| known.contains(left) && known.contains(right));
        let characters = token.chars().count();
        merges.extend(of_tokens.map(|(left_length, merge)| {
            let lengths = (left_length, characters - left_length);
            (*score, lengths, merge)
        }));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    merges.into_iter().map(|(.., merge)| merge).collect()
}

fn spaces_to_marks(prefixes_space: bool) -> NormalizerWrapper {
    let prepend = prefixes_space.then(|| json!({"type": "Prepend", "prepend": "▁"}));
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let parts: Vec<_> = prepend.into_iter().chain([replace]).collect();
    serde_json::from_value(json!({"type": "Sequence", "normalizers": parts}))
        .expect("these are normalizers")
}

fn marks_to_spaces(prefixes_space: bool) -> DecoderWrapper {
    let mut parts = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixes_space {
        parts.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    serde_json::from_value(json!({"type": "Sequence", "decoders": parts}))
        .expect("these are decoders")
}

#[cfg(test)]
mod tests;
