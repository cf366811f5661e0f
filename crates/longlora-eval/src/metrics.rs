//! Scores of an answer, as LongBench and RULER compute them.
//!
//! LongBench's are those of its `metrics.py` (arXiv:2308.14508, commit 2e00731) with the packages that its
//! `requirements.txt` asks for. All are from 0 to 1.

mod chinese;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::ops::Range;

pub(crate) use chinese::{f1_zh, paragraph_zh, rouge_zh};

/// The runs of decimal digits in a text, as Python's `re.findall(r"\d+")` finds them: of any script, but no fractions,
/// superscripts or Roman numerals.
pub(crate) fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !is_digit(character)).filter(|digits| !digits.is_empty())
}

/// Whether the answer stands somewhere in the output, in whatever case: one reference of RULER's `string_match_all` and
/// `string_match_part` (arXiv:2404.06654).
pub(crate) fn contains(output: &str, answer: &str) -> bool {
    output.to_lowercase().contains(&answer.to_lowercase())
}

/// F1 of the words of both, without case, punctuation and articles: LongBench's `qa_f1_score`, which is SQuAD's.
///
/// ```text
/// F1 = 2 P R / (P + R)    P, R = common words / words of the output, of the answer
/// ```
///
/// Differs from it: vowel signs of Indic scripts belong to words, so that no article ends before one.
pub(crate) fn token_f1(output: &str, answer: &str) -> f64 {
    let (output, answer) = (without_articles(output), without_articles(answer));
    f1(&words(&output).collect::<Vec<_>>(), &words(&answer).collect::<Vec<_>>())
}

/// F-measure of ROUGE-L, LongBench's `rouge_score`: `rouge-l` of the package `rouge` 1.0.1.
///
/// ```text
/// F = 2 P R / (P + R + 1e-8)    P, R = |U| / different words of the output, of the answer
/// ```
///
/// `U` are the words of a longest common subsequence of some sentence of the answer with some sentence of the output.
/// Unlike in ROUGE, a word counts once however often it stands there. Sentences end at every `.`; case and other
/// punctuation count. Without sentences on a side it is 0.
///
/// Differs from it: where a pair of sentences has a thousand words, Python's recursion may come to its limit, and
/// LongBench then gives 0.
pub(crate) fn rouge_l(output: &str, answer: &str) -> f64 {
    let (output, answer) = (rouge_sentences(output), rouge_sentences(answer));
    if output.is_empty() || answer.is_empty() {
        return 0.0;
    }
    let mut union = HashSet::new();
    for right in &answer {
        for ours in &output {
            union.extend(longest_common_subsequence(right, ours));
        }
    }
    let precision = union.len() as f64 / different_words(&output) as f64;
    let recall = union.len() as f64 / different_words(&answer) as f64;
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// One over the number of classes that the output names, if the right one is among them, else 0: LongBench's
/// `classification_score`.
///
/// Classes that are a part of the right one's name do not count, but as the reference takes them off the list while it
/// walks through it, the one behind each is passed over and stays.
pub(crate) fn class(output: &str, answer: &str, classes: &[String]) -> f64 {
    let named = classes.iter().map(String::as_str).filter(|class| output.contains(*class));
    let mut named: Vec<&str> = named.collect();
    let mut at = 0;
    while at < named.len() {
        let class = named[at];
        if answer.contains(class) && class != answer {
            // Of two equal ones Python removes the first.
            let first = named.iter().position(|other| *other == class).unwrap_or(at);
            named.remove(first);
        }
        at += 1;
    }
    if named.contains(&answer) { 1.0 / named.len() as f64 } else { 0.0 }
}

/// The share of the output's numbers that are the number of the answer's `Paragraph 7`: LongBench's `retrieval_score`.
///
/// Differs from it: an answer that names no paragraph gives 0; there it ends the program.
pub(crate) fn paragraph(output: &str, answer: &str) -> f64 {
    numbered("Paragraph ", output, answer)
}

/// The share of the output's numbers that are the answer, digit by digit: LongBench's `count_score`.
pub(crate) fn count(output: &str, answer: &str) -> f64 {
    let right = numbers(output).filter(|number| *number == answer).count();
    right as f64 / numbers(output).count().max(1) as f64
}

/// How alike the first line of the output that is code and the answer are, in whole hundredths: LongBench's
/// `code_sim_score`. A line with a backtick, `#` or `//` is no code to it.
///
/// It is `fuzz.ratio` of fuzzywuzzy 0.18.0 without python-Levenshtein, which LongBench's requirements do not name: with
/// it the number is another. Computed are `2 m / n` for `m` characters in the matching blocks of `difflib`, of `n` in
/// both.
pub(crate) fn code_line(output: &str, answer: &str) -> f64 {
    let mut lines = output.trim_start_matches('\n').split('\n');
    let line = lines.find(|line| is_code(line)).unwrap_or_default();
    if line == answer {
        return 1.0;
    }
    let [line, answer] = [line, answer].map(|text| text.chars().collect::<Vec<_>>());
    let ratio = 2.0 * matching(&line, &answer) as f64 / (line.len() + answer.len()) as f64;
    // Python rounds halves to even.
    (100.0 * ratio).round_ties_even() / 100.0
}

/// F1 of the words of both, in whatever order.
fn f1<Word: Eq + Hash>(output: &[Word], answer: &[Word]) -> f64 {
    let mut left: HashMap<&Word, usize> = HashMap::new();
    for word in answer {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0.0;
    for word in output {
        if let Some(count) = left.get_mut(word)
            && *count > 0
        {
            *count -= 1;
            common += 1.0;
        }
    }
    if common == 0.0 {
        return 0.0;
    }
    let precision = common / output.len() as f64;
    let recall = common / answer.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

/// The share of the output's numbers that are the first one directly behind `name` in the answer.
fn numbered(name: &str, output: &str, answer: &str) -> f64 {
    let behind = answer.split(name).skip(1);
    let mut numbered = behind.filter(|text| text.starts_with(is_digit));
    let number = numbered.next().and_then(|text| numbers(text).next());
    number.map_or(0.0, |number| count(output, number))
}

fn is_code(line: &str) -> bool {
    !["`", "#", "//"].into_iter().any(|mark| line.contains(mark))
}

/// The zeros of all decimal digits in Unicode 14 but ASCII's; one to nine follow each.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0, 0x16b50,
    0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

fn is_digit(character: char) -> bool {
    let code = u32::from(character);
    let of_another_script = || ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&code));
    character.is_ascii_digit() || (!character.is_ascii() && of_another_script())
}

/// As Python's `str.split()`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Python takes four more control characters for space than Unicode does.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// A text in lower case, its punctuation taken away, and a space in place of each article.
fn without_articles(text: &str) -> String {
    let mut text = text.to_lowercase();
    text.retain(|character| !character.is_ascii_punctuation());
    let mut rest = text.as_str();
    let mut kept = String::with_capacity(text.len());
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_alphanumeric()).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        let next = behind.find(char::is_alphanumeric).unwrap_or(behind.len());
        kept.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        kept.push_str(&behind[..next]);
        rest = &behind[next..];
    }
    kept
}

