//! A text of coded words, some of which are more frequent than others.

use std::collections::HashSet;
use std::f64::consts::PI;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Wording;

/// Fewest words that a text is made for: from here on, `n / ζ(2) · (1/16 - 1/25)` is at least 1, so that the fourth word
/// is more frequent than the fifth.
pub(super) const LEAST: usize = 74;
/// Words that are asked for, behind the most frequent one, which is noise.
const ANSWERS: usize = 3;
/// Letters of a word.
const LETTERS: usize = 6;
/// Tokens of context for each word of the vocabulary.
const TOKENS_PER_WORD: usize = 50;
/// RULER's `tokens_to_generate`, which its vocabulary leaves aside.
const TOKENS_OF_ANSWER: usize = 50;
const NOISE: &str = "...";

/// A question, for a text of so many words, but for what is lost where frequencies are rounded down.
pub(super) fn frequent_words(length: usize, mut random: ChaCha8Rng) -> impl Fn(usize) -> Wording {
    let size = length.saturating_sub(TOKENS_OF_ANSWER) / TOKENS_PER_WORD;
    let vocabulary = vocabulary(size.max(1 + ANSWERS), &mut random);
    move |count| {
        let ranked = vocabulary.iter().zip(1..);
        let times =
            |(word, rank)| std::iter::repeat_n(String::as_str(word), frequency(count, rank));
        let mut text: Vec<&str> = ranked.flat_map(times).collect();
        text.shuffle(&mut random.clone());
        let context = text.join(" ");
        Wording {
            text: format!(
                "Read the following coded text and track the frequency of each coded word. Find the three most \
                 frequently appeared coded words. {context}\n\
                 Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most \
                 frequently appeared words in the above coded text?"
            ),
            opening: " Answer: According to the coded text above, the three most frequently appeared words are:"
                .to_owned(),
            answers: vocabulary[1..=ANSWERS].to_vec(),
            depth: None,
        }
    }
}

/// How often the word of a rank, from 1, occurs among `count`: `⌊count · rank^-α / ζ(α)⌋`, with `α = 2`.
fn frequency(count: usize, rank: usize) -> usize {
    let zeta = PI * PI / 6.0;
    (count as f64 / (rank as f64).powi(2) / zeta) as usize
}

/// Different words of random letters, the most frequent first.
fn vocabulary(size: usize, random: &mut ChaCha8Rng) -> Vec<String> {
    let mut words = vec![NOISE.to_owned()];
    let mut known = HashSet::new();
    while words.len() < size {
        let letters = (0..LETTERS).map(|_| char::from(random.random_range(b'a'..=b'z')));
        let word: String = letters.collect();
        if known.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng;

    use super::*;
    use crate::RulerTask;
    use crate::ruler::testing::ask;

    /// How often each word occurs in the coded text, the most frequent first.
    fn counts(text: &str) -> Vec<(usize, &str)> {
        let coded = text.lines().next().unwrap();
        let coded =
            coded.split_once("Find the three most frequently appeared coded words. ").unwrap().1;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in coded.split(' ') {
            *counts.entry(word).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().map(|(word, count)| (count, word)).collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        counts
    }

    #[track_caller]
    fn check(text: &str, answers: &[String]) {
        let counts = counts(text);
        assert_eq!(counts[0].1, NOISE);
        let found: Vec<&str> = counts[1..=ANSWERS].iter().map(|(_, word)| *word).collect();
        assert_eq!(found, answers);
        let falls = |pair: &[(usize, &str)]| pair[0].0 > pair[1].0;
        assert!(counts.windows(2).take(1 + ANSWERS).all(falls), "{counts:?}");
    }

    #[test]
    fn the_answers_are_the_most_frequent_words() {
        for length in [2048, 5000] {
            for question in ask(RulerTask::Fwe, length, 2) {
                check(&question.text, &question.answers);
            }
        }
    }

    #[test]
    fn the_fewest_words_suffice() {
        let wording = frequent_words(2048, ChaCha8Rng::seed_from_u64(1));
        for count in LEAST..LEAST + 60 {
            let Wording { text, answers, .. } = wording(count);
            check(&text, &answers);
        }
    }

    #[test]
    fn frequencies_are_those_of_the_zeta_distribution() {
        // 1000 · k^-2 / 1.6449341
        let frequencies: Vec<_> = (1..=5).map(|rank| frequency(1000, rank)).collect();
        assert_eq!(frequencies, [607, 151, 67, 37, 24]);
    }

    #[test]
    fn templates_are_rulers() {
        let question = &ask(RulerTask::Fwe, 2048, 2)[0];
        assert!(question.text.starts_with(
            "Read the following coded text and track the frequency of each coded word. Find"
        ));
        assert!(question.text.contains(
            "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What"
        ));
        assert!(question.text.ends_with("frequently appeared words in the above coded text?"));
    }
}
