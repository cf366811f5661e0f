//! Asking a model.

use std::ops::ControlFlow;

use longlora_llama::{GenerateOptions, Llama, StopReason};
use sha2::{Digest, Sha256};

use crate::{Answer, EvalError, Prompter, Question, Results};

/// A model that is asked.
#[derive(Debug)]
pub struct Examinee {
    /// The model, without autodiff.
    pub llama: Llama,
    /// What results files call it.
    pub name: String,
    /// How its matrices are kept, for results files: models of one name may differ in it.
    pub weights: Option<String>,
    /// The first digits of a hash of its adapter, for results files.
    pub adapter: Option<String>,
    /// Tells it from all others: answers of one model are never taken for another's.
    pub key: String,
    /// Tokens that a question and its answer may have together.
    pub room: usize,
}

/// Asks a model every question that `results` has no answer to yet, and returns all answers, in the order of the
/// questions.
///
/// Answers are greedy, and each is on the disk before the next question is asked. `progress` is told, after each, how many
/// are answered, and of how many.
///
/// # Errors
/// [`EvalError`], if a question cannot be turned into tokens, does not fit into the model's context, has a token that
/// the model does not know, the model computes numbers that are none, or an answer cannot be written.
///
/// # Panics
/// If the model is on an autodiff device.
pub fn exam(
    examinee: &Examinee,
    prompter: &Prompter,
    questions: &[Question],
    results: &mut Results,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Answer>, EvalError> {
    let Examinee { llama, .. } = examinee;
    assert!(!llama.device().is_autodiff(), "needs a model without autodiff; take `valid()` of it");
    for question in questions {
        check(examinee, &prompter.prompt(&question.text, &question.opening)?, question)?;
    }
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let prompt = prompter.prompt(&question.text, &question.opening)?;
        let ends = prompter.ends().filter(|id| !llama.config.eos_token_ids.contains(id));
        let key = key(&examinee.key, &prompt, question, ends);
        let answer = match results.get(&key) {
            // By today's rules, and in today's place of the table, whenever it was given.
            Some(answer) => Answer {
                length: question.length,
                depth: question.depth,
                score: question.scoring.score(&answer.output, &question.answers),
                ..answer.clone()
            },
            None => {
                let answer = ask(examinee, prompter, &prompt, question, key)?;
                results.append(&answer)?;
                answer
            }
        };
        answers.push(answer);
        progress(answers.len(), questions.len());
    }
    Ok(answers)
}

