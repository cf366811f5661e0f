use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

/// How a byte-level tokenizer cuts a text into the words that it then merges bytes in, under the
/// name that GGUF files have for it (`tokenizer.ggml.pre`).
///
/// The names and what they mean are llama.cpp's (`src/llama-vocab.cpp`); where the original
/// `tokenizer.json` says it otherwise, it is taken as the original says it.
#[derive(Debug, PartialEq)]
pub(crate) struct PreTokenizer {
    /// All names of it, the one to write first.
    pub(crate) names: &'static [&'static str],
    pub(crate) steps: &'static [Step],
    /// Whether the text is first brought into the normal form NFC.
    pub(crate) nfc: bool,
    /// Whether a word that is a token is taken as it is, however it would be merged.
    pub(crate) ignore_merges: bool,
    /// Whether a text begins with BOS if the file does not say.
    pub(crate) adds_bos: bool,
}

/// One cut after the other, each within the pieces of the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// Every match of a regular expression is a piece, and so is what lies between.
    Split(&'static str),
    /// Every digit is a piece.
    Digits,
    /// GPT-2's words.
    Words,
}

use Step::{Digits, Split, Words};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Letters of the alphabets that have capitals.
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~！-／：-～‘-‟　-。]+";
const CHINESE_KOREAN: &str = "[一-龥ࠀ-一가-퟿]+";
const CHINESE_JAPANESE: &str = "[一-龥぀-ゟ゠-ヿ]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";

/// In the order in which they are recognised.
const KNOWN: [PreTokenizer; 11] = [
    plain(&["gpt-2", "phi-2", "mpt", "olmo"], &[Words]),
    plain(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[Digits, Words],
    ),
    PreTokenizer {
        ignore_merges: true,
        adds_bos: true,
        ..plain(
            &[
                "llama-bpe",
                "llama3",
                "llama-v3",
                "falcon3",
                "falcon-h1",
                "pixtral",
                "midm-2.0",
                "lfm2",
            ],
            &[Split(LLAMA3)],
        )
    },
    plain(&["smaug-bpe", "dbrx", "chatglm-bpe", "glm4"], &[Split(LLAMA3)]),
    PreTokenizer { nfc: true, ..plain(&["qwen2", "deepseek-r1-qwen", "megrez"], &[Split(QWEN2)]) },
    PreTokenizer { ignore_merges: true, adds_bos: true, ..plain(&["tekken"], &[Split(TEKKEN)]) },
    plain(&["gpt-4o", "llama4", "kanana2"], &[Split(GPT4O)]),
    plain(
        &["deepseek-llm"],
        &[
            Split("[\r\n]"),
            Split(DEEPSEEK_LETTERS),
            Split(DEEPSEEK_PUNCTUATION),
            Split(r"\s+$"),
            Split(CHINESE_KOREAN),
            Digits,
        ],
    ),
    plain(
        &["deepseek-coder"],
        &[Split("[\r\n]"), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(CHINESE_KOREAN), Digits],
    ),
    plain(&["deepseek-v3"], &[Split(r"\p{N}{1,3}"), Split(CHINESE_JAPANESE), Split(DEEPSEEK3)]),
    plain(
        &["default"],
        &[Split(PUNCTUATION), Split(GPT2), Split(r"\p{N}+"), Split("[0-9][0-9][0-9]")],
    ),
];

const fn plain(names: &'static [&'static str], steps: &'static [Step]) -> PreTokenizer {
    PreTokenizer { names, steps, nfc: false, ignore_merges: false, adds_bos: false }
}

