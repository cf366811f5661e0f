//! A list in which some words are more common than others.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Wording, words};

/// Common words, RULER's `num_cw`: the answer, and the fewest that a list has.
pub(super) const COMMON: usize = 10;
/// Contexts from here on have long lists, in tokens.
const LONG: usize = 4096;
/// From one pair to the next: a prime, so that all pairs come before one comes again.
const STRIDE: usize = 7919;

/// How often words occur in a list.
#[derive(Clone, Copy)]
struct Repeats {
    common: usize,
    uncommon: usize,
}

/// A question behind an example with its answer, for so many different words. RULER's `freq_cw` and `freq_ucw`, 30 and 3,
/// are those of long lists.
pub(super) fn common_words(
    words: &[&str],
    length: usize,
    mut random: ChaCha8Rng,
) -> impl Fn(usize) -> Wording {
    let (in_example, of_example, repeats) = match length < LONG {
        true => (20, Repeats { common: 3, uncommon: 1 }, Repeats { common: 6, uncommon: 1 }),
        false => (40, Repeats { common: 10, uncommon: 3 }, Repeats { common: 30, uncommon: 3 }),
    };
    let mut order = words.to_vec();
    order.shuffle(&mut random);
    let shown = &order[..in_example.min(order.len())];
    let (text, opening) = ask(&of_example.list(shown, &mut random));
    let example = format!("{text}{opening} {}", numbered(&shown[..COMMON]));
    order.shuffle(&mut random);
    let first = random.random_range(0..words::PAIRS);
    move |count| {
        let pairs = pairs_without(&order[..COMMON], first);
        let pairs: Vec<String> = pairs.take(count.saturating_sub(order.len())).collect();
        let pairs = pairs.iter().map(String::as_str);
        let all: Vec<&str> = order.iter().copied().chain(pairs).take(count).collect();
        let (text, opening) = ask(&repeats.list(&all, &mut random.clone()));
        let answers = order[..COMMON].iter().map(|&word| word.to_owned()).collect();
        Wording { text: format!("{example}\n{text}"), opening, answers, depth: None }
    }
}

impl Repeats {
    /// The words, the first of them common, as often as they occur, in random order.
    fn list(self, words: &[&str], random: &mut ChaCha8Rng) -> String {
        let (common, uncommon) = words.split_at(COMMON);
        let mut list = common.repeat(self.common);
        list.extend(uncommon.repeat(self.uncommon));
        list.shuffle(random);
        numbered(&list)
    }
}

/// Text and opening.
fn ask(context: &str) -> (String, String) {
    (
        format!(
            "Below is a numbered list of words. In these words, some appear more often than others. \
             Memorize the ones that appear most often.\n{context}\n\
             Question: What are the 10 most common words in the above list?"
        ),
        " Answer: The top 10 words that appear most often in the list are:".to_owned(),
    )
}

/// `1. one 2. two`
fn numbered(words: &[&str]) -> String {
    let numbered = words.iter().zip(1..).map(|(word, number)| format!("{number}. {word}"));
    numbered.collect::<Vec<_>>().join(" ")
}

/// Pairs of words, none of which is one of these: so they stay as common as they are.
fn pairs_without(words: &[&str], first: usize) -> impl Iterator<Item = String> {
    let pairs = (0..).map(move |number| words::pair(first + number * STRIDE));
    pairs.filter(move |pair| !pair.split('-').any(|part| words.contains(&part)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use rand::SeedableRng;

    use super::*;
    use crate::RulerTask;
    use crate::ruler::testing::ask as questions;

    /// How often each word occurs in a numbered list, the most common first.
    fn counts(list: &str) -> Vec<(usize, &str)> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let words = list.split(' ').enumerate();
        for (_, word) in words.filter(|(place, _)| place % 2 == 1) {
            *counts.entry(word).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().map(|(word, count)| (count, word)).collect();
        counts.sort_unstable_by(|one, other| other.cmp(one));
        counts
    }

    #[track_caller]
    fn check(text: &str, answers: &[String], common: usize, uncommon: usize) {
        let list = text.lines().rev().nth(1).unwrap();
        let counts = counts(list);
        let (most, rest) = counts.split_at(COMMON);
        let found: HashSet<&str> = most.iter().map(|(_, word)| *word).collect();
        assert_eq!(found, answers.iter().map(String::as_str).collect::<HashSet<_>>());
        assert!(most.iter().all(|(count, _)| *count == common), "{most:?}");
        assert!(rest.iter().all(|(count, _)| *count == uncommon), "{rest:?}");
        assert!(!rest.is_empty());
    }

    #[test]
    fn the_answers_are_the_most_common_words() {
        for (length, common, uncommon) in [(2048, 6, 1), (5000, 30, 3)] {
            for question in questions(RulerTask::Cwe, length, 4) {
                check(&question.text, &question.answers, common, uncommon);
            }
        }
    }

    #[test]
    fn a_list_goes_on_where_the_words_end() {
        let own: Vec<&str> = words::NOUNS[..60].to_vec();
        let wording = common_words(&own, 8192, ChaCha8Rng::seed_from_u64(1));
        let Wording { text, answers, .. } = wording(1000);
        check(&text, &answers, 30, 3);
        assert_eq!(counts(text.lines().rev().nth(1).unwrap()).len(), 1000);
        assert!(answers.iter().all(|answer| !text.contains(&format!("{answer}-"))));
        assert!(answers.iter().all(|answer| !text.contains(&format!("-{answer} "))));
    }

    #[test]
    fn pairs_do_not_come_again_soon() {
        let pairs: HashSet<String> = pairs_without(&[], 5).take(words::PAIRS).collect();
        assert_eq!(pairs.len(), words::PAIRS);
    }

    #[test]
    fn templates_are_rulers() {
        let question = &questions(RulerTask::Cwe, 2048, 4)[0];
        let [begin, list, example, again, _, end] = question.text.lines().collect::<Vec<_>>()[..]
        else {
            panic!("an example and a question: {}", question.text);
        };
        assert_eq!(begin, again);
        assert!(begin.ends_with(
            "some appear more often than others. Memorize the ones that appear most often."
        ));
        assert_eq!(list.split(' ').count(), 2 * (10 * 3 + 10));
        assert_eq!(end, "Question: What are the 10 most common words in the above list?");
        let answer = example.strip_prefix(&format!("{end}{} 1. ", question.opening)).unwrap();
        assert_eq!(answer.split(' ').count(), 2 * COMMON - 1);
    }
}
