//! Needles in the user's own documents.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::draws::draws;
use crate::fit::largest_that_fits;
use crate::sentences::sentences;
use crate::{EvalError, Prompter, Question, Scoring};

/// Names that a document hardly has anything to say about.
const CITIES: [&str; 24] = [
    "Antananarivo",
    "Bishkek",
    "Chisinau",
    "Dushanbe",
    "Esbjerg",
    "Funafuti",
    "Gaborone",
    "Hargeisa",
    "Iqaluit",
    "Jayapura",
    "Kampala",
    "Ljubljana",
    "Maputo",
    "Nouakchott",
    "Oranjestad",
    "Paramaribo",
    "Quito",
    "Reykjavik",
    "Skopje",
    "Thimphu",
    "Ulaanbaatar",
    "Vientiane",
    "Windhoek",
    "Yerevan",
];

/// What is hidden, and what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeedleKind {
    /// One sentence; asked for its number.
    Single,
    /// Four sentences about four places; asked for the number of one. The others are distractors.
    Several,
    /// Four numbers of one place; asked for all of them.
    Values,
    /// One sentence; asked for its place, by the number.
    Key,
}

/// Needles to hide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeedleConfig {
    /// What is hidden, and what is asked for.
    pub kind: NeedleKind,
    /// Context lengths in tokens, question and answer included.
    pub lengths: Vec<usize>,
    /// Where the needle that is asked for stands, from 0 (the beginning) to 1; of several values, the first.
    pub depths: Vec<f64>,
    /// Questions for each length and depth, in other stretches of the documents.
    pub trials: usize,
    /// Of all draws.
    pub seed: u64,
}

impl NeedleKind {
    /// As results name it.
    pub fn task(self) -> &'static str {
        match self {
            Self::Single => "needle",
            Self::Several => "needle_several",
            Self::Values => "needle_values",
            Self::Key => "needle_key",
        }
    }
}

/// Questions about needles between the sentences of documents.
///
/// Each is a stretch of one document, from a random sentence on and as long as its context allows; a document that is
/// shorter than that is continued by the others. The numbers are drawn anew for each.
///
/// # Errors
/// [`EvalError`], if the documents are shorter than the longest context, or a length has no room for the question.
pub fn needle_questions(
    config: &NeedleConfig,
    documents: &[String],
    prompter: &Prompter,
) -> Result<Vec<Question>, EvalError> {
    if let Some(&depth) = config.depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
        return Err(EvalError::BadDepth { depth });
    }
    let hay: Vec<&str> = documents.iter().flat_map(|text| sentences(text)).collect();
    let mut questions = vec![];
    for &length in &config.lengths {
        for &depth in &config.depths {
            for trial in 0..config.trials {
                let place = (length, depth, trial);
                let mut random = draws(config.seed, config.kind.task(), place);
                let needles = Needles::draw(config.kind, &mut random);
                let begin = random.random_range(0..hay.len().max(1));
                let id = format!("{length}/{depth}/{trial}");
                let hay = Hay { sentences: &hay, begin };
                let question = hay.hide(&needles, length, depth, prompter)?;
                questions.push(Question { id, ..question });
            }
        }
    }
    Ok(questions)
}

/// Sentences that are hidden, and the question.
struct Needles {
    kind: NeedleKind,
    /// The first is the one that is asked for.
    sentences: Vec<String>,
    question: String,
    opening: String,
    answers: Vec<String>,
    /// Where the others stand, each a share of the whole.
    others: Vec<f64>,
}

impl Needles {
    fn draw(kind: NeedleKind, random: &mut ChaCha8Rng) -> Self {
        let mut cities = CITIES;
        cities.shuffle(random);
        let mut number = || random.random_range(1_000_000..10_000_000u32).to_string();
        let about = |city: &str, number: &str| format!("The secret number of {city} is {number}.");
        let count = if matches!(kind, NeedleKind::Several | NeedleKind::Values) { 4 } else { 1 };
        let numbers: Vec<String> = (0..count).map(|_| number()).collect();
        let place = |n: usize| if kind == NeedleKind::Values { cities[0] } else { cities[n] };
        let sentences = (0..count).map(|n| about(place(n), &numbers[n])).collect();
        let city = cities[0];
        let (question, opening, answers) = match kind {
            NeedleKind::Single | NeedleKind::Several => (
                format!("What is the secret number of {city}?"),
                format!(" The secret number of {city} is"),
                vec![numbers[0].clone()],
            ),
            NeedleKind::Values => (
                format!("What are all the secret numbers of {city}?"),
                format!(" The secret numbers of {city} are"),
                numbers,
            ),
            NeedleKind::Key => (
                format!("Which city has the secret number {}?", numbers[0]),
                format!(" The city with the secret number {} is", numbers[0]),
                vec![city.to_owned()],
            ),
        };
        let others = (1..count).map(|_| random.random()).collect();
        Self { kind, sentences, question, opening, answers, others }
    }
}

/// The documents' sentences, from one of them on.
struct Hay<'a> {
    sentences: &'a [&'a str],
    begin: usize,
}

