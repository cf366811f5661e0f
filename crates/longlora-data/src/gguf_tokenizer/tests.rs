use std::fs;
use std::io::Write as _;

use longlora_gguf::{Array, NewTensor, Value, write};
use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::{ChatTemplate, Companions, Message};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn strings(texts: &[&str]) -> Value {
    Value::Array(Array::String(texts.iter().map(|text| text.to_string()).collect()))
}

/// Byte-level, of six tokens.
fn bytes() -> Metadata {
    let mut metadata = Metadata::new();
    let tokens = ["<|end|>", "a", "b", "ab", "abab", "<tool>", "[PAD6]"];
    metadata.insert("general.architecture", Value::String("llama".into()));
    metadata.insert("llama.context_length", Value::U32(2048));
    metadata.insert(keys::MODEL, Value::String("gpt2".into()));
    metadata.insert(keys::PRE, Value::String("smollm".into()));
    metadata.insert(keys::TOKENS, strings(&tokens));
    metadata.insert(keys::TOKEN_TYPE, Value::Array(Array::I32(vec![3, 1, 1, 1, 1, 4, 5])));
    metadata.insert(keys::MERGES, strings(&["a b", "ab ab"]));
    metadata.insert(keys::BOS, Value::U32(0));
    metadata.insert(keys::EOS, Value::U32(0));
    metadata
}

/// Sentencepiece's, where `▁ab` is worth more than `bc`, which is worth more than `ab`.
fn characters() -> Metadata {
    let mut metadata = Metadata::new();
    let tokens =
        ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁ab", "bc", "ab", "▁", "a", "b", "c"];
    let scores = [0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0];
    metadata.insert(keys::MODEL, Value::String("llama".into()));
    metadata.insert(keys::TOKENS, strings(&tokens));
    metadata.insert(keys::SCORES, Value::Array(Array::F32(scores.to_vec())));
    let kinds = vec![2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1, 1];
    metadata.insert(keys::TOKEN_TYPE, Value::Array(Array::I32(kinds)));
    metadata
}

fn with(mut metadata: Metadata, key: &str, value: Value) -> Metadata {
    metadata.insert(key, value);
    metadata
}

fn without(metadata: &Metadata, key: &str) -> Metadata {
    let mut rest = Metadata::new();
    for (kept, value) in metadata.iter().filter(|(kept, _)| *kept != key) {
        rest.insert(kept, value.clone());
    }
    rest
}

fn build(metadata: &Metadata) -> Result<Tokenizer, DataError> {
    tokenizer(metadata, Path::new("some.gguf"))
}

#[track_caller]
fn encodes(metadata: &Metadata, text: &str, expected: &[u32]) {
    let ours = build(metadata).unwrap();
    assert_eq!(ours.encode(text).unwrap(), expected, "{text:?}");
}

#[test]
fn a_byte_level_tokenizer_is_built() {
    encodes(&bytes(), "abab", &[4]);
    encodes(&bytes(), "a<tool>ab<|end|>b", &[1, 5, 3, 0, 2]);
    let tokenizer = build(&bytes()).unwrap();
    assert_eq!(tokenizer.decode(&[4, 5, 0, 6]).unwrap(), "abab<tool>", "5 is not special");
    assert_eq!(tokenizer.vocab_size(), 6, "[PAD6] only fills up");
    assert_eq!(tokenizer.special_tokens().eos.as_ref().map(|token| token.id), Some(0));
}

#[test]
fn a_tokenizer_of_sentencepiece_is_built() {
    // `bc` is merged before `ab` is, and then nothing fits.
    encodes(&characters(), "abc", &[1, 8, 9, 6]);
    encodes(&characters(), "ab ab", &[1, 5, 5]);
    encodes(&characters(), "é", &[1, 8, 3, 4]);
    encodes(&characters(), "x", &[1, 8, 0]);
    let tokenizer = build(&characters()).unwrap();
    assert_eq!(tokenizer.decode(&[1, 5, 5, 3, 4]).unwrap(), "ab abé");
    let plain = with(characters(), keys::ADD_SPACE_PREFIX, Value::Bool(false));
    encodes(&plain, "ab", &[1, 7]);
}

