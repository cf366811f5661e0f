use std::fs;
use std::io::Write as _;

use longlora_gguf::{GgufFile, NewTensor, write};
use serde_json::json;

use super::*;
use crate::{Companions, train_byte_level_bpe};

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
fn a_tokenizer_of_sentencepiece_comes_back() {
    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    let shared = Path::new(ROOT).join("../shared");
    if !shared.exists() {
        writeln!(
            std::io::stderr(),
            "skipped: a_tokenizer_of_sentencepiece_comes_back: ../shared is absent"
        )
        .unwrap();
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
fn smollm2_comes_back_from_a_folder() {
    let model = Path::new(ROOT).join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !model.exists() {
        writeln!(std::io::stderr(), "skipped: smollm2_comes_back_from_a_folder: models is absent")
            .unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let gguf = GgufFile::open(&model).unwrap();
    Companions::read(&model, 8192).unwrap().write(folder.path()).unwrap();

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
fn ids_that_only_the_model_names_are_said() {
    let folder = saved();
    fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let config = r#"{"bos_token_id": 0, "eos_token_id": [1, 7], "pad_token_id": null}"#;
    fs::write(folder.path().join("config.json"), config).unwrap();
    let metadata = gguf_metadata(folder.path(), 258).unwrap();
    let id = |key| metadata.unsigned(key).unwrap();
    assert_eq!([keys::BOS, keys::EOS, keys::PADDING].map(id), [Some(0), Some(1), None]);
}

/// llama.cpp puts a space before a text that begins with one, too.
#[test]
fn a_text_that_is_split_otherwise_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let named = |json: &Json| {
        fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
        let metadata = gguf_metadata(folder.path(), 5).unwrap();
        split_otherwise_in_gguf(folder.path(), &metadata).unwrap()
    };
    assert_eq!(named(&of_characters()), None);
    let mut json = of_characters();
    json["model"]["vocab"] = json!({"a": 0, "b": 1, "▁": 2, "▁a": 3, "▁▁": 4});
    json["model"]["merges"] = json!([["▁", "a"], ["▁", "▁"]]);
    json["normalizer"] = Json::Null;
    json["pre_tokenizer"] = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false,
    });
    assert_eq!(named(&json).as_deref(), Some(" a"));
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
