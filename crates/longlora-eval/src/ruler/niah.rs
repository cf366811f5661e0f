//! Needles in a haystack: keys with values, some of which are asked for.

use rand::RngExt;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;

use super::haystack::{Haystack, NOISE, hide_in_essay, hide_in_lines};
use super::{Wording, words};

/// RULER has its needles at 40 depths, 0 to 100 % in equal steps, rounded to whole percents.
const DEPTHS: usize = 40;

/// Settings of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Niah {
    /// What the needles are hidden in.
    pub(super) haystack: Haystack,
    /// What a key is.
    pub(super) key: Magic,
    /// What a value is.
    pub(super) value: Magic,
    /// Keys that are hidden.
    pub(super) keys: usize,
    /// Values of each key, one needle each.
    pub(super) values: usize,
    /// Keys that are asked for.
    pub(super) queries: usize,
}

/// What keys and values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Magic {
    /// An adjective and a noun.
    Words,
    /// Seven digits.
    Numbers,
    /// Version 4, 36 characters.
    Uuids,
}

/// The needles of one question, and what is asked.
struct Needles {
    settings: Niah,
    keys: Vec<String>,
    /// In the order in which they stand in the text.
    sentences: Vec<String>,
    /// Keys that are asked for, as text.
    query: String,
    answers: Vec<String>,
}

impl Niah {
    /// The smallest haystack, in units: a line for each needle to stand before, or no essay at all.
    pub(super) fn least(&self) -> usize {
        if self.haystack == Haystack::Essay { 0 } else { self.keys * self.values }
    }

    /// A question, for so many words of an essay or lines of another haystack.
    pub(super) fn draw(self, essay: &[&str], mut random: ChaCha8Rng) -> impl Fn(usize) -> Wording {
        let needles = Needles::draw(self, &mut random);
        move |units| match self.haystack {
            Haystack::Essay => needles.in_essay(essay, units, random.clone()),
            Haystack::Noise => needles.in_lines(vec![NOISE; units], random.clone()),
            Haystack::Needles => {
                let mut random = random.clone();
                let others: Vec<_> = (0..units).map(|_| needles.other(&mut random)).collect();
                needles.in_lines(others.iter().map(String::as_str).collect(), random)
            }
        }
    }
}

impl Needles {
    fn draw(settings: Niah, random: &mut ChaCha8Rng) -> Self {
        let Niah { key, value, values, queries, .. } = settings;
        let mut keys: Vec<String> = vec![];
        while keys.len() < settings.keys {
            let drawn = key.draw(random);
            if !keys.contains(&drawn) {
                keys.push(drawn);
            }
        }
        let mut pairs: Vec<(usize, String)> = vec![];
        for owner in 0..keys.len() {
            pairs.extend((0..values).map(|_| (owner, value.draw(random))));
        }
        let asked = index::sample(random, keys.len(), queries).into_vec();
        let of = |key: usize| pairs.iter().filter(move |(owner, _)| *owner == key);
        let answers =
            asked.iter().flat_map(|&key| of(key)).map(|(_, drawn)| drawn.clone()).collect();
        let queries: Vec<&str> = asked.iter().map(|&key| keys[key].as_str()).collect();
        let mut sentences: Vec<String> =
            pairs.iter().map(|(owner, drawn)| needle(value, &keys[*owner], drawn)).collect();
        sentences.shuffle(random);
        Self { settings, sentences, query: listed(&queries), answers, keys }
    }

    /// A needle whose key is none of these.
    fn other(&self, random: &mut ChaCha8Rng) -> String {
        loop {
            let key = self.settings.key.draw(random);
            if !self.keys.contains(&key) {
                return needle(self.settings.value, &key, &self.settings.value.draw(random));
            }
        }
    }

    fn in_essay(&self, essay: &[&str], count: usize, mut random: ChaCha8Rng) -> Wording {
        let mut steps = index::sample(&mut random, DEPTHS, self.sentences.len()).into_vec();
        steps.sort_unstable();
        let percents: Vec<usize> = steps.into_iter().map(percent).collect();
        let depths: Vec<f64> = percents.iter().map(|&percent| percent as f64 / 100.0).collect();
        self.ask(&hide_in_essay(essay, count, &self.sentences, &percents), &depths)
    }

    fn in_lines(&self, lines: Vec<&str>, mut random: ChaCha8Rng) -> Wording {
        let count = lines.len();
        let mut places = index::sample(&mut random, count, self.sentences.len()).into_vec();
        places.sort_unstable();
        let depths: Vec<f64> = places.iter().map(|&place| place as f64 / count as f64).collect();
        self.ask(&hide_in_lines(lines, &self.sentences, &places), &depths)
    }

    /// The question; `depths` are those of the sentences. With one answer RULER puts its template into the singular, but
    /// not the needles.
    fn ask(&self, context: &str, depths: &[f64]) -> Wording {
        let query = &self.query;
        let kind = self.settings.value.plural();
        let (text, opening, depth) = match self.answers.as_slice() {
            [answer] => {
                let kind = kind.trim_end_matches('s');
                let sentence = self.sentences.iter().position(|sentence| sentence.contains(answer));
                (
                    format!(
                        "A special magic {kind} is hidden within the following text. Make sure to memorize it. \
                         I will quiz you about the {kind} afterwards.\n{context}\n\
                         What is the special magic {kind} for {query} mentioned in the provided text?"
                    ),
                    format!(
                        " The special magic {kind} for {query} mentioned in the provided text is"
                    ),
                    sentence.map(|sentence| depths[sentence]),
                )
            }
            _ => (
                format!(
                    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. \
                     I will quiz you about the {kind} afterwards.\n{context}\n\
                     What are all the special magic {kind} for {query} mentioned in the provided text?"
                ),
                format!(" The special magic {kind} for {query} mentioned in the provided text are"),
                None,
            ),
        };
        Wording { text, opening, answers: self.answers.clone(), depth }
    }
}

