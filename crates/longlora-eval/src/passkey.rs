//! Passkey retrieval: a number, hidden in text without any meaning.

use longlora_data::Tokenizer;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_mt::Mt as Mt19937;
use serde::{Deserialize, Serialize};

use crate::draws::draws;
use crate::fit::largest_that_fits;
use crate::{EvalError, Prompter, Question, Scoring};

const TASK: &str = "passkey";
const DESCRIPTION: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. \
                           I will quiz you about the important information there.";
const GARBAGE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
const QUESTION: &str = "What is the pass key?";
const OPENING: &str = " The pass key is";

/// What Landmark asks for, in characters of garbage.
const LANDMARK_CHARACTERS: [usize; 13] =
    [0, 100, 500, 1000, 5000, 8000, 10000, 12000, 14000, 18000, 20000, 25000, 38000];

/// Whose protocol of passkey retrieval. The text is the same in all: Landmark Attention's (arXiv:2305.16300), which
/// LongLoRA took over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PasskeyProtocol {
    /// Every length with every depth, the text as long as the length allows, in tokens: what a heat map is made of. The
    /// answer has 8 tokens, and its first number counts.
    Grid {
        /// Context lengths, in tokens.
        lengths: Vec<usize>,
        /// Where the number stands, from 0 (the beginning) to 1.
        depths: Vec<f64>,
        /// Questions for each, which differ in their numbers.
        trials: usize,
    },
    /// LongLoRA's `passkey_retrivial.py`: garbage counted in characters, `int(3.75 · n // 1024 · 1024)` for about `n`
    /// tokens, cut in the middle of a word; where it is parted, and the number, are NumPy's of the seed, which is the
    /// trial, the same at every length; the answer has as many tokens as the number and must be it.
    ///
    /// Differs from it: the text goes without a token that begins texts where the tokenizer has none, and answers are
    /// compared as text, so that a tokenizer may join the space to the number.
    LongLora {
        /// Largest length, in the protocol's own measure; LongLoRA's is 32,000.
        max_tokens: usize,
        /// Lengths are its multiples; LongLoRA's is 1,000.
        interval: usize,
        /// Questions at each length; LongLoRA's are 10.
        trials: usize,
    },
    /// Landmark's `run_test.py`: 0 to 38,000 characters of garbage; the answer has 10 tokens, and its first number counts.
    ///
    /// Differs from it: the draws are not Python's, which has no seed there.
    Landmark {
        /// Most characters of garbage; what is longer is left out.
        max_characters: usize,
        /// Questions at each length; Landmark's are 50.
        trials: usize,
    },
}

/// The questions of a protocol.
///
/// # Errors
/// [`EvalError`], if a length has no room for the text without garbage, or a depth is none.
pub fn passkey_questions(
    protocol: &PasskeyProtocol,
    seed: u64,
    prompter: &Prompter,
) -> Result<Vec<Question>, EvalError> {
    match protocol {
        PasskeyProtocol::Grid { lengths, depths, trials } => {
            grid(lengths, depths, *trials, seed, prompter)
        }
        PasskeyProtocol::LongLora { max_tokens, interval, trials } => {
            let lengths = (1..=max_tokens / interval.max(&1)).map(|n| n * interval);
            let ask = |length, trial| longlora(length, trial, prompter.tokenizer());
            of_each(lengths, *trials, prompter, ask)
        }
        PasskeyProtocol::Landmark { max_characters, trials } => {
            let lengths = LANDMARK_CHARACTERS.into_iter().filter(|length| length <= max_characters);
            of_each(lengths, *trials, prompter, |length, trial| Ok(landmark(length, trial, seed)))
        }
    }
}

/// The trials of each length, in the protocol's own measure; that of the questions is the mean of what they have in tokens,
/// which is what both programs print.
fn of_each(
    lengths: impl Iterator<Item = usize>,
    trials: usize,
    prompter: &Prompter,
    ask: impl Fn(usize, usize) -> Result<Question, EvalError>,
) -> Result<Vec<Question>, EvalError> {
    let mut questions = vec![];
    for length in lengths {
        let first = questions.len();
        let mut tokens = 0;
        for trial in 0..trials {
            let question = ask(length, trial)?;
            tokens += prompter.tokens(&question)?;
            questions.push(question);
        }
        let mean = (tokens as f64 / trials.max(1) as f64).round() as usize;
        questions[first..].iter_mut().for_each(|question| question.length = mean);
    }
    Ok(questions)
}

