//! Against `transformers` 4.57.1: what SmolLM2-135M answers to passkeys, word for word, and under position interpolation
//! number for number.
//!
//! Without the model or the answers the test says that it is skipped. With LONGLORA_ALL_PERPLEXITIES all prompts up to
//! 2,048 tokens are asked, else three of them.

use std::path::Path;

use burn::tensor::Device;
use longlora_adapters::RopeKind;
use longlora_data::{ChatTemplate, Tokenizer};
use longlora_eval::{
    Examinee, PasskeyProtocol, Prompter, Question, Results, Scoring, exam, passkey_questions,
};
use longlora_llama::{Llama, load_pretrained};
use serde_json::Value;

use crate::fixture::{json, model, shared};

const TEST: &str = "passkeys_are_answered_as_transformers_answers_them";

/// Our question of this length and depth, with their number.
fn question(row: &Value, prompter: &Prompter) -> Question {
    let length = row["ctx"].as_u64().unwrap() as usize;
    let depths = vec![row["depth"].as_f64().unwrap()];
    let protocol = PasskeyProtocol::Grid { lengths: vec![length], depths, trials: 1 };
    let ours = passkey_questions(&protocol, 0, prompter).unwrap().remove(0);
    let key = row["key"].to_string();
    Question { text: ours.text.replace(&ours.answers[0], &key), answers: vec![key], ..ours }
}

fn prompter(folder: &Path, form: &str) -> Prompter {
    let tokenizer = Tokenizer::read(folder).unwrap();
    match form {
        "raw" => Prompter::text(tokenizer),
        _ => {
            let template = ChatTemplate::read(folder, &tokenizer).unwrap().unwrap();
            Prompter::chat(tokenizer, template)
        }
    }
}

fn stretched(llama: &Llama, config: &str) -> Llama {
    let mut llama = llama.clone();
    let kind = match config {
        "unmodified" => return llama,
        "yarn_x2" => RopeKind::Yarn,
        "linear_x2" => RopeKind::Linear,
        other => panic!("{other}"),
    };
    llama.config.rope = llama.config.rope.extended(kind, 2 * 8192).unwrap();
    llama
}

fn is_asked(row: &Value) -> bool {
    let (length, depth) = (row["ctx"].as_u64().unwrap(), row["depth"].as_f64().unwrap());
    match std::env::var_os("LONGLORA_ALL_PERPLEXITIES") {
        Some(_) => length <= 2048,
        None if row["config"] == "linear_x2" => length == 1024 && depth == 0.0,
        None => row["config"] == "unmodified" && length == 1024 && depth == 0.5,
    }
}

/// The first one, which is what is judged.
fn number(text: &str) -> Option<&str> {
    text.split(|character: char| !character.is_ascii_digit()).find(|part| !part.is_empty())
}

#[test]
fn passkeys_are_answered_as_transformers_answers_them() {
    let (Some(folder), Some(theirs)) =
        (model(TEST, "SmolLM2-135M-Instruct"), shared(TEST, "reference/passkey.json"))
    else {
        return;
    };
    let llama = load_pretrained(&folder, &Device::default()).unwrap();
    let theirs = json(&theirs);
    let rows: Vec<&Value> =
        theirs["rows"].as_array().unwrap().iter().filter(|row| is_asked(row)).collect();
    assert!(rows.len() >= 3);
    let results = tempfile::tempdir().unwrap();
    let mut results = Results::open(&results.path().join("passkey.jsonl")).unwrap();
    for row in rows {
        let config = row["config"].as_str().unwrap();
        let prompter = prompter(&folder, row["form"].as_str().unwrap());
        let question = question(row, &prompter);
        assert_eq!(question.scoring, Scoring::FirstNumber);
        let llama = stretched(&llama, config);
        let (name, key) = ("SmolLM2-135M".to_owned(), config.to_owned());
        let room = llama.config.rope.max_position_embeddings;
        let (weights, adapter) = (None, None);
        let examinee = Examinee { llama, name, weights, adapter, key, room };
        let questions = [question];
        let answers = exam(&examinee, &prompter, &questions, &mut results, &mut |_, _| {}).unwrap();
        let ours = &answers[0];
        assert_eq!(ours.prompt_tokens as u64, row["prompt_tokens"].as_u64().unwrap(), "{row}");
        let theirs = row["output"].as_str().unwrap();
        match config {
            // Where positions are squeezed the model is lost, and the words after its number can hang on the last bit.
            "linear_x2" => assert_eq!(number(&ours.output), number(theirs), "{row}"),
            _ => assert_eq!(ours.output, theirs, "{row}"),
        }
        assert_eq!(ours.score == 1.0, row["correct"].as_bool().unwrap(), "{row}");
    }
}
