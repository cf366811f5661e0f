use std::collections::{HashMap, HashSet};
use std::path::Path;

use longlora_gguf::{Array, GgufFile, Metadata, Value, is_gguf};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::chat::template_source;
use crate::gguf_keys as keys;
use crate::gguf_tokenizer::merges_by_score;
use crate::gguf_vocabulary::TokenKind;
use crate::pre_tokenizer::PreTokenizer;
use crate::tokenizer::{is_byte_token, parse_config, read_if_present};
use crate::{DataError, NotForGguf, Tokenizer};

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
    let config_path = model.join("tokenizer_config.json");
    let config = match read_if_present(&config_path)? {
        Some(content) => parse_config(&config_path, &content)?,
        None => Json::Null,
    };
    let ids = special_ids(&config, &tokenizer);
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

fn special_ids(config: &Json, tokenizer: &Tokenizer) -> SpecialIds {
    let id = |name: &str| {
        let token = &config[name];
        tokenizer.token_id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    SpecialIds {
        bos: id("bos_token"),
        eos: id("eos_token"),
        unknown: id("unk_token"),
        padding: id("pad_token"),
    }
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
mod tests {
    use std::fs;

    use longlora_gguf::{GgufFile, NewTensor, write};
    use serde_json::json;

    use super::*;
    use crate::{save_gguf_tokenizer, train_byte_level_bpe};

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    /// The tokenizer of a folder, to metadata, to a file and back.
    fn there_and_back(model: &Path, vocab_size: usize) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocabulary.gguf");
        let metadata = gguf_metadata(model, vocab_size).unwrap();
        write(&path, &metadata, Vec::<NewTensor>::new()).unwrap();
        assert!(gguf_metadata(&path, vocab_size).unwrap().iter().eq(metadata.iter()));
        Tokenizer::read(&path).unwrap()
    }

    #[track_caller]
    fn check(theirs: &Tokenizer, ours: &Tokenizer, text: &str) {
        let ids = theirs.encode(text).unwrap();
        assert_eq!(ours.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(ours.decode(&ids).unwrap(), theirs.decode(&ids).unwrap(), "{text:?}");
    }

    /// Those that break tokenizers.
    const TEXTS: [&str; 8] = [
        "",
        "   ",
        "<s> </s><unk>",
        "I'll we've DON'T can't",
        "    indented\tcode(){}\r\n",
        "naïve 12345 — 你好 🙂👍🏽",
        "aaaa bbbbbbbb\u{2028}\u{a0}x",
        "▁<0x41>",
    ];

    #[test]
    fn the_embedded_tokenizer_comes_back() {
        let model = Path::new(ROOT).join("assets/model");
        let theirs = Tokenizer::read(&model).unwrap();

        let ours = there_and_back(&model, 2048);

        let page = Path::new(ROOT).join("assets/text/held-out/shakespeare_hamlet.txt");
        check(&theirs, &ours, &fs::read_to_string(page).unwrap());
        TEXTS.iter().for_each(|text| check(&theirs, &ours, text));
        assert_eq!(ours.special_tokens(), theirs.special_tokens());
        assert_eq!(ours.vocab_size(), theirs.vocab_size());
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn a_tokenizer_of_sentencepiece_comes_back() {
        #[derive(Deserialize)]
        struct Case {
            text: String,
            ids: Vec<u32>,
        }
        let shared = Path::new(ROOT).join("../shared");
        if !shared.exists() {
            eprintln!("skipped: a_tokenizer_of_sentencepiece_comes_back: ../shared is absent");
            return;
        }
        let model = shared.join("models/stories260k");
        let theirs = Tokenizer::read(&model).unwrap();

        let ours = there_and_back(&model, 520);

        let cases = fs::read(shared.join("golden/stories260k/tokenizer_cases.json")).unwrap();
        for Case { text, ids } in serde_json::from_slice::<Vec<Case>>(&cases).unwrap() {
            assert_eq!(ours.encode(&text).unwrap(), ids, "{text:?}");
        }
        for page in fs::read_dir(shared.join("corpus/eval")).unwrap() {
            let text = fs::read_to_string(page.unwrap().path()).unwrap();
            let page: String = text.chars().take(20_000).collect();
            check(&theirs, &ours, &page);
        }
        TEXTS.iter().for_each(|text| check(&theirs, &ours, text));
        assert_eq!(ours.special_tokens(), theirs.special_tokens());
        assert_eq!(ours.vocab_size(), 512);
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn smollm2_comes_back_from_a_folder() {
        let model = Path::new(ROOT).join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
        if !model.exists() {
            eprintln!("skipped: smollm2_comes_back_from_a_folder: models is absent");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let gguf = GgufFile::open(&model).unwrap();
        save_gguf_tokenizer(&gguf, folder.path(), 8192).unwrap();

        let ours = gguf_metadata(folder.path(), 49152).unwrap();

        let is_of_tokenizer = |key: &str| key.starts_with("tokenizer.");
        for (key, theirs) in gguf.metadata().iter().filter(|(key, _)| is_of_tokenizer(key)) {
            assert!(ours.get(key) == Some(theirs), "{key}");
        }
    }

    #[test]
    fn ids_without_a_token_are_filled_up() {
        let folder = saved();
        let metadata = gguf_metadata(folder.path(), 262).unwrap();
        let tokens = metadata.strings(keys::TOKENS).unwrap().unwrap();
        assert_eq!(tokens[258..], ["[PAD258]", "[PAD259]", "[PAD260]", "[PAD261]"]);
        let kinds = metadata.integers(keys::TOKEN_TYPE).unwrap().unwrap();
        assert_eq!(kinds[..3], [3, 3, 1]);
        assert_eq!(kinds[257..], [1, 5, 5, 5, 5]);
        assert_eq!(metadata.boolean(keys::ADD_BOS).unwrap(), Some(true));

        let error = gguf_metadata(folder.path(), 257).unwrap_err().to_string();
        assert!(error.contains("257"), "{error}");
    }

    #[test]
    fn the_chat_template_comes_along() {
        let folder = saved();
        fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
        let metadata = gguf_metadata(folder.path(), 258).unwrap();
        assert_eq!(metadata.string(keys::CHAT_TEMPLATE).unwrap(), Some("{{ messages }}"));
    }

    /// The folder of a tokenizer of bytes.
    fn saved() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = train_byte_level_bpe(["a"].into_iter(), 258).unwrap();
        tokenizer.save(&folder.path().join("tokenizer.json")).unwrap();
        folder
    }

    /// A tokenizer like sentencepiece's with one token made in two ways.
    fn of_characters() -> Json {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "byte_fallback": true, "unk_token": null,
                "vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4},
                "merges": [["a", "b"], ["b", "a"], ["a", "ba"], ["ab", "a"]]},
        })
    }

    /// As LLaMA-2 has them: the longest runs of spaces.
    #[test]
    fn tokens_of_equal_scores_come_back() {
        let mut json = of_characters();
        json["model"]["vocab"] = json!({"a": 0, "b": 1, "aa": 2, "aaa": 3, "aaaa": 4});
        json["model"]["merges"] =
            json!([["a", "a"], ["aaa", "a"], ["aa", "aa"], ["aa", "a"], ["a", "aaa"], ["a", "aa"]]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let theirs = Tokenizer::read(folder.path()).unwrap();

        let ours = there_and_back(folder.path(), 5);

        for length in 0..40 {
            check(&theirs, &ours, &"a".repeat(length));
        }
    }

    #[test]
    fn what_gguf_cannot_say_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let check = |json: &Json, expected: Result<(), &str>| {
            fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
            match (gguf_metadata(folder.path(), 300), expected) {
                (Ok(_), Ok(())) => {}
                (Err(error), Err(part)) => {
                    let error = error.to_string();
                    assert!(error.contains(part), "{error}");
                    assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
                }
                (ours, _) => panic!("{ours:?}, not {expected:?}"),
            }
        };
        let changed = |pointer: &str, value: Json| {
            let mut json = of_characters();
            *json.pointer_mut(pointer).unwrap() = value;
            json
        };
        check(&of_characters(), Ok(()));
        check(&changed("/normalizer", json!({"type": "Lowercase"})), Err("`normalizer`"));
        check(&changed("/pre_tokenizer", json!({"type": "Whitespace"})), Err("`pre_tokenizer`"));
        // aba is made before ba, and of one pair only.
        let early = json!([["a", "b"], ["ab", "a"], ["b", "a"], ["a", "ba"]]);
        check(&changed("/model/merges", early), Err("merge `b` and `a`"));
        let one_way = json!([["a", "b"], ["b", "a"], ["ab", "a"]]);
        check(&changed("/model/merges", one_way), Err("merge `a` and `ba`"));
        let words = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"});
        check(&changed("/model", words), Err("`WordLevel`"));
        check(&changed("/model/byte_fallback", json!(false)), Err("`pre_tokenizer`"));
        let twice = json!({"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 0}}], "single": [{"SpecialToken": {"id": "b", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]}}});
        check(&changed("/post_processor", twice), Err("BOS"));
    }
}
