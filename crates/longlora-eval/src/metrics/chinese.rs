//! Scores of an answer in Chinese, which has no space between its words: LongBench's.

use std::sync::LazyLock;

use jieba_rs::Jieba;

use super::{f1, is_space, numbered, rouge_l};

/// Its dictionary takes a moment to read, which only Chinese answers are worth.
static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// Punctuation to LongBench, besides ASCII's.
const PUNCTUATION: &str = "\
    ！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.";

/// F1 of the words of both, without case, punctuation and space: LongBench's `qa_f1_zh_score`.
pub(crate) fn f1_zh(output: &str, answer: &str) -> f64 {
    f1(&bare_words(output), &bare_words(answer))
}

/// ROUGE-L of the words of both, LongBench's `rouge_zh_score`: [`rouge_l`], with spaces between the words.
///
/// Punctuation counts, and `。` ends no sentence. So a text is mostly one sentence, and where both have a thousand words
/// together LongBench may give 0, as that function says.
pub(crate) fn rouge_zh(output: &str, answer: &str) -> f64 {
    rouge_l(&words(output).join(" "), &words(answer).join(" "))
}

/// The share of the output's numbers that are the number of the answer's `段落7`: LongBench's `retrieval_zh_score`.
///
/// Differs from it: an answer that names no paragraph gives 0; there it ends the program.
pub(crate) fn paragraph_zh(output: &str, answer: &str) -> f64 {
    numbered("段落", output, answer)
}

/// The words in lower case and without punctuation, but for those of which nothing is left.
fn bare_words(text: &str) -> Vec<String> {
    let dropped = |character: char| {
        character.is_ascii_punctuation() || PUNCTUATION.contains(character) || is_space(character)
    };
    let bare = |word: &str| word.to_lowercase().replace(dropped, "");
    words(text).into_iter().map(bare).filter(|word| !word.is_empty()).collect()
}

/// The words of a text and what is between them, as jieba 0.42.1 has them in Python: `jieba.cut(text)`.
///
/// jieba-rs has the same words, but takes more characters for Chinese ones and joins Latin words by `.`, `_` and `-`.
/// Therefore it only reads what Python's takes for Chinese or Latin, and what it joins is parted again.
///
/// Differs from it: a line end of two characters is two words. Where two ways to cut a text are as likely but for
/// millionths, it may be the other one: some logarithms in jieba-rs have six decimals, and Python counts one word of
/// the dictionary twice.
fn words(text: &str) -> Vec<&str> {
    let mut words = vec![];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = leading(rest, is_of_words);
        let (run, behind) = rest.split_at(length.max(first.len_utf8()));
        match length {
            0 => words.push(run),
            _ => words.extend(JIEBA.cut(run, true).iter().flat_map(|token| parted(token.word))),
        }
        rest = behind;
    }
    words
}

/// What jieba 0.42.1 looks for words in, its `re_han_default`.
fn is_of_words(character: char) -> bool {
    matches!(character, '\u{4e00}'..='\u{9fd5}' | '+' | '#' | '&' | '.' | '_' | '%' | '-')
        || character.is_ascii_alphanumeric()
}

/// The parts of a word that jieba-rs joins by `.`, `_` or `-`. Python's jieba joins a number and its decimals alone.
fn parted(word: &str) -> Vec<&str> {
    if !word.contains(['.', '_', '-']) {
        return vec![word];
    }
    let mut parts = vec![];
    let mut rest = word;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(part_length(rest));
        parts.push(part);
        rest = behind;
    }
    parts
}

/// Bytes up to where Python's `[a-zA-Z0-9]+(?:\.\d+)?%?` ends, or else where it begins.
fn part_length(text: &str) -> usize {
    let mut length = leading(text, |character| character.is_ascii_alphanumeric());
    if length == 0 {
        return leading(text, |character| !character.is_ascii_alphanumeric());
    }
    let behind = text[length..].strip_prefix('.').unwrap_or_default();
    let decimals = leading(behind, |character| character.is_ascii_digit());
    if decimals > 0 {
        length += 1 + decimals;
    }
    length + usize::from(text[length..].starts_with('%'))
}

/// Bytes before the first character that is not wanted.
fn leading(text: &str, wanted: fn(char) -> bool) -> usize {
    text.find(|character: char| !wanted(character)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::metrics::tests::{Case, check};

    /// What Python computed, of the same file as the other scores.
    #[derive(Deserialize)]
    struct Golden {
        words_zh: Vec<(String, Vec<String>)>,
        f1_zh: Vec<Case>,
        rouge_zh: Vec<Case>,
        paragraph_zh: Vec<Case>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../golden/metrics.json")).unwrap()
    }

    #[test]
    fn words_are_those_of_jieba_in_python() {
        let cases = golden().words_zh;
        assert!(cases.len() >= 80);
        for (text, expected) in cases {
            assert_eq!(words(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn scores_are_those_of_long_bench() {
        let golden = golden();
        for cases in [&golden.f1_zh, &golden.rouge_zh, &golden.paragraph_zh] {
            assert!(cases.len() >= 40);
        }
        check(&golden.f1_zh, f1_zh);
        check(&golden.rouge_zh, rouge_zh);
        check(&golden.paragraph_zh, paragraph_zh);
    }

    #[test]
    fn an_answer_without_a_paragraph_is_never_found() {
        assert_eq!(paragraph_zh("3", "第3段"), 0.0);
        assert_eq!(paragraph_zh("3", "段落三"), 0.0);
    }
}
