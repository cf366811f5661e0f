use std::collections::{HashMap, HashSet};
use std::path::Path;

use longlora_gguf::{Array, GgufFile, Metadata, Value, is_gguf};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::chat::template_source;
use crate::gguf_keys as keys;
use crate::gguf_tokenizer::{self, merges_by_score};
use crate::gguf_vocabulary::TokenKind;
use crate::pre_tokenizer::PreTokenizer;
use crate::tokenizer::{is_byte_token, read_if_present};
use crate::tokenizer_config::TokenizerConfig;
use crate::{DataError, NotForGguf, SpecialTokens, Tokenizer};

/// What a GGUF file says of the tokenizer in a model's Hugging Face folder: all of its
/// `tokenizer.ggml.*`, and the chat template. If the model is a GGUF file itself, that is what it
/// says already.
///
/// `vocab_size` is that of the embedding table; ids that no token has become `[PAD…]`, as in
/// llama.cpp.
///
/// # Errors
/// A folder that [`Tokenizer::read`] refuses, ids beyond `vocab_size`, and a tokenizer that llama.cpp
/// would not understand as it is meant.
pub fn gguf_metadata(model: &Path, vocab_size: usize) -> Result<Metadata, DataError> {
    if is_gguf(model) {
        return said_already(&GgufFile::open(model)?);
    }
    if !model.is_dir() {
        return Err(DataError::NoTokenizer { path: model.into() });
    }
    let tokenizer = Tokenizer::read(model)?;
    if tokenizer.vocab_size() > vocab_size {
        let token = tokenizer.vocab_size() as u32 - 1;
        return Err(DataError::TokenOutsideVocabulary { token, vocab_size });
    }
    let refused = |reason| DataError::NotForGguf { path: model.into(), reason };
    let parts: Parts = serde_json::from_str(&tokenizer.to_json()?)
        .map_err(|error| DataError::BadTokenizer { path: model.into(), source: error.into() })?;

    let mut metadata = Metadata::new();
    let tokens = tokens(&tokenizer, vocab_size);
    let config = TokenizerConfig::beside(&model.join("tokenizer.json"))?.into_keys();
    let ids = special_ids(model, &config, &tokenizer)?;
    let kinds = kinds(&tokens, &parts, ids.unknown);
    parts.describe(&tokens, &kinds, &mut metadata).map_err(refused)?;
    let kinds = kinds.into_iter().map(|kind| kind as i32).collect();
    let tokens = tokens.into_iter().map(|token| token.text).collect();
    metadata.insert(keys::TOKENS, Value::Array(Array::String(tokens)));
    metadata.insert(keys::TOKEN_TYPE, Value::Array(Array::I32(kinds)));
    ids.describe(&mut metadata);
    let (adds_bos, adds_eos) =
        added(&tokenizer, &ids)?.ok_or(NotForGguf::PostProcessor).map_err(refused)?;
    metadata.insert(keys::ADD_BOS, Value::Bool(adds_bos));
    metadata.insert(keys::ADD_EOS, Value::Bool(adds_eos));
    if let Some((_, template)) = template_source(model, &config)? {
        metadata.insert(keys::CHAT_TEMPLATE, Value::String(template));
    }
    Ok(metadata)
}

fn said_already(gguf: &GgufFile) -> Result<Metadata, DataError> {
    // What cannot be read is not passed on.
    Tokenizer::from_gguf(gguf)?;
    let mut metadata = Metadata::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        metadata.insert(key, value.clone());
    }
    Ok(metadata)
}

/// An id's spelling; made up if no token has it.
struct Token {
    text: String,
    exists: bool,
}

/// What `tokenizer.json` says, in the form that the `tokenizers` crate writes.
#[derive(Deserialize)]
struct Parts {
    model: Json,
    normalizer: Json,
    pre_tokenizer: Json,
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    special: bool,
}

#[derive(Deserialize)]
struct Bpe {
    merges: Vec<(String, String)>,
    byte_fallback: bool,
    ignore_merges: bool,
}

impl Parts {
    fn is_byte_level(&self) -> bool {
        self.model["byte_fallback"] != true
    }

    fn describe(
        &self,
        tokens: &[Token],
        kinds: &[TokenKind],
        metadata: &mut Metadata,
    ) -> Result<(), NotForGguf> {
        let model = self.model["type"].as_str().unwrap_or_default();
        let not_bpe = || NotForGguf::Model { model: model.into() };
        if model != "BPE" {
            return Err(not_bpe());
        }
        let bpe = Bpe::deserialize(&self.model).map_err(|_| not_bpe())?;
        match bpe.byte_fallback {
            false => self.describe_bytes(bpe, metadata),
            true => self.describe_characters(bpe, tokens, kinds, metadata),
        }
    }