fn grid(
    lengths: &[usize],
    depths: &[f64],
    trials: usize,
    seed: u64,
    prompter: &Prompter,
) -> Result<Vec<Question>, EvalError> {
    if let Some(&depth) = depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
        return Err(EvalError::BadDepth { depth });
    }
    let mut questions = vec![];
    for &length in lengths {
        let most = |count| prompter.tokens(&in_grid(length, count, 0.0, 10_000));
        let count = largest_that_fits(0, length, most)?
            .ok_or(EvalError::ShortContext { task: TASK.to_owned(), length })?;
        for &depth in depths {
            for trial in 0..trials {
                let key = draws(seed, TASK, (length, depth, trial)).random_range(10_000..100_000);
                let question = fitting(length, count, depth, key, prompter)?;
                questions.push(Question { id: format!("{length}/{depth}/{trial}"), ..question });
            }
        }
    }
    Ok(questions)
}

/// `count` was found with another number; one that takes a token more can need a filler less.
fn fitting(
    length: usize,
    mut count: usize,
    depth: f64,
    key: u32,
    prompter: &Prompter,
) -> Result<Question, EvalError> {
    loop {
        let question = in_grid(length, count, depth, key);
        if count == 0 || prompter.tokens(&question)? <= length {
            return Ok(question);
        }
        count -= 1;
    }
}

/// The number after a share of the fillers.
fn in_grid(length: usize, fillers: usize, depth: f64, key: u32) -> Question {
    let before = (depth * fillers as f64).round() as usize;
    let [before, after] = [before, fillers - before].map(|count| vec![GARBAGE; count].join(" "));
    let question = question(&before, key, &after, Scoring::FirstNumber, 8);
    Question { length, depth: Some(depth), ..question }
}

fn longlora(length: usize, trial: usize, tokenizer: &Tokenizer) -> Result<Question, EvalError> {
    // `int(3.75 * n // 1024 * 1024)`: down to a multiple of 1,024.
    let characters = (3.75 * length as f64 / 1024.0).floor() as usize * 1024;
    let mut numpy = NumpyRandom::seeded(trial as u32);
    let before = numpy.below(characters as u32) as usize;
    let key = 1 + numpy.below(50_000 - 1);
    let question = parted(characters, before, key, Scoring::Exact, digits(key, tokenizer)?);
    Ok(Question { id: format!("{length}/{trial}"), ..question })
}

/// Tokens of the number behind the text before it.
fn digits(key: u32, tokenizer: &Tokenizer) -> Result<usize, EvalError> {
    let [without, with] =
        ["is".to_owned(), format!("is {key}")].map(|text| tokenizer.encode(&text));
    Ok(with?.len() - without?.len())
}

fn landmark(characters: usize, trial: usize, seed: u64) -> Question {
    let stream = seed.wrapping_mul(1 << 32).wrapping_add((characters * 64 + trial) as u64);
    let mut random = ChaCha8Rng::seed_from_u64(stream);
    let before = random.random_range(0..=characters);
    let key = random.random_range(1..=50_000);
    let question = parted(characters, before, key, Scoring::FirstNumber, 10);
    Question { id: format!("{characters}/{trial}"), ..question }
}

/// So many characters of garbage, the number after `before` of them.
fn parted(characters: usize, before: usize, key: u32, scoring: Scoring, digits: usize) -> Question {
    let garbage = |count: usize| -> String {
        let endless = std::iter::repeat_n(GARBAGE, count / GARBAGE.len() + 1);
        endless.collect::<Vec<_>>().join(" ").chars().take(count).collect()
    };
    let depth = before as f64 / characters.max(1) as f64;
    let question = question(&garbage(before), key, &garbage(characters - before), scoring, digits);
    Question { depth: Some(depth), ..question }
}

fn question(
    before: &str,
    key: u32,
    after: &str,
    scoring: Scoring,
    max_new_tokens: usize,
) -> Question {
    let information = format!("The pass key is {key}. Remember it. {key} is the pass key.");
    Question {
        task: TASK.to_owned(),
        id: String::new(),
        text: [DESCRIPTION, before, &information, after, QUESTION].join("\n"),
        opening: OPENING.to_owned(),
        answers: vec![key.to_string()],
        scoring,
        length: 0,
        depth: None,
        max_new_tokens,
    }
}

/// The draws of NumPy's `RandomState`: MT19937, bounded by masks and rejection.
struct NumpyRandom {
    twister: Mt19937,
}

impl NumpyRandom {
    /// `numpy.random.seed(seed)`
    fn seeded(seed: u32) -> Self {
        Self { twister: Mt19937::new(seed) }
    }