#[test]
fn bos_and_eos_are_added_where_the_file_says_so() {
    let (yes, no) = (Value::Bool(true), Value::Bool(false));
    encodes(&with(bytes(), keys::ADD_BOS, yes.clone()), "a", &[0, 1]);
    encodes(&with(bytes(), keys::ADD_EOS, yes.clone()), "a", &[1, 0]);
    let both = with(with(bytes(), keys::ADD_BOS, yes.clone()), keys::ADD_EOS, yes.clone());
    encodes(&both, "a", &[0, 1, 0]);
    encodes(&with(characters(), keys::ADD_BOS, no), "ab", &[5]);
    encodes(&with(characters(), keys::ADD_EOS, yes), "ab", &[1, 5, 2]);
    encodes(&with(bytes(), keys::PRE, Value::String("llama-bpe".into())), "a", &[0, 1]);
    let rendered = build(&characters()).unwrap().encode_rendered("<s>ab").unwrap();
    assert_eq!(rendered, [1, 5]);
}

#[test]
fn torn_metadata_is_one_sentence_with_the_file_and_the_key() {
    let text = |text: &str| Value::String(text.into());
    let check = |metadata: Metadata, key: &str, part: &str| {
        let error = build(&metadata).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(part), "{error}");
        assert!(!error.contains('\n'), "{error}");
        error
    };
    for key in [keys::MODEL, keys::TOKENS, keys::MERGES] {
        check(without(&bytes(), key), key, "");
    }
    check(without(&characters(), keys::SCORES), keys::SCORES, "");
    check(with(bytes(), keys::TOKENS, Value::U32(7)), keys::TOKENS, "");

    let long = |tokens: usize| {
        let mut texts: Vec<_> = (1..tokens).map(|id| format!("t{id}")).collect();
        texts.push("b".repeat(1025));
        Value::Array(Array::String(texts))
    };
    let torn = |metadata, key, value, part| {
        let error = check(with(metadata, key, value), key, part);
        assert!(error.contains("some.gguf"), "{error}");
    };
    torn(bytes(), keys::MODEL, text("bert"), "`bert`");
    torn(bytes(), keys::PRE, text("tuesday"), "`tuesday`");
    torn(bytes(), keys::TOKENS, strings(&[]), "empty");
    torn(bytes(), keys::TOKENS, strings(&["a", "b", "a"]), "`a` twice, as `0` and as `2`");
    torn(characters(), keys::TOKENS, long(12), "`1025` bytes, `11`");
    let short = Value::Array(Array::I32(vec![3, 1]));
    torn(bytes(), keys::TOKEN_TYPE, short, "`2` entries for `7` tokens");
    let short = Value::Array(Array::F32(vec![0.0]));
    torn(characters(), keys::SCORES, short, "`1` entries for `12` tokens");
    torn(bytes(), keys::MERGES, strings(&["a b", "ab"]), "`ab` at `1`");
    torn(bytes(), keys::MERGES, strings(&[""]), "`` at `0`");
    torn(bytes(), keys::MERGES, strings(&["a c"]), "`c` at `0`");
    torn(bytes(), keys::MERGES, strings(&["b a"]), "`ba` at `0`");
    torn(bytes(), keys::MERGES, strings(&["a b", "abab abab"]), "`abababab` at `1`");
    let filler = with(bytes(), keys::TOKENS, {
        strings(&["<|end|>", "a", "b", "ab", "[PAD", "6]", "[PAD6]"])
    });
    torn(filler, keys::MERGES, strings(&["a b", "[PAD 6]"]), "`[PAD6]` at `1`");
    torn(bytes(), keys::EOS, Value::U32(7), "`7`");
    torn(bytes(), keys::PADDING, Value::U64(u64::MAX), "only `7` tokens");
    let no_bos = with(without(&bytes(), keys::BOS), keys::ADD_BOS, Value::Bool(true));
    check(no_bos, keys::BOS, "");
}