    fn describe_bytes(&self, bpe: Bpe, metadata: &mut Metadata) -> Result<(), NotForGguf> {
        let Self { pre_tokenizer, normalizer, .. } = self;
        let known = PreTokenizer::recognise(pre_tokenizer, normalizer, bpe.ignore_merges);
        let known = known.ok_or(NotForGguf::PreTokenizer)?;
        let merges = bpe.merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        metadata.insert(keys::MODEL, Value::String("gpt2".into()));
        metadata.insert(keys::PRE, Value::String(known.names[0].into()));
        metadata.insert(keys::MERGES, Value::Array(Array::String(merges)));
        metadata.insert(keys::ADD_SPACE_PREFIX, Value::Bool(false));
        Ok(())
    }

    fn describe_characters(
        &self,
        bpe: Bpe,
        tokens: &[Token],
        kinds: &[TokenKind],
        metadata: &mut Metadata,
    ) -> Result<(), NotForGguf> {
        let prefixes_space = prefixes_space(&self.normalizer, &self.pre_tokenizer);
        let prefixes_space = prefixes_space.ok_or(NotForGguf::PreTokenizer)?;
        let scores = scores(tokens, kinds, &bpe.merges);
        check_scores(tokens, &scores, kinds, &bpe.merges)?;
        metadata.insert(keys::MODEL, Value::String("llama".into()));
        metadata.insert(keys::PRE, Value::String("default".into()));
        metadata.insert(keys::SCORES, Value::Array(Array::F32(scores)));
        metadata.insert(keys::ADD_SPACE_PREFIX, Value::Bool(prefixes_space));
        Ok(())
    }
}

fn tokens(tokenizer: &Tokenizer, vocab_size: usize) -> Vec<Token> {
    let token = |id: usize| match tokenizer.token(id as u32) {
        Some(text) => Token { text, exists: true },
        None => Token { text: keys::padding_token(id), exists: false },
    };
    (0..vocab_size).map(token).collect()
}

fn kinds(tokens: &[Token], parts: &Parts, unknown: Option<u32>) -> Vec<TokenKind> {
    let byte_level = parts.is_byte_level();
    let mut kinds: Vec<_> = tokens
        .iter()
        .map(|token| match token.exists {
            false => TokenKind::Unused,
            true if !byte_level && is_byte_token(&token.text) => TokenKind::Byte,
            true => TokenKind::Normal,
        })
        .collect();
    for Added { id, special } in &parts.added_tokens {
        kinds[*id] = if *special { TokenKind::Control } else { TokenKind::UserDefined };
    }
    if let Some(unknown) = unknown.filter(|_| !byte_level) {
        kinds[unknown as usize] = TokenKind::Unknown;
    }
    kinds
}

/// The highest for what is merged first, counted down by one; the lowest for what is never merged.
/// Special tokens and bytes have none.
fn scores(tokens: &[Token], kinds: &[TokenKind], merges: &[(String, String)]) -> Vec<f32> {
    let (rank_of, mut next_rank) = ranks(merges);
    let mut score = |token: &Token, kind: &TokenKind| {
        if *kind != TokenKind::Normal {
            return 0.0;
        }
        let rank = rank_of.get(&token.text).copied().unwrap_or_else(|| {
            next_rank += 1;
            next_rank - 1
        });
        -(rank as f32)
    };
    tokens.iter().zip(kinds).map(|(token, kind)| score(token, kind)).collect()
}

/// Places of tokens in the order in which they are made, and how many there are. Tokens whose merges
/// are mixed with each other have one place: their scores were equal.
fn ranks(merges: &[(String, String)]) -> (HashMap<String, usize>, usize) {
    let wholes: Vec<String> =
        merges.iter().map(|(left, right)| [left.as_str(), right].concat()).collect();
    let last_of: HashMap<&str, usize> =
        wholes.iter().enumerate().map(|(index, whole)| (whole.as_str(), index)).collect();
    let mut rank_of = HashMap::new();
    let mut ranks = 0;
    let mut end = 0; // of the merges that are mixed with one before
    for (index, whole) in wholes.iter().enumerate() {
        if index >= end {
            ranks += 1;
        }
        end = end.max(last_of[whole.as_str()] + 1);
        rank_of.entry(whole.clone()).or_insert(ranks - 1);
    }
    (rank_of, ranks)
}

/// Scores say in which order tokens are made, not out of which parts. So all parts must be there,
/// those of one token together.
fn check_scores(
    tokens: &[Token],
    scores: &[f32],
    kinds: &[TokenKind],
    merges: &[(String, String)],
) -> Result<(), NotForGguf> {
    let spellings: Vec<String> = tokens.iter().map(|token| token.text.clone()).collect();
    let scores: Vec<f64> = scores.iter().copied().map(f64::from).collect();
    let by_score = merges_by_score(&spellings, &scores, kinds);
    let ours: HashSet<(&str, &str)> =
        merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    let differs =
        |left: &str, right: &str| NotForGguf::Merges { left: left.into(), right: right.into() };
    if let Some((left, right)) = by_score.iter().find(|merge| !ours.contains(merge)) {
        return Err(differs(left, right));
    }
    let whole = |(left, right): (&str, &str)| [left, right].concat();
    for ((left, right), theirs) in merges.iter().zip(&by_score) {
        if whole((left, right)) != whole(*theirs) {
            return Err(differs(left, right));
        }
    }
    match merges.get(by_score.len()) {
        Some((left, right)) => Err(differs(left, right)),
        None => Ok(()),
    }
}

