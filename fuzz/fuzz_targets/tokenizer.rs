//! Whatever a GGUF file says of its tokenizer: it is one that encodes and decodes, or an error that names the file.
//!
//! An input is a GGUF file if it begins as one; any other is taken for a description of one.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;
use std::{env, fs, process};

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use longlora_data::{ChatTemplate, DataError, Tokenizer};
use longlora_gguf::{Array, GgufFile, Metadata, NewTensor, Value, write};

const KEYS: [&str; 14] = [
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.chat_template",
];
const PRE_TOKENIZERS: [&str; 12] = [
    "default",
    "gpt-2",
    "smollm",
    "llama-bpe",
    "smaug-bpe",
    "qwen2",
    "tekken",
    "gpt-4o",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "of nobody",
];
/// What spellings and texts are mostly made of.
const PIECES: [&str; 16] = [
    "a", "b", "ab", "1", " ", "\n", "Ġ", "Ċ", "▁", "é", "中", "<s>", "<0x0A>", "<0xC3>", "[PAD2]",
    "'s",
];

/// A GGUF file's tokenizer, mostly of the right types.
#[derive(Arbitrary, Debug)]
struct Described {
    of_characters: bool,
    pre_tokenizer: u8,
    tokens: Vec<Token>,
    merges: Vec<Merge>,
    ids: [Option<u8>; 4],
    flags: [Option<bool>; 3],
    template: Option<String>,
    odd: Option<(u8, Odd)>,
    text: Spelling,
}

#[derive(Arbitrary, Debug)]
struct Token {
    spelling: Spelling,
    kind: u8,
    score: f32,
}

#[derive(Arbitrary, Debug)]
struct Spelling(Vec<Piece>);

#[derive(Arbitrary, Debug)]
enum Piece {
    Known(u8),
    Any(char),
}

/// Of two tokens by their ids, or of anything.
#[derive(Arbitrary, Debug)]
enum Merge {
    Pair(u8, u8),
    Any(Spelling),
}

/// What a key may have in place of what it should have.
#[derive(Arbitrary, Debug)]
enum Odd {
    Integer(i64),
    Number(f32),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i16>),
    Numbers(Vec<f64>),
}

impl Spelling {
    fn text(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Known(index) => PIECES[usize::from(*index) % PIECES.len()].to_string(),
            Piece::Any(character) => character.to_string(),
        };
        self.0.iter().map(piece).collect()
    }
}

impl Odd {
    fn value(self) -> Value {
        match self {
            Self::Integer(value) => Value::I64(value),
            Self::Number(value) => Value::F32(value),
            Self::Text(text) => Value::String(text),
            Self::Texts(texts) => Value::Array(Array::String(texts)),
            Self::Integers(values) => Value::Array(Array::I16(values)),
            Self::Numbers(values) => Value::Array(Array::F64(values)),
        }
    }
}

impl Described {
    fn metadata(self) -> Metadata {
        let [model, pre, tokens, kinds, scores, merges, ..] = KEYS;
        let mut metadata = Metadata::new();
        let name = if self.of_characters { "llama" } else { "gpt2" };
        metadata.insert(model, Value::String(name.into()));
        let name = PRE_TOKENIZERS[usize::from(self.pre_tokenizer) % PRE_TOKENIZERS.len()];
        metadata.insert(pre, Value::String(name.into()));
        let spellings: Vec<_> = self.tokens.iter().map(|token| token.spelling.text()).collect();
        let merge = |merge: &Merge| match merge {
            Merge::Pair(left, right) => {
                let token = |id: u8| spellings.get(usize::from(id)).map_or("", String::as_str);
                format!("{} {}", token(*left), token(*right))
            }
            Merge::Any(spelling) => spelling.text(),
        };
        let pairs = Array::String(self.merges.iter().map(merge).collect());
        metadata.insert(merges, Value::Array(pairs));
        let numbers = self.tokens.iter().map(|token| i32::from(token.kind % 8)).collect();
        metadata.insert(kinds, Value::Array(Array::I32(numbers)));
        let numbers = self.tokens.iter().map(|token| token.score).collect();
        metadata.insert(scores, Value::Array(Array::F32(numbers)));
        metadata.insert(tokens, Value::Array(Array::String(spellings)));
        for (key, id) in KEYS[6..10].iter().zip(self.ids) {
            if let Some(id) = id {
                metadata.insert(*key, Value::U32(id.into()));
            }
        }
        for (key, flag) in KEYS[10..13].iter().zip(self.flags) {
            if let Some(flag) = flag {
                metadata.insert(*key, Value::Bool(flag));
            }
        }
        if let Some(template) = self.template {
            metadata.insert(KEYS[13], Value::String(template));
        }
        if let Some((key, odd)) = self.odd {
            metadata.insert(KEYS[usize::from(key) % KEYS.len()], odd.value());
        }
        metadata
    }
}

/// The one file of this process.
static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = env::temp_dir().join(format!("longlora-fuzz-tokenizer-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder.join("model.gguf")
});

fuzz_target!(|bytes: &[u8]| {
    let text = if bytes.starts_with(b"GGUF") {
        fs::write(&*PATH, bytes).expect("a file");
        PIECES.concat()
    } else {
        let Ok(described) = Described::arbitrary_take_rest(Unstructured::new(bytes)) else {
            return;
        };
        let text = described.text.text();
        let written = write(&PATH, &described.metadata(), Vec::<NewTensor>::new());
        written.expect("metadata of ours");
        text
    };
    let Ok(file) = GgufFile::open(&PATH) else { return };
    let Some(tokenizer) = check(Tokenizer::from_gguf(&file)) else { return };
    if let Ok(ids) = tokenizer.encode(&text) {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "{ids:?}");
        let _ = tokenizer.decode(&ids);
        let mut stream = tokenizer.decode_stream();
        for id in ids {
            let _ = stream.push(id);
        }
        stream.finish();
    }
    check(ChatTemplate::from_gguf(&file, &tokenizer));
});

fn check<T>(read: Result<T, DataError>) -> Option<T> {
    read.map_err(|error| {
        let sentence = error.to_string();
        assert!(sentence.contains(&PATH.display().to_string()), "{sentence}");
        assert!(!sentence.contains(char::is_control) && sentence.len() < 4000, "{sentence}");
    })
    .ok()
}
