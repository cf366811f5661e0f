//! RULER: thirteen synthetic tasks at any context length.
//!
//! Hsieh et al., «RULER: What's the Real Context Size of Your Long-Context Language Models?», arXiv:2404.06654. Templates,
//! settings and scores are those of NVIDIA's implementation (Apache-2.0).
//!
//! ```text
//! task     draws of (seed, task, sample)          as many units as fit                           Question
//! niah_*   needles: keys and values          ─►   words of essays, noise, or other needles  ─►   AllOf
//! vt       a chain of variables              ─►   noise                                     ─►   AllOf
//! cwe      common words                      ─►   other words                               ─►   AllOf
//! fwe      coded words                       ─►   their occurrences                         ─►   AllOf
//! qa_*     an item of a file                 ─►   documents of other items                  ─►   AnyOf
//! ```

mod task;
mod words;
mod haystack;
mod niah;
mod variable_tracking;
mod common_words;
mod frequent_words;
mod qa;
mod scores;
#[cfg(test)]
mod testing;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::fit::largest_that_fits;
use crate::sentences::parts;
use crate::{EvalError, Prompter, Question};
use common_words::common_words;
use frequent_words::frequent_words;
use haystack::Haystack;
use niah::Niah;
use qa::Library;
use task::Settings;
use variable_tracking::variable_tracking;

pub use qa::{QaItem, read_qa_items};
pub use scores::RulerScores;
pub use task::RulerTask;

/// Questions of one task at one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RulerConfig {
    /// What is asked.
    pub task: RulerTask,
    /// Context length in tokens, question and answer included.
    pub length: usize,
    /// How many questions; RULER's are 500.
    pub samples: usize,
    /// Of all draws.
    pub seed: u64,
}

/// The questions that `config` asks for, each as long as its length allows.
///
/// `texts` are the essays of the tasks that hide needles in some, and where `cwe` takes its words from; `qa` is for the
/// two `qa` tasks alone. A question depends on the seed, the task, its number and the length, not on how many there are.
///
/// Differs from NVIDIA's implementation:
/// - The draws are not Python's, so that no question is the same as one of theirs.
/// - A question holds as many units as fit, each sample by itself. Theirs counts the units once and takes them away in
///   steps of 5 to 500, and the context stays emptier.
/// - Essays are the user's, not Paul Graham's, and so are the documents of `qa`.
/// - Keys are pairs of an adjective and a noun from lists of our own, and all keys of a question are different. Words of
///   `cwe` are the user's, or those of the lists; where they run out, the uncommon ones go on with pairs, where theirs
///   takes them all from a larger list.
/// - Needles are shuffled anew for every question; theirs has one order for all.
/// - Sentences of essays end by a plain rule, not by NLTK's: behind `.`, `!` or `?` before a space, but not behind an
///   initial or one of a few abbreviations. A needle at the very beginning or end has no space on that side.
/// - The example of `vt` is drawn for every question; theirs renames the variables of one.
/// - `fwe` has at least 74 words, from where on the third answer is never as rare as the word after it.
/// - Documents of `qa` repeat with the item's own among them, and items begin anew, where a file has too few.
///
/// # Errors
/// [`EvalError`], if the length has no room for the question, essays have no word, or `qa` no item.
pub fn ruler_questions(
    config: &RulerConfig,
    texts: &[String],
    qa: &[QaItem],
    prompter: &Prompter,
) -> Result<Vec<Question>, EvalError> {
    let task = || config.task.name().to_owned();
    match config.task.settings() {
        Settings::Niah(niah) => {
            let essay = essay(&niah, texts);
            if niah.haystack == Haystack::Essay && essay.is_empty() {
                return Err(EvalError::NoEssays { task: task() });
            }
            fill(config, prompter, niah.least(), |_, random| Ok(niah.draw(&essay, random)))
        }
        Settings::VariableTracking => {
            fill(config, prompter, variable_tracking::LEAST, |_, random| {
                variable_tracking(prompter, random)
            })
        }
        Settings::CommonWords => {
            let words = words::words(texts);
            fill(config, prompter, common_words::COMMON, |_, random| {
                Ok(common_words(&words, config.length, random))
            })
        }
        Settings::FrequentWords => fill(config, prompter, frequent_words::LEAST, |_, random| {
            Ok(frequent_words(config.length, random))
        }),
        Settings::Qa => {
            let library = Library::new(qa).ok_or_else(|| EvalError::NoQaItems { task: task() })?;
            // Neighbours in a file are often about the same document.
            let mut order: Vec<usize> = (0..qa.len()).collect();
            order.shuffle(&mut config.random(usize::MAX));
            let item = |index: usize| order[index % order.len()];
            fill(config, prompter, 0, |index, random| Ok(library.draw(item(index), random)))
        }
    }
}

/// In characters: a language without spaces has words, too.
const LONGEST_WORD: usize = 40;

/// The words of all texts, if the needles are hidden in them.
fn essay<'a>(niah: &Niah, texts: &'a [String]) -> Vec<&'a str> {
    match niah.haystack {
        Haystack::Essay => {
            let words = texts.iter().flat_map(|text| text.split_whitespace());
            words.flat_map(|word| parts(word, LONGEST_WORD)).collect()
        }
        Haystack::Noise | Haystack::Needles => vec![],
    }
}

/// What is said to the model and what is right, without what every question of the task shares.
struct Wording {
    text: String,
    opening: String,
    answers: Vec<String>,
    depth: Option<f64>,
}