    /// `numpy.random.randint(0, bound)`, and 0 where that would be an error.
    fn below(&mut self, bound: u32) -> u32 {
        let Some(most) = bound.checked_sub(1).filter(|most| *most > 0) else { return 0 };
        let mask = u32::MAX >> most.leading_zeros();
        loop {
            let drawn = self.twister.next_u32() & mask;
            if drawn <= most {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use longlora_data::train_byte_level_bpe;

    use super::*;

    fn prompter() -> Prompter {
        let text = [DESCRIPTION, GARBAGE, QUESTION, OPENING].join("\n");
        Prompter::text(train_byte_level_bpe([text.as_str()].into_iter(), 400).unwrap())
    }

    /// `np.random.seed(i); np.random.randint(0, n), np.random.randint(1, 50000)` of NumPy 2, `n` 30,720.
    #[test]
    fn draws_are_numpys() {
        let theirs = [
            (2732, 43568),
            (29733, 33004),
            (23720, 35344),
            (5994, 1689),
            (17530, 8367),
            (2915, 18639),
            (19145, 41188),
            (28847, 49690),
            (4547, 25941),
            (24958, 20829),
        ];
        for (seed, (before, key)) in theirs.into_iter().enumerate() {
            let mut numpy = NumpyRandom::seeded(seed as u32);
            assert_eq!(
                (numpy.below(30_720), 1 + numpy.below(49_999)),
                (before, key),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn longlora_asks_what_longlora_asks() {
        let protocol = PasskeyProtocol::LongLora { max_tokens: 8500, interval: 1000, trials: 2 };
        let questions = passkey_questions(&protocol, 0, &prompter()).unwrap();
        assert_eq!(questions.len(), 16);
        let last = &questions[14];
        assert_eq!(last.id, "8000/0");
        let tokens = |question| prompter().tokens(question).unwrap() as f64;
        let mean = (tokens(&questions[14]) + tokens(&questions[15])) / 2.0;
        assert_eq!(questions[14..].iter().map(|one| one.length).max(), Some(mean.round() as usize));
        let garbage = 29 * 1024;
        let information = last.text.split('\n').nth(2).unwrap();
        assert_eq!(
            last.text.len(),
            [DESCRIPTION, information, QUESTION].map(str::len).iter().sum::<usize>() + garbage + 4
        );
        // Its place, 2,732, is within the bounds of every length, so that the number is the next draw at all of them.
        for trial in questions.iter().step_by(2) {
            assert_eq!(trial.answers, ["43568"], "{}", trial.id);
        }
        let expected =
            format!("The pass key is {0}. Remember it. {0} is the pass key.", last.answers[0]);
        assert_eq!(information, expected);
    }

    #[test]
    fn a_grid_fills_its_lengths() {
        let prompter = prompter();
        let protocol = PasskeyProtocol::Grid {
            lengths: vec![512, 1500],
            depths: vec![0.0, 0.5, 1.0],
            trials: 2,
        };
        let questions = passkey_questions(&protocol, 7, &prompter).unwrap();
        assert_eq!(questions.len(), 12);
        let filler = prompter.tokenizer().encode(GARBAGE).unwrap().len();
        for question in &questions {
            let tokens = prompter.tokens(question).unwrap();
            assert!(tokens <= question.length, "{tokens} of {}", question.length);
            assert!(tokens + 2 * filler > question.length, "{tokens} of {}", question.length);
        }
        let line = |question: &Question| {
            let lines: Vec<_> = question.text.split('\n').map(str::len).collect();
            (lines[1], lines[3])
        };
        assert_eq!(line(&questions[0]).0, 0);
        assert_eq!(line(&questions[4]).1, 0);
        let (before, after) = line(&questions[2]);
        assert!(before.abs_diff(after) <= GARBAGE.len() + 1);
        assert_ne!(questions[0].answers, questions[1].answers);
        assert!(questions.iter().all(|question| question.max_new_tokens == 8));
        assert_eq!(questions, passkey_questions(&protocol, 7, &prompter).unwrap());
    }

    #[test]
    fn landmark_counts_characters() {
        let protocol = PasskeyProtocol::Landmark { max_characters: 1000, trials: 3 };
        let questions = passkey_questions(&protocol, 0, &prompter()).unwrap();
        assert_eq!(questions.len(), 12);
        assert!(questions[0].text.contains("there.\n\nThe pass key"));
        assert!(questions[9].text.len() > questions[6].text.len() + 490);
        assert!(questions.iter().all(|question| question.max_new_tokens == 10));
    }

    #[test]
    fn what_cannot_be_asked_is_an_error_that_says_what_to_do() {
        let check = |lengths: Vec<usize>, depths: Vec<f64>, parts: &[&str]| {
            let protocol = PasskeyProtocol::Grid { lengths, depths, trials: 1 };
            let error = passkey_questions(&protocol, 0, &prompter()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check(vec![40], vec![0.5], &["`40`", "passkey", "longer"]);
        check(vec![900], vec![50.0], &["`50`", "0 to 1"]);
    }
}