/// The words of each sentence. One that is all space has an empty word, as it has in the reference.
fn rouge_sentences(text: &str) -> Vec<Vec<&str>> {
    let split = |sentence| {
        let words: Vec<&str> = words(sentence).collect();
        if words.is_empty() { vec![""] } else { words }
    };
    text.split('.').filter(|sentence| !sentence.is_empty()).map(split).collect()
}

fn different_words(sentences: &[Vec<&str>]) -> usize {
    sentences.iter().flatten().collect::<HashSet<_>>().len()
}

/// Of several that are as long, the one that the reference finds: they may differ in how many of their words are new.
fn longest_common_subsequence<'a>(x: &[&'a str], y: &[&str]) -> Vec<&'a str> {
    // `lengths[i][j]` is that of the first `i` and the first `j` words.
    let mut lengths = vec![vec![0; y.len() + 1]; x.len() + 1];
    for i in 1..=x.len() {
        for j in 1..=y.len() {
            lengths[i][j] = match x[i - 1] == y[j - 1] {
                true => lengths[i - 1][j - 1] + 1,
                false => usize::max(lengths[i - 1][j], lengths[i][j - 1]),
            };
        }
    }
    let (mut i, mut j) = (x.len(), y.len());
    let mut common = vec![];
    while i > 0 && j > 0 {
        if x[i - 1] == y[j - 1] {
            (i, j) = (i - 1, j - 1);
            common.push(x[i]);
        } else if lengths[i - 1][j] > lengths[i][j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common
}

/// Characters in the matching blocks of `difflib.SequenceMatcher(None, a, b)`: the longest block that both have, then
/// the same before and behind it (Ratcliff and Obershelp, 1988).
fn matching(a: &[char], b: &[char]) -> usize {
    let places = places(b);
    let mut open = vec![(0..a.len(), 0..b.len())];
    let mut total = 0;
    while let Some((in_a, in_b)) = open.pop() {
        let (of_a, of_b) = longest_block(a, b, &places, in_a.clone(), in_b.clone());
        if !of_a.is_empty() {
            total += of_a.len();
            open.push((in_a.start..of_a.start, in_b.start..of_b.start));
            open.push((of_a.end..in_a.end, of_b.end..in_b.end));
        }
    }
    total
}

/// Where each character stands, in order. From 200 characters on, `difflib` looks for no block at those that make up
/// more than a hundredth.
fn places(b: &[char]) -> HashMap<char, Vec<usize>> {
    let mut places: HashMap<char, Vec<usize>> = HashMap::new();
    for (at, &character) in b.iter().enumerate() {
        places.entry(character).or_default().push(at);
    }
    if b.len() >= 200 {
        places.retain(|_, places| places.len() <= b.len() / 100 + 1);
    }
    places
}

/// The longest block within these ranges; of equal ones the first in `a`, and of these the first in `b`. `difflib` only
/// lets it grow by frequent characters once it is found.
fn longest_block(
    a: &[char],
    b: &[char],
    places: &HashMap<char, Vec<usize>>,
    in_a: Range<usize>,
    in_b: Range<usize>,
) -> (Range<usize>, Range<usize>) {
    let (mut of_a, mut of_b) = (in_a.start..in_a.start, in_b.start..in_b.start);
    // Of the blocks that end with the last character of `a`, the lengths by where they end in `b`.
    let mut lengths: HashMap<usize, usize> = HashMap::new();
    for i in in_a.clone() {
        let mut next = HashMap::new();
        let in_all_of_b = places.get(&a[i]).into_iter().flatten();
        for &j in in_all_of_b.filter(|j| in_b.contains(*j)) {
            let length = 1 + lengths.get(&j).copied().unwrap_or(0);
            next.insert(j + 1, length);
            if length > of_a.len() {
                (of_a, of_b) = (i + 1 - length..i + 1, j + 1 - length..j + 1);
            }
        }
        lengths = next;
    }
    while of_a.start > in_a.start
        && of_b.start > in_b.start
        && a[of_a.start - 1] == b[of_b.start - 1]
    {
        (of_a.start, of_b.start) = (of_a.start - 1, of_b.start - 1);
    }
    while of_a.end < in_a.end && of_b.end < in_b.end && a[of_a.end] == b[of_b.end] {
        (of_a.end, of_b.end) = (of_a.end + 1, of_b.end + 1);
    }
    (of_a, of_b)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What Python computed; `tests/golden/longbench/make_metrics.py` wrote it.
    #[derive(Deserialize)]
    struct Golden {
        numbers: Vec<(String, Vec<String>)>,
        contains: Vec<Case>,
        token_f1: Vec<Case>,
        rouge_l: Vec<Case>,
        class: Vec<Classified>,
        paragraph: Vec<Case>,
        count: Vec<Case>,
        code_line: Vec<Case>,
    }

    /// Output, answer and score.
    pub(super) type Case = (String, String, f64);

    #[derive(Deserialize)]
    struct Classified {
        classes: Vec<String>,
        cases: Vec<Case>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("golden/metrics.json")).unwrap()
    }

    #[track_caller]
    pub(super) fn check(cases: &[Case], score: impl Fn(&str, &str) -> f64) {
        for (output, answer, expected) in cases {
            let ours = score(output, answer);
            assert!(
                (ours - expected).abs() <= 1e-12,
                "{output:?} for {answer:?}: {ours}, not {expected}"
            );
        }
    }

    #[test]
    fn numbers_are_those_of_python() {
        let cases = golden().numbers;
        assert!(cases.len() >= 40);
        for (text, expected) in cases {
            assert_eq!(numbers(&text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn scores_are_those_of_long_bench_and_ruler() {
        let golden = golden();
        for cases in [&golden.contains, &golden.token_f1, &golden.rouge_l] {
            assert!(cases.len() >= 40);
        }
        for cases in [&golden.paragraph, &golden.count, &golden.code_line] {
            assert!(cases.len() >= 40);
        }
        check(&golden.contains, |output, answer| f64::from(u8::from(contains(output, answer))));
        check(&golden.token_f1, token_f1);
        check(&golden.rouge_l, rouge_l);
        check(&golden.paragraph, paragraph);
        check(&golden.count, count);
        check(&golden.code_line, code_line);
    }

    #[test]
    fn classes_are_counted_as_in_long_bench() {
        let golden = golden().class;
        assert!(golden.iter().map(|classified| classified.cases.len()).sum::<usize>() >= 40);
        for Classified { classes, cases } in golden {
            check(&cases, |output, answer| class(output, answer, &classes));
        }
    }

    #[test]
    fn an_answer_without_a_paragraph_is_never_found() {
        assert_eq!(paragraph("3", "the third"), 0.0);
        assert_eq!(paragraph("3", "Paragraph three"), 0.0);
    }
}