/// Questions with as many units as fit. `draw` draws what one is about, and gives its wording for a number of units, of
/// which there are at least `least`.
fn fill<W: Fn(usize) -> Wording>(
    config: &RulerConfig,
    prompter: &Prompter,
    least: usize,
    draw: impl Fn(usize, ChaCha8Rng) -> Result<W, EvalError>,
) -> Result<Vec<Question>, EvalError> {
    let mut guess = least;
    let mut questions = vec![];
    for index in 0..config.samples {
        let wording = draw(index, config.random(index))?;
        let question = |units| config.question(index, wording(units));
        let tokens = |units| prompter.tokens(&question(units));
        let units = largest_near(guess, least, config.length, tokens)?.ok_or_else(|| {
            EvalError::ShortContext { task: config.task.name().to_owned(), length: config.length }
        })?;
        if index == 0 {
            // The others need about as many, and finding a number that is close takes few tries.
            guess = units;
        }
        let question = question(units);
        let tokens = prompter.tokens(&question)?;
        if 2 * tokens < config.length {
            let (task, length) = (config.task.name().to_owned(), config.length);
            return Err(EvalError::ShortHaystack { task, tokens, length });
        }
        questions.push(question);
    }
    Ok(questions)
}

/// [`largest_that_fits`], sought from `guess` on, downwards if that is too much.
fn largest_near(
    guess: usize,
    least: usize,
    limit: usize,
    mut tokens: impl FnMut(usize) -> Result<usize, EvalError>,
) -> Result<Option<usize>, EvalError> {
    let (mut start, mut step) = (guess, 1);
    while start > least && tokens(start)? > limit {
        start = start.saturating_sub(step).max(least);
        step *= 2;
    }
    largest_that_fits(start, limit, tokens)
}

impl RulerConfig {
    /// The draws of one question.
    fn random(&self, index: usize) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update((index as u64).to_le_bytes());
        hash.update(self.task.name());
        ChaCha8Rng::from_seed(hash.finalize().into())
    }

    fn question(&self, index: usize, wording: Wording) -> Question {
        let Wording { text, opening, answers, depth } = wording;
        Question {
            task: self.task.name().to_owned(),
            id: format!("{}/{index}", self.length),
            text,
            opening,
            answers,
            scoring: self.task.scoring(),
            length: self.length,
            depth,
            max_new_tokens: self.task.max_new_tokens(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{ask, essays, items, prompter};
    use super::*;

    #[test]
    fn every_task_fills_its_length() {
        let prompter = prompter();
        for task in RulerTask::all() {
            for length in [2048, 5000] {
                let config = RulerConfig { task, length, samples: 2, seed: 5 };
                let questions = ruler_questions(&config, &essays(), &items(), &prompter).unwrap();
                assert_eq!(questions.len(), 2);
                for question in &questions {
                    let tokens = prompter.tokens(question).unwrap();
                    let name = task.name();
                    assert!(tokens <= length, "{name}: {tokens} of {length}");
                    assert!(10 * tokens >= 8 * length, "{name}: {tokens} of {length}");
                    assert_eq!((question.task.as_str(), question.length), (name, length));
                }
            }
        }
    }

    #[test]
    fn every_answer_stands_in_the_text() {
        for task in RulerTask::all() {
            for question in ask(task, 2048, 3) {
                let all = question.answers.iter().all(|answer| question.text.contains(answer));
                assert!(all && !question.answers.is_empty(), "{}", task.name());
                let whole = question.text + &question.opening;
                assert!(!whole.contains(['{', '}']), "{}: {whole}", task.name());
            }
        }
    }

    #[test]
    fn a_seed_and_a_number_make_a_question() {
        for task in RulerTask::all() {
            let questions = ask(task, 2048, 3);
            assert_eq!(questions, ask(task, 2048, 3));
            assert_ne!(questions[0].text, questions[1].text);
            let others = ask(task, 2048, 4);
            assert!(questions.iter().zip(&others).all(|(one, other)| one.text != other.text));

            let config = RulerConfig { task, length: 2048, samples: 1, seed: 3 };
            let first = ruler_questions(&config, &essays(), &items(), &prompter()).unwrap();
            assert_eq!(first[0], questions[0]);
        }
    }

    #[test]
    fn a_number_is_sought_from_any_guess() {
        let seek = |guess| largest_near(guess, 2, 100, |units| Ok(3 * units + 7)).unwrap();
        for guess in [2, 3, 30, 31, 32, 40, 5000] {
            assert_eq!(seek(guess), Some(31), "from {guess}");
        }
        assert_eq!(largest_near(9, 2, 100, |units| Ok(units + 99)).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_asked_is_an_error_that_says_what_to_do() {
        let check = |task, length, texts: &[String], qa: &[QaItem], parts: &[&str]| {
            let config = RulerConfig { task, length, samples: 1, seed: 0 };
            let error = ruler_questions(&config, texts, qa, &prompter()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        for task in RulerTask::all() {
            check(task, 64, &essays(), &items(), &[task.name(), "`64`", "longer"]);
        }
        check(
            RulerTask::NiahSingle2,
            2048,
            &[" \n".to_owned()],
            &[],
            &["niah_single_2", "give others"],
        );
        check(RulerTask::Qa1, 2048, &essays(), &[], &["qa_1", "from a file", "SQuAD"]);
    }
}