/// Whether a text gets a space in front; `None` if more than that is done to it.
fn prefixes_space(normalizer: &Json, pre_tokenizer: &Json) -> Option<bool> {
    let is_prepend = |part: &Json| part["type"] == "Prepend" && part["prepend"] == "▁";
    let is_replace = |part: &Json| {
        part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == "▁"
    };
    if !pre_tokenizer.is_null() {
        let marks = pre_tokenizer["type"] == "Metaspace"
            && pre_tokenizer["replacement"] == "▁"
            && pre_tokenizer["split"] == false;
        return (marks && normalizer.is_null()).then(|| pre_tokenizer["prepend_scheme"] != "never");
    }
    if is_replace(normalizer) {
        return Some(false);
    }
    match normalizer["normalizers"].as_array()?.as_slice() {
        [replace] if is_replace(replace) => Some(false),
        [prepend, replace] if is_prepend(prepend) && is_replace(replace) => Some(true),
        _ => None,
    }
}

struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
}

/// Those that the tokenizer's files name, else those of the model's `config.json`, as in llama.cpp: without any it would take
/// one that its kind of vocabulary often has.
fn special_ids(
    model: &Path,
    config: &Json,
    tokenizer: &Tokenizer,
) -> Result<SpecialIds, DataError> {
    let content = read_if_present(&model.join("config.json"))?;
    let of_model: Json =
        content.and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default();
    let in_model = |key: &str| {
        let id = of_model[key].as_u64().or_else(|| of_model[key][0].as_u64())?;
        u32::try_from(id).ok().filter(|&id| tokenizer.token(id).is_some())
    };
    let id = |name: &str| {
        let token = &config[name];
        tokenizer.token_id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    let SpecialTokens { bos, eos } = tokenizer.special_tokens();
    Ok(SpecialIds {
        bos: bos.as_ref().map(|token| token.id).or_else(|| in_model("bos_token_id")),
        eos: eos.as_ref().map(|token| token.id).or_else(|| in_model("eos_token_id")),
        unknown: id("unk_token"),
        padding: id("pad_token").or_else(|| in_model("pad_token_id")),
    })
}

/// A text that llama.cpp will split otherwise than the tokenizer of the folder does, if there is one: it puts a space before
/// every text and behind every special token or before none, and takes spaces beside a token for text.
///
/// # Errors
/// Those of both tokenizers.
pub fn split_otherwise_in_gguf(
    model: &Path,
    metadata: &Metadata,
) -> Result<Option<String>, DataError> {
    if is_gguf(model) {
        return Ok(None);
    }
    let (ours, theirs) = (Tokenizer::read(model)?, gguf_tokenizer::tokenizer(metadata, model)?);
    let SpecialTokens { bos, eos } = theirs.special_tokens();
    let special: Vec<_> = [bos, eos].into_iter().flatten().map(|token| &token.content).collect();
    let after = special.iter().flat_map(|token| {
        [format!("{token}a"), format!("{token} a"), format!("a{token}  a"), format!("a {token}a")]
    });
    for text in ["a", " a", "  a b", "a\n b"].map(str::to_owned).into_iter().chain(after) {
        if ours.encode_rendered(&text)? != theirs.encode_rendered(&text)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

impl SpecialIds {
    fn describe(&self, metadata: &mut Metadata) {
        let Self { bos, eos, unknown, padding } = self;
        let named = [
            (keys::BOS, bos),
            (keys::EOS, eos),
            (keys::UNKNOWN, unknown),
            (keys::PADDING, padding),
        ];
        for (key, id) in named {
            if let Some(id) = id {
                metadata.insert(key, Value::U32(*id));
            }
        }
    }
}

/// Whether a text gets BOS before and EOS behind; `None` if it gets something else.
fn added(tokenizer: &Tokenizer, ids: &SpecialIds) -> Result<Option<(bool, bool)>, DataError> {
    let plain = tokenizer.encode_rendered("a")?;
    let whole = tokenizer.encode("a")?;
    let with = |bos: bool, eos: bool| {
        let before = ids.bos.filter(|_| bos);
        let behind = ids.eos.filter(|_| eos);
        before.into_iter().chain(plain.iter().copied()).chain(behind).collect::<Vec<_>>()
    };
    let all = [(false, false), (true, false), (false, true), (true, true)];
    Ok(all.into_iter().find(|(bos, eos)| with(*bos, *eos) == whole))
}

#[cfg(test)]
mod tests;