#[test]
fn a_filler_that_the_file_names_is_a_token() {
    let named = with(bytes(), keys::PADDING, Value::U32(6));
    encodes(&named, "a[PAD6]", &[1, 6]);
    assert_eq!(build(&named).unwrap().vocab_size(), 7);
}

fn any_metadata() -> impl Strategy<Value = Metadata> {
    let parts = ["a", "b", "[PAD", "3]", "▁", "<0x61>", " ", "ü"].map(str::to_string);
    let token = prop::collection::vec(prop::sample::select(parts.to_vec()), 0..4);
    let tokens = prop::collection::vec(token.prop_map(|parts| parts.concat()), 1..12);
    let merges = prop::collection::vec((0_usize..12, 0_usize..12), 0..6);
    let kinds = prop::collection::vec(0_i32..8, 12);
    let ids = prop::collection::vec(0_u32..13, 4);
    let model = prop::sample::select(vec!["gpt2", "llama"]);
    (tokens, merges, kinds, ids, model, prop::bool::ANY).prop_map(
        |(mut tokens, merges, kinds, ids, model, adds)| {
            tokens.sort();
            tokens.dedup();
            let place = |place: usize| tokens[place % tokens.len()].as_str();
            let merges: Vec<_> = merges
                .into_iter()
                .map(|(left, right)| format!("{} {}", place(left), place(right)))
                .collect();
            let scores = (0..tokens.len()).map(|id| -(id as f32)).collect();
            let mut metadata = bytes();
            metadata.insert(keys::MODEL, Value::String(model.into()));
            metadata.insert(keys::MERGES, Value::Array(Array::String(merges)));
            metadata.insert(keys::SCORES, Value::Array(Array::F32(scores)));
            let kinds = kinds[..tokens.len()].to_vec();
            metadata.insert(keys::TOKEN_TYPE, Value::Array(Array::I32(kinds)));
            metadata.insert(keys::TOKENS, Value::Array(Array::String(tokens)));
            let named = [keys::BOS, keys::EOS, keys::UNKNOWN, keys::PADDING];
            for (key, id) in named.into_iter().zip(ids) {
                metadata.insert(key, Value::U32(id));
            }
            metadata.insert(keys::ADD_BOS, Value::Bool(adds));
            metadata.insert(keys::ADD_EOS, Value::Bool(adds));
            metadata
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// And ids are those of the file's tokens.
    #[test]
    fn no_metadata_are_a_panic(metadata in any_metadata(), text in "[abü <>3]{0,12}") {
        let Ok(tokenizer) = build(&metadata) else { return Ok(()) };
        let tokens = metadata.strings(keys::TOKENS).unwrap().unwrap();
        let ids = tokenizer.encode(&text).unwrap_or_default();
        for id in ids {
            prop_assert_eq!(tokenizer.token(id), tokens.get(id as usize).cloned());
        }
    }
}

#[test]
fn strange_scores_are_no_panic() {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, f32::NAN];
    let scores = odd.iter().cycle().take(12).copied().collect();
    let strange = with(characters(), keys::SCORES, Value::Array(Array::F32(scores)));
    assert!(build(&strange).unwrap().encode("abc").is_ok());
}

/// `[PAD3]` only fills up, so `a[PAD3]` cannot be made of it.
#[test]
fn a_token_may_end_as_a_filler_is_named() {
    let mut metadata = Metadata::new();
    metadata.insert(keys::MODEL, Value::String("llama".into()));
    metadata.insert(keys::TOKENS, strings(&["<unk>", "a", "a[PAD3]", "[PAD3]"]));
    metadata.insert(keys::SCORES, Value::Array(Array::F32(vec![0.0; 4])));
    metadata.insert(keys::TOKEN_TYPE, Value::Array(Array::I32(vec![2, 1, 1, 5])));
    let tokenizer = build(&metadata).unwrap();
    assert_eq!((tokenizer.token_id("a[PAD3]"), tokenizer.token_id("[PAD3]")), (Some(2), None));
}

#[test]
fn an_error_shows_a_strange_name_on_one_short_line() {
    let strange = format!("\u{1b}[2J{}", "a".repeat(100_000));
    let value = || Value::String(strange.clone());
    let unknown = [
        with(characters(), keys::MODEL, value()),
        with(bytes(), keys::PRE, value()),
        with(bytes(), keys::MERGES, strings(&[&strange])),
        with(bytes(), keys::MERGES, strings(&[&format!("a {strange}")])),
        with(bytes(), keys::TOKENS, strings(&[&strange, &strange])),
    ];
    for metadata in unknown {
        let sentence = build(&metadata).unwrap_err().to_string();
        assert!(sentence.contains("`some.gguf`") && sentence.contains("[2J"), "{sentence}");
        assert!(sentence.len() < 300 && !sentence.contains('\u{1b}'), "{sentence}");
    }
}

#[test]
fn a_folder_is_written_that_reads_as_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    let template = Value::String("{{ bos_token }}{{ messages[0].content }}".into());
    let metadata = with(characters(), keys::CHAT_TEMPLATE, template);
    write(&path, &metadata, Vec::<NewTensor>::new()).unwrap();
    Companions::read(&path, 1024).unwrap().write(folder.path()).unwrap();

    let from_file = Tokenizer::read(&path).unwrap();
    let from_folder = Tokenizer::read(folder.path()).unwrap();

    assert_eq!(from_file.to_json().unwrap(), from_folder.to_json().unwrap());
    assert_eq!(from_file.special_tokens(), from_folder.special_tokens());
    let hello = [Message::new("user", "ab")];
    for model in [path.as_path(), folder.path()] {
        let template = ChatTemplate::read(model, &from_file).unwrap().unwrap();
        assert_eq!(template.render(&hello, false).unwrap(), "<s>ab");
    }
    let config = fs::read(folder.path().join("tokenizer_config.json")).unwrap();
    let config: Json = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["model_max_length"], 1024);
}