/// What an answer depends on, hashed. How it is judged is no part of that.
fn key(
    model: &str,
    prompt: &[u32],
    question: &Question,
    ends: impl Iterator<Item = u32>,
) -> String {
    let mut hash = Sha256::new();
    let Question { task, id, max_new_tokens, answers, .. } = question;
    for part in [model, task, id, &max_new_tokens.to_string()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    for answer in answers {
        hash.update((answer.len() as u64).to_le_bytes());
        hash.update(answer);
    }
    prompt.iter().copied().chain(ends).for_each(|id| hash.update(id.to_le_bytes()));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(examinee: &Examinee, prompt: &[u32], question: &Question) -> Result<(), EvalError> {
    let &Examinee { ref llama, room, .. } = examinee;
    let tokens = prompt.len() + question.max_new_tokens;
    let named = || (question.task.clone(), question.id.clone());
    if tokens > room {
        let (task, id) = named();
        return Err(EvalError::LongQuestion { task, id, tokens, room });
    }
    let vocab_size = llama.config.vocab_size;
    match prompt.iter().find(|&&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(&token) => {
            let (task, id) = named();
            Err(EvalError::UnknownTokenInQuestion { task, id, token, vocab_size })
        }
    }
}

fn ask(
    Examinee { llama, name, weights, adapter, .. }: &Examinee,
    prompter: &Prompter,
    prompt: &[u32],
    question: &Question,
    key: String,
) -> Result<Answer, EvalError> {
    let options = GenerateOptions {
        max_new_tokens: question.max_new_tokens,
        eos_token_ids: prompter.ends().collect(),
        ..GenerateOptions::default()
    };
    let generated = llama.generate(prompt, &options, |_| ControlFlow::Continue(()));
    if generated.stop == StopReason::NotFinite {
        let (task, id) = (question.task.clone(), question.id.clone());
        return Err(EvalError::NotANumber { model: name.clone(), task, id });
    }
    // By themselves, as the benchmarks do: some tokenizers then lose a space before the first word.
    let output = prompter.tokenizer().decode(&generated.ids)?;
    Ok(Answer {
        key,
        model: name.clone(),
        weights: weights.clone(),
        adapter: adapter.clone(),
        task: question.task.clone(),
        id: question.id.clone(),
        length: question.length,
        depth: question.depth,
        prompt_tokens: prompt.len(),
        score: question.scoring.score(&output, &question.answers),
        output,
        answers: question.answers.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::slice;

    use burn::tensor::Device;
    use longlora_data::train_byte_level_bpe;
    use longlora_llama::LlamaConfig;
    use serde_json::json;

    use super::*;
    use crate::Scoring;

    /// One block with random weights, and a token for each byte.
    fn examinee(key: &str) -> Examinee {
        let config = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 258, "max_position_embeddings": 64,
        });
        let config = config.as_object().unwrap().clone();
        let config = LlamaConfig::from_hugging_face(config, Path::new("tiny")).unwrap();
        let llama = config.init(&Device::default());
        Examinee {
            llama,
            name: "tiny".to_owned(),
            weights: Some("f32".to_owned()),
            adapter: None,
            key: key.to_owned(),
            room: 64,
        }
    }

    fn question() -> Question {
        Question {
            task: "sums".to_owned(),
            id: "0".to_owned(),
            text: "Two and two".to_owned(),
            opening: " is".to_owned(),
            answers: vec!["4".to_owned()],
            scoring: Scoring::Exact,
            length: 0,
            depth: None,
            max_new_tokens: 2,
        }
    }

    fn but(change: fn(&mut Question)) -> Question {
        let mut other = question();
        change(&mut other);
        other
    }

    #[test]
    fn an_answer_is_of_its_model_and_its_question_and_neither_is_asked_twice() {
        let prompter = Prompter::text(train_byte_level_bpe(["a"].into_iter(), 258).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let mut results = Results::open(&path).unwrap();
        let mut lines_after = |examinee: &Examinee, question: &Question| {
            let questions = slice::from_ref(question);
            exam(examinee, &prompter, questions, &mut results, &mut |_, _| {}).unwrap();
            fs::read_to_string(&path).unwrap().lines().count()
        };
        let (base, tuned) = (examinee("base"), examinee("tuned"));
        let others = [
            but(|it| it.task = "products".to_owned()),
            but(|it| it.id = "1".to_owned()),
            but(|it| it.text = "Two and six".to_owned()),
            but(|it| it.opening = " = ".to_owned()),
            but(|it| it.answers = vec!["5".to_owned()]),
            but(|it| it.answers.push("four".to_owned())),
            but(|it| it.max_new_tokens = 3),
        ];
        assert_eq!(lines_after(&base, &question()), 1);
        assert_eq!(lines_after(&tuned, &question()), 2);
        for (index, other) in others.iter().enumerate() {
            assert_eq!(lines_after(&base, other), 3 + index, "{other:?}");
        }
        for question in others.iter().chain([&question()]) {
            assert_eq!(lines_after(&base, question), 9, "{question:?} was asked twice");
        }
        assert_eq!(lines_after(&tuned, &question()), 9);

        // How a model is described makes no other of it.
        let mut described = examinee("base");
        described.adapter = Some("0123456789ab".to_owned());
        assert_eq!(lines_after(&described, &question()), 9);
        described.key = "other".to_owned();
        assert_eq!(lines_after(&described, &question()), 10);
        let lines = fs::read_to_string(&path).unwrap();
        assert!(lines.lines().last().unwrap().contains("\"adapter\":\"0123456789ab\""), "{lines}");
    }
}