impl Hay<'_> {
    /// As many sentences as fit, with the needles between them.
    fn hide(
        &self,
        needles: &Needles,
        length: usize,
        depth: f64,
        prompter: &Prompter,
    ) -> Result<Question, EvalError> {
        let all = self.sentences.len();
        // Beyond the documents' end nothing is added, so that the search ends there.
        let tokens = |count: usize| match count > all {
            true => Ok(usize::MAX),
            false => prompter.tokens(&self.question(needles, count, length, depth)),
        };
        let task = || needles.kind.task().to_owned();
        let count = largest_that_fits(0, length, tokens)?
            .ok_or_else(|| EvalError::ShortContext { task: task(), length })?;
        let question = self.question(needles, count, length, depth);
        let tokens = prompter.tokens(&question)?;
        if count == all || 2 * tokens < length {
            return Err(EvalError::ShortHaystack { task: task(), tokens, length });
        }
        Ok(question)
    }

    /// Whole documents are sought, but the last sentence may be cut off from the rest of its paragraph.
    fn question(&self, needles: &Needles, count: usize, length: usize, depth: f64) -> Question {
        let hay = self.sentences.iter().cycle().skip(self.begin).take(count);
        let mut text: Vec<&str> = hay.copied().collect();
        let place = |share: f64| (share * count as f64).round() as usize;
        let depths = std::iter::once(depth).chain(needles.others.iter().copied());
        let mut places: Vec<_> = depths.map(place).zip(&needles.sentences).collect();
        // From the end, so that no needle moves another one.
        places.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        for (place, sentence) in places {
            text.insert(place, sentence);
        }
        let hidden = match needles.kind {
            NeedleKind::Values => {
                "Some secret numbers are hidden in the following text. Remember them."
            }
            _ => "A secret number is hidden in the following text. Remember it.",
        };
        Question {
            task: needles.kind.task().to_owned(),
            id: String::new(),
            text: format!("{hidden}\n\n{}\n\n{}", text.join(" "), needles.question),
            opening: needles.opening.clone(),
            answers: needles.answers.clone(),
            scoring: Scoring::AllOf,
            length,
            depth: Some(depth),
            max_new_tokens: 16 * needles.answers.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use longlora_data::train_byte_level_bpe;

    use super::*;

    fn documents() -> Vec<String> {
        let sentence = |n: u32| {
            format!("On day {n} it rained, and nobody went out. Was it cold? It was {n} degrees.")
        };
        vec![
            (0..60).map(sentence).collect::<Vec<_>>().join(" "),
            (60..90).map(sentence).collect::<Vec<_>>().join("\n\n"),
        ]
    }

    fn prompter() -> Prompter {
        let documents = documents();
        Prompter::text(train_byte_level_bpe(documents.iter().map(String::as_str), 400).unwrap())
    }

    fn config(kind: NeedleKind, lengths: &[usize]) -> NeedleConfig {
        NeedleConfig {
            kind,
            lengths: lengths.to_vec(),
            depths: vec![0.0, 0.5, 1.0],
            trials: 2,
            seed: 3,
        }
    }

    #[test]
    fn every_kind_hides_what_it_asks_for() {
        let kinds = [NeedleKind::Single, NeedleKind::Several, NeedleKind::Values, NeedleKind::Key];
        let prompter = prompter();
        for kind in kinds {
            let questions =
                needle_questions(&config(kind, &[500, 900]), &documents(), &prompter).unwrap();
            assert_eq!(questions.len(), 12);
            for question in &questions {
                let tokens = prompter.tokens(question).unwrap();
                assert!(tokens <= question.length, "{tokens} of {}", question.length);
                assert!(tokens + 60 > question.length, "{tokens} of {}", question.length);
                assert!(question.answers.iter().all(|answer| question.text.contains(answer)));
                let needles = question.text.matches("The secret number of").count();
                let several = matches!(kind, NeedleKind::Several | NeedleKind::Values);
                assert_eq!(needles, if several { 4 } else { 1 });
            }
        }
    }

    #[test]
    fn depth_says_where() {
        let questions =
            needle_questions(&config(NeedleKind::Single, &[900]), &documents(), &prompter())
                .unwrap();
        for question in &questions {
            let body = question.text.split("\n\n").nth(1).unwrap();
            let at = body.find("The secret number").unwrap() as f64 / body.len() as f64;
            assert!((at - question.depth.unwrap()).abs() < 0.06, "{at} {:?}", question.depth);
        }
    }

    #[test]
    fn the_same_seed_hides_the_same() {
        let ask = |seed| {
            let config = NeedleConfig { seed, ..config(NeedleKind::Single, &[500]) };
            needle_questions(&config, &documents(), &prompter()).unwrap()
        };
        assert_eq!(ask(1), ask(1));
        assert_ne!(ask(1), ask(2));
    }

    #[test]
    fn what_cannot_be_asked_is_an_error_that_says_what_to_do() {
        let check = |length: usize, parts: &[&str]| {
            let config = config(NeedleKind::Key, &[length]);
            let error =
                needle_questions(&config, &documents(), &prompter()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check(20, &["`20`", "needle_key"]);
        check(100_000, &["`100000`", "longer documents"]);
    }
}