#[test]
fn the_configuration_says_what_transformers_needs() {
    let config = tokenizer_config(&bytes(), Path::new("some.gguf")).unwrap();
    assert_eq!(config["eos_token"], "<|end|>");
    assert_eq!(config["pad_token"], Json::Null);
    assert_eq!(config["add_bos_token"], false);
    assert_eq!(config["clean_up_tokenization_spaces"], false);
}

/// Against the tokenizer of transformers 4.57.1, made from the model's own `tokenizer.json`.
#[test]
fn ids_of_smollm2_match_hugging_face() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    let model = Path::new(ROOT).join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let cases = Path::new(ROOT).join("../shared/golden/smollm2/tokenizer_cases.json");
    if !model.exists() || !cases.exists() {
        writeln!(
            std::io::stderr(),
            "skipped: ids_of_smollm2_match_hugging_face: the model or ../shared is absent"
        )
        .unwrap();
        return;
    }
    let cases: Vec<Case> = serde_json::from_slice(&fs::read(cases).unwrap()).unwrap();
    assert!(!cases.is_empty());

    let tokenizer = Tokenizer::read(&model).unwrap();

    for Case { text, ids } in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        let mut stream = tokenizer.decode_stream();
        let pieces: Vec<_> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        let whole = tokenizer.decode(&ids).unwrap();
        assert_eq!(pieces.concat() + &stream.finish(), whole, "{text:?}");
    }
    assert_eq!(tokenizer.vocab_size(), 49152);
    let chat = ChatTemplate::read(&model, &tokenizer).unwrap().unwrap();
    let rendered = chat.render(&[Message::new("user", "Hi")], true).unwrap();
    let ids = tokenizer.encode_rendered(&rendered).unwrap();
    assert_eq!((ids[0], ids[1]), (1, 9690), "<|im_start|>system");
}