impl PreTokenizer {
    /// The one of a name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|known| known.names.contains(&name))
    }

    /// The one that does what these parts of a `tokenizer.json` do.
    pub(crate) fn recognise(
        pre_tokenizer: &Json,
        normalizer: &Json,
        ignore_merges: bool,
    ) -> Option<&'static Self> {
        let nfc = match parts(normalizer, "normalizers")?.as_slice() {
            [] => false,
            [part] if part["type"] == "NFC" => true,
            _ => return None,
        };
        let steps = steps(pre_tokenizer)?;
        let does_the_same = |known: &&PreTokenizer| {
            known.nfc == nfc
                && known.ignore_merges == ignore_merges
                && known.steps.iter().map(|step| step.cut()).eq(steps.iter().copied())
        };
        KNOWN.iter().find(does_the_same)
    }

    pub(crate) fn build(&self) -> PreTokenizerWrapper {
        let ends_in_words = self.steps.last() == Some(&Words);
        let cuts = self.steps.iter().filter_map(|step| match step {
            Split(regex) => Some(json!({
                "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
            })),
            Digits => Some(json!({"type": "Digits", "individual_digits": true})),
            Words => None, // ByteLevel does it
        });
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": ends_in_words,
        });
        let parts: Vec<_> = cuts.chain([bytes]).collect();
        let whole = match parts.as_slice() {
            [one] => one.clone(),
            _ => json!({"type": "Sequence", "pretokenizers": parts}),
        };
        PreTokenizerWrapper::deserialize(whole).expect("the table holds pre-tokenizers")
    }

    pub(crate) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.nfc.then(|| tokenizers::normalizers::NFC.into())
    }
}

/// What a step does, as it can be read from a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut<'a> {
    Regex(&'a str),
    Digits,
}

impl Step {
    fn cut(self) -> Cut<'static> {
        match self {
            Split(regex) => Cut::Regex(regex),
            Digits => Cut::Digits,
            Words => Cut::Regex(GPT2),
        }
    }
}

/// The cuts before the bytes; `None` if there is anything else, or no bytes.
fn steps(pre_tokenizer: &Json) -> Option<Vec<Cut<'_>>> {
    let mut parts = parts(pre_tokenizer, "pretokenizers")?;
    let bytes = parts.pop()?;
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] == true {
        return None;
    }
    let mut cuts = parts.into_iter().map(cut).collect::<Option<Vec<_>>>()?;
    if bytes["use_regex"] != false {
        cuts.push(Cut::Regex(GPT2));
    }
    Some(cuts)
}

fn cut(part: &Json) -> Option<Cut<'_>> {
    match part["type"].as_str()? {
        "Digits" if part["individual_digits"] == true => Some(Cut::Digits),
        // Matches kept and what lies between dropped: the same where all is matched.
        "Split" if part["behavior"] == "Isolated" || part["invert"] == true => {
            part["pattern"]["Regex"].as_str().map(Cut::Regex)
        }
        _ => None,
    }
}

/// The parts of a sequence, however deep; of anything else itself.
fn parts<'a>(whole: &'a Json, list: &str) -> Option<Vec<&'a Json>> {
    if whole.is_null() {
        return Some(Vec::new());
    }
    if whole["type"] != "Sequence" {
        return Some(vec![whole]);
    }
    let mut all = Vec::new();
    for part in whole[list].as_array()? {
        all.extend(parts(part, list)?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_recognised() {
        for known in &KNOWN {
            let built = serde_json::to_value(known.build()).unwrap();
            let normalizer = serde_json::to_value(known.normalizer()).unwrap();
            let found = PreTokenizer::recognise(&built, &normalizer, known.ignore_merges);
            assert_eq!(found, Some(known));
        }
    }

    #[test]
    fn no_name_means_two_things() {
        for known in &KNOWN {
            for name in known.names {
                assert_eq!(PreTokenizer::named(name), Some(known));
            }
        }
        assert_eq!(PreTokenizer::named("llama-spm"), None);
    }

    #[test]
    fn another_cut_is_not_taken_for_a_known_one() {
        let check = |pre_tokenizer: Json, normalizer: Json| {
            assert_eq!(PreTokenizer::recognise(&pre_tokenizer, &normalizer, false), None);
        };
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        check(bytes.clone(), json!({"type": "Lowercase"}));
        check(bytes.clone(), json!({"type": "NFC"}));
        check(
            json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}),
            Json::Null,
        );
        check(
            json!({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, bytes]}),
            Json::Null,
        );
        check(json!({"type": "Whitespace"}), Json::Null);
        check(Json::Null, Json::Null);
    }
}
