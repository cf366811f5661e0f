//! What the tests ask with.

use std::sync::{Arc, OnceLock};

use longlora_data::{Tokenizer, train_byte_level_bpe};

use super::haystack::NOISE;
use super::{QaItem, RulerConfig, RulerTask, ruler_questions, words};
use crate::{Prompter, Question};

/// Texts with all words of the lists, about 2,000 tokens.
pub(super) fn essays() -> Vec<String> {
    let noun = |number: usize| words::NOUNS[number % words::NOUNS.len()];
    let adjective = |number: usize| words::ADJECTIVES[number % words::ADJECTIVES.len()];
    let sentence = |number: usize| {
        let [first, second, third] = [0, 1, 2].map(|place| noun(3 * number + place));
        let [small, large] = [0, 1].map(|place| adjective(2 * number + place));
        format!("The {small} {first} saw a {large} {second} near the {third}.")
    };
    let text = |part: usize| (60 * part..60 * part + 60).map(sentence).collect::<Vec<_>>();
    (0..3).map(|part| text(part).join(" ")).collect()
}

/// Questions with a document each.
pub(super) fn items() -> Vec<QaItem> {
    let item = |number: usize| {
        let noun = words::NOUNS[7 * number];
        let adjective = words::ADJECTIVES[5 * number];
        let document = format!(
            "The {adjective} museum has many rooms, and whoever wants to see the {noun} has to go to room {number}. \
             It is there since the year {}, when a {adjective} friend of the house left it to the town.",
            1900 + number
        );
        QaItem {
            question: format!("In which room is the {noun}?"),
            answers: vec![format!("room {number}")],
            documents: vec![Arc::from(document)],
            more_documents: vec![],
        }
    };
    (0..12).map(item).collect()
}

/// Asks texts, with a tokenizer that knows the words of the lists, noise and numbers.
pub(super) fn prompter() -> Prompter {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let train = || {
        let mut texts = essays();
        texts.extend(items().iter().map(|item| item.documents[0].to_string()));
        texts.push(NOISE.to_owned());
        texts.push((1..1000).map(|number| format!("{number}.")).collect::<Vec<_>>().join(" "));
        // A pair that occurs once is not learnt.
        let twice = texts.iter().chain(&texts).map(String::as_str);
        train_byte_level_bpe(twice, 6000).unwrap()
    };
    Prompter::text(TOKENIZER.get_or_init(train).clone())
}

/// Two questions.
pub(super) fn ask(task: RulerTask, length: usize, seed: u64) -> Vec<Question> {
    let config = RulerConfig { task, length, samples: 2, seed };
    ruler_questions(&config, &essays(), &items(), &prompter()).unwrap()
}