impl Magic {
    fn draw(self, random: &mut ChaCha8Rng) -> String {
        match self {
            Self::Words => words::pair(random.random_range(0..words::PAIRS)),
            Self::Numbers => random.random_range(1_000_000..=9_999_999u32).to_string(),
            Self::Uuids => uuid(random.random()),
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Numbers => "numbers",
            Self::Uuids => "uuids",
        }
    }
}

fn needle(value: Magic, key: &str, drawn: &str) -> String {
    format!("One of the special magic {} for {key} is: {drawn}.", value.plural())
}

/// `a, b, and c`
fn listed(keys: &[&str]) -> String {
    match keys {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{}, and {last}", most.join(", ")),
    }
}

/// NumPy's `round(linspace(0, 100, 40))`; no step is half a percent.
fn percent(step: usize) -> usize {
    (200 * step + DEPTHS - 1) / (2 * (DEPTHS - 1))
}

/// Random bits as a UUID of version 4 (RFC 9562, section 5.4).
fn uuid(bits: u128) -> String {
    let version = (bits & !(0xf << 76)) | (0x4 << 76);
    let variant = (version & !(0x3 << 62)) | (0x2 << 62);
    let digits = format!("{variant:032x}");
    let part = |range: std::ops::Range<usize>| &digits[range];
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RulerTask;
    use crate::ruler::testing::ask;

    #[test]
    fn each_task_hides_its_needles() {
        let cases = [
            (RulerTask::NiahSingle1, 1, 1),
            (RulerTask::NiahSingle2, 1, 1),
            (RulerTask::NiahSingle3, 1, 1),
            (RulerTask::NiahMultikey1, 4, 1),
            (RulerTask::NiahMultivalue, 4, 4),
            (RulerTask::NiahMultiquery, 4, 4),
        ];
        for (task, needles, answers) in cases {
            for question in ask(task, 2048, 1) {
                let found = question.text.matches("One of the special magic ").count();
                assert_eq!((found, question.answers.len()), (needles, answers), "{}", task.name());
            }
        }
        for task in [RulerTask::NiahMultikey2, RulerTask::NiahMultikey3] {
            let question = &ask(task, 2048, 1)[0];
            let lines: Vec<_> = question.text.lines().collect();
            let needles = lines.iter().filter(|line| line.starts_with("One of the special magic "));
            assert_eq!(needles.count(), lines.len() - 2, "{}", task.name());
        }
    }

    #[test]
    fn an_answer_belongs_to_the_key_that_is_asked_for() {
        for task in RulerTask::all().into_iter().take(8) {
            for question in ask(task, 2048, 2) {
                let opening = question.opening;
                let query = opening.split(" for ").nth(1).unwrap();
                let query = query.split(" mentioned").next().unwrap();
                for answer in &question.answers {
                    let end = format!(" is: {answer}.");
                    let before = question.text.split(&end).next().unwrap();
                    let key = before.rsplit(" for ").next().unwrap();
                    assert!(query.contains(key), "{}: `{key}` in `{query}`", task.name());
                    let values = question.text.matches(&format!(" for {key} is: ")).count();
                    let keys = query.split(", ").count();
                    assert_eq!(values * keys, question.answers.len(), "{}", task.name());
                }
            }
        }
    }

    #[test]
    fn depth_says_where() {
        for task in RulerTask::all().into_iter().take(8) {
            for question in ask(task, 5000, 4) {
                assert_eq!(
                    question.depth.is_some(),
                    question.answers.len() == 1,
                    "{}",
                    task.name()
                );
                let Some(depth) = question.depth else { continue };
                let at = question.text.find(&question.answers[0]).unwrap();
                let at = at as f64 / question.text.len() as f64;
                assert!((at - depth).abs() < 0.1, "{}: {at} {depth}", task.name());
            }
        }
    }

    #[test]
    fn a_question_is_the_same_at_every_length() {
        for task in RulerTask::all().into_iter().take(8) {
            let [short, long] = [2048, 5000].map(|length| ask(task, length, 6));
            for (short, long) in short.iter().zip(&long) {
                assert_eq!((&short.opening, &short.answers), (&long.opening, &long.answers));
            }
        }
    }

    #[test]
    fn templates_are_rulers() {
        let one = &ask(RulerTask::NiahSingle3, 2048, 0)[0];
        assert!(one.text.starts_with(
            "A special magic uuid is hidden within the following text. Make sure to memorize it. I will quiz you about \
             the uuid afterwards.\n"
        ));
        assert!(one.text.contains("One of the special magic uuids for "));
        assert!(one.text.contains("\nWhat is the special magic uuid for "));
        let four = &ask(RulerTask::NiahMultiquery, 2048, 0)[0];
        assert!(four.text.contains("\nWhat are all the special magic numbers for "));
        assert_eq!(four.opening.matches(", ").count(), 3);
        assert!(four.opening.ends_with(" mentioned in the provided text are"));
    }

    #[test]
    fn depths_are_numpys() {
        let depths: Vec<_> = (0..DEPTHS).map(percent).collect();
        assert_eq!(depths[..8], [0, 3, 5, 8, 10, 13, 15, 18]);
        assert_eq!(depths[19..21], [49, 51]);
        assert_eq!(depths[37..], [95, 97, 100]);
    }

    #[test]
    fn uuids_are_of_version_4() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    #[test]
    fn keys_are_listed_as_in_a_sentence() {
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b"]), "a, and b");
        assert_eq!(listed(&["a", "b", "c"]), "a, b, and c");
    }
}
