use std::collections::{HashMap, HashSet};
use std::path::Path;

use longlora_gguf::Metadata;

use crate::gguf_keys as keys;
use crate::pre_tokenizer::PreTokenizer;
use crate::{DataError, VocabularyProblem};

/// In bytes, where merges are found by cutting every token everywhere, which is its length squared.
/// Sentencepiece stops at 16 characters unless it is told otherwise.
const LONGEST_TOKEN: usize = 1024;

/// Ids before and behind every text, where a text gets any.
pub(crate) type AddedIds = (Option<u32>, Option<u32>);

/// A GGUF file's tokens and all that it says of them, checked.
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokens: &'a [String],
    pub(crate) kinds: Vec<TokenKind>,
    pub(crate) words: Words<'a>,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unknown: Option<u32>,
    pub(crate) padding: Option<u32>,
    pub(crate) adds_bos: bool,
    pub(crate) adds_eos: bool,
}

/// How a text becomes tokens.
pub(crate) enum Words<'a> {
    /// Cut into words, the bytes of which are merged in this order.
    Bytes { pre_tokenizer: &'static PreTokenizer, merges: Vec<(&'a str, &'a str)> },
    /// Characters, and bytes of those that are no tokens, merged where the score of the whole is
    /// highest.
    Characters { scores: Vec<f64>, prefixes_space: bool },
}

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenKind {
    /// As llama.cpp, which takes a kind it does not know for a token like any other.
    fn of(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Whether it stands for something other than text.
    pub(crate) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// Whether an id has no token and a name only because the embedding table has a row for it.
pub(crate) fn is_filler(id: usize, token: &str, kind: TokenKind) -> bool {
    kind == TokenKind::Unused && token == keys::padding_token(id)
}

impl<'a> Vocabulary<'a> {
    /// What metadata say of a tokenizer; the path is for errors.
    pub(crate) fn read(metadata: &'a Metadata, path: &Path) -> Result<Self, DataError> {
        let needed = |key| metadata.missing(key);
        let bad = |key, problem| DataError::BadGgufTokenizer { path: path.into(), key, problem };
        let model = metadata.string(keys::MODEL)?.ok_or_else(|| needed(keys::MODEL))?;
        let tokens = metadata.strings(keys::TOKENS)?.ok_or_else(|| needed(keys::TOKENS))?;
        check_tokens(tokens).map_err(|problem| bad(keys::TOKENS, problem))?;
        let same_length = |key, found| match found == tokens.len() {
            true => Ok(()),
            false => Err(bad(key, VocabularyProblem::Length { found, tokens: tokens.len() })),
        };
        let kinds = metadata.integers(keys::TOKEN_TYPE)?;
        let kinds = kinds.map(|kinds| kinds.into_iter().map(TokenKind::of).collect());
        let kinds: Vec<_> = kinds.unwrap_or_else(|| vec![TokenKind::Normal; tokens.len()]);
        same_length(keys::TOKEN_TYPE, kinds.len())?;
        let is_special = |id: u32| kinds.get(id as usize).is_some_and(|kind| kind.is_special());
        let id = |key, default: Option<u32>| match metadata.unsigned(key)? {
            Some(id) if id < tokens.len() as u64 => Ok(Some(id as u32)),
            Some(id) => Err(bad(key, VocabularyProblem::IdOutside { id, tokens: tokens.len() })),
            None => Ok(default.filter(|id| is_special(*id))),
        };
        let words = match model {
            "gpt2" => Words::bytes(metadata, tokens, &kinds, bad)?,
            "llama" => {
                check_lengths(tokens).map_err(|problem| bad(keys::TOKENS, problem))?;
                let scores = metadata.numbers(keys::SCORES)?.ok_or_else(|| needed(keys::SCORES))?;
                same_length(keys::SCORES, scores.len())?;
                let prefixes_space = metadata.boolean(keys::ADD_SPACE_PREFIX)?.unwrap_or(true);
                Words::Characters { scores, prefixes_space }
            }
            model => {
                let model = model.to_string();
                return Err(bad(keys::MODEL, VocabularyProblem::UnknownModel { model }));
            }
        };
        // What llama.cpp takes for granted.
        let (bos_by_default, defaults) = match &words {
            Words::Bytes { pre_tokenizer, .. } => (pre_tokenizer.adds_bos, [None; 3]),
            Words::Characters { .. } => (true, [Some(1), Some(2), Some(0)]),
        };
        let [bos, eos, unknown] = defaults;
        let vocabulary = Self {
            tokens,
            words,
            bos: id(keys::BOS, bos)?,
            eos: id(keys::EOS, eos)?,
            unknown: id(keys::UNKNOWN, unknown)?,
            padding: id(keys::PADDING, None)?,
            kinds,
            adds_bos: metadata.boolean(keys::ADD_BOS)?.unwrap_or(bos_by_default),
            adds_eos: metadata.boolean(keys::ADD_EOS)?.unwrap_or(false),
        };
        if metadata.boolean(keys::ADD_BOS)? == Some(true) && vocabulary.bos.is_none() {
            return Err(needed(keys::BOS).into());
        }
        if vocabulary.adds_eos && vocabulary.eos.is_none() {
            return Err(needed(keys::EOS).into());
        }
        Ok(vocabulary)
    }

    pub(crate) fn token(&self, id: u32) -> &'a str {
        &self.tokens[id as usize]
    }

    /// BOS and EOS, if a text gets them.
    pub(crate) fn added_ids(&self) -> AddedIds {
        (self.bos.filter(|_| self.adds_bos), self.eos.filter(|_| self.adds_eos))
    }
}

impl<'a> Words<'a> {
    fn bytes(
        metadata: &'a Metadata,
        tokens: &'a [String],
        kinds: &[TokenKind],
        bad: impl Fn(&'static str, VocabularyProblem) -> DataError,
    ) -> Result<Self, DataError> {
        let pre = metadata.string(keys::PRE)?.unwrap_or("default");
        let pre_tokenizer = PreTokenizer::named(pre).ok_or_else(|| {
            bad(keys::PRE, VocabularyProblem::UnknownPreTokenizer { pre: pre.into() })
        })?;
        let merges = metadata.strings(keys::MERGES)?;
        let merges = merges.ok_or_else(|| metadata.missing(keys::MERGES))?;
        let tokens = tokens.iter().zip(kinds).enumerate();
        let known: HashSet<&str> = tokens
            .filter(|(id, (token, kind))| !is_filler(*id, token, **kind))
            .map(|(_, (token, _))| token.as_str())
            .collect();
        let merges = merges.iter().enumerate().map(|(index, merge)| pair(merge, index, &known));
        let merges = merges.collect::<Result<_, _>>();
        Ok(Self::Bytes {
            pre_tokenizer,
            merges: merges.map_err(|problem| bad(keys::MERGES, problem))?,
        })
    }
}

fn check_tokens(tokens: &[String]) -> Result<(), VocabularyProblem> {
    if tokens.is_empty() {
        return Err(VocabularyProblem::Empty);
    }
    let mut seen = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = seen.insert(token.as_str(), id) {
            let token = token.clone();
            return Err(VocabularyProblem::Twice { token, first, second: id });
        }
    }
    Ok(())
}

fn check_lengths(tokens: &[String]) -> Result<(), VocabularyProblem> {
    match tokens.iter().position(|token| token.len() > LONGEST_TOKEN) {
        Some(id) => {
            let (bytes, most) = (tokens[id].len(), LONGEST_TOKEN);
            Err(VocabularyProblem::TooLong { id, bytes, most })
        }
        None => Ok(()),
    }
}

/// Two tokens and a space between; the first may itself begin with a space.
fn pair<'a>(
    merge: &'a str,
    index: usize,
    known: &HashSet<&str>,
) -> Result<(&'a str, &'a str), VocabularyProblem> {
    let no_pair = || VocabularyProblem::NoPair { merge: merge.into(), index };
    let mut spaces = merge.char_indices().skip(1).filter(|(_, character)| *character == ' ');
    let (space, _) = spaces.next().ok_or_else(no_pair)?;
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    for token in [left, right, &[left, right].concat()] {
        if !known.contains(token) {
            return Err(VocabularyProblem::NoToken { token: token.into(), index });
        }
    }
    Ok((left, right))
}
