//! QASPER's own files: questions about papers (arXiv:2105.03011).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::items::read_text;
use super::{LongBenchItem, LongBenchTask};
use crate::EvalError;

#[derive(Deserialize)]
struct Paper {
    full_text: Vec<Section>,
    qas: Vec<Asked>,
}

#[derive(Deserialize)]
struct Section {
    section_name: Option<String>,
    paragraphs: Vec<String>,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    question_id: String,
    answers: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    answer: Answer,
}

/// What one reader answered, as text.
#[derive(Deserialize)]
#[serde(try_from = "Kinds")]
struct Answer(String);

/// Of these, one is given.
#[derive(Deserialize)]
struct Kinds {
    unanswerable: bool,
    extractive_spans: Vec<String>,
    free_form_answer: String,
    yes_no: Option<bool>,
}

impl TryFrom<Kinds> for Answer {
    type Error = &'static str;

    /// As QASPER's official `qasper_evaluator.py` takes it.
    fn try_from(kinds: Kinds) -> Result<Self, Self::Error> {
        let Kinds { unanswerable, extractive_spans, free_form_answer, yes_no } = kinds;
        Ok(Self(match yes_no {
            _ if unanswerable => "Unanswerable".to_owned(),
            _ if !extractive_spans.is_empty() => extractive_spans.join(", "),
            _ if !free_form_answer.is_empty() => free_form_answer,
            Some(true) => "Yes".to_owned(),
            Some(false) => "No".to_owned(),
            None => return Err("an answer says nothing"),
        }))
    }
}

/// Reads a file of QASPER, such as `qasper-dev-v0.3.json`: all questions, by paper, with the prompt of LongBench's
/// `qasper`.
///
/// The context is the paper without title and abstract, as in QASPER's own baseline: the names of its sections and its
/// paragraphs, each in a line. LongBench has chosen 200 questions, so its scores are not those of a whole file.
///
/// # Errors
/// [`EvalError`], if the file cannot be read or is none of QASPER.
pub fn read_qasper(path: &Path) -> Result<Vec<LongBenchItem>, EvalError> {
    let text = read_text(path)?;
    let papers: BTreeMap<String, Paper> =
        serde_json::from_str(&text).map_err(|error| EvalError::BadDataset {
            dataset: "QASPER",
            path: path.to_owned(),
            line: error.line(),
            problem: error.to_string(),
        })?;
    Ok(papers.into_values().flat_map(items).collect())
}

fn items(paper: Paper) -> impl Iterator<Item = LongBenchItem> {
    let context: Arc<str> = full_text(&paper.full_text).into();
    let task = LongBenchTask::named("qasper").expect("it is in the table");
    paper.qas.into_iter().map(move |asked| LongBenchItem {
        task,
        id: asked.question_id,
        input: asked.question,
        context: context.clone(),
        answers: asked.answers.into_iter().map(|annotation| annotation.answer.0).collect(),
        all_classes: vec![],
        length: None,
    })
}

fn full_text(sections: &[Section]) -> String {
    let mut lines = vec![];
    for section in sections {
        lines.extend(section.section_name.clone());
        let paragraphs = section.paragraphs.iter();
        let paragraphs = paragraphs.map(|paragraph| paragraph.replace('\n', " ").trim().to_owned());
        lines.extend(paragraphs.filter(|paragraph| !paragraph.is_empty()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(json: &str) -> Result<Vec<LongBenchItem>, EvalError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qasper.json");
        fs::write(&path, json).unwrap();
        read_qasper(&path)
    }

    const PAPERS: &str = r#"{
        "2002.00002": {
            "title": "Mills", "abstract": "We mill.",
            "full_text": [
                {"section_name": "Introduction", "paragraphs": ["Mills\nmill. ", "", "Wind blows."]},
                {"section_name": null, "paragraphs": ["Thanks."]}
            ],
            "qas": [
                {"question": "What do they use?", "question_id": "q1", "nlp_background": "two", "answers": [
                    {"answer": {"unanswerable": false, "extractive_spans": ["wind", "water"], "yes_no": null,
                        "free_form_answer": "", "evidence": [], "highlighted_evidence": []}, "worker_id": "w"},
                    {"answer": {"unanswerable": true, "extractive_spans": [], "yes_no": null, "free_form_answer": ""}}
                ]},
                {"question": "Is it so?", "question_id": "q2", "answers": [
                    {"answer": {"unanswerable": false, "extractive_spans": [], "yes_no": true,
                        "free_form_answer": ""}},
                    {"answer": {"unanswerable": false, "extractive_spans": [], "yes_no": false,
                        "free_form_answer": ""}},
                    {"answer": {"unanswerable": false, "extractive_spans": [], "yes_no": null,
                        "free_form_answer": "So."}}
                ]}
            ]
        },
        "1901.00001": {"title": "", "abstract": "", "full_text": [], "qas": [
            {"question": "Why?", "question_id": "q0", "answers": []}
        ]}
    }"#;

    #[test]
    fn a_question_is_an_item() {
        let items = read(PAPERS).unwrap();
        let ids: Vec<_> = items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["q0", "q1", "q2"]);
        assert_eq!(items[1].input, "What do they use?");
        assert_eq!(&*items[1].context, "Introduction\nMills mill.\nWind blows.\nThanks.");
        assert_eq!(items[1].answers, ["wind, water", "Unanswerable"]);
        assert_eq!(items[2].answers, ["Yes", "No", "So."]);
        assert!(items.iter().all(|item| item.task.name == "qasper"));
    }

    #[test]
    fn an_answer_that_says_nothing_is_an_error() {
        let error = read(&PAPERS.replace("So.", "")).unwrap_err().to_string();
        for part in ["qasper.json", "line `20`", "an answer says nothing", "QASPER"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn another_file_is_an_error() {
        let error = read("[]").unwrap_err().to_string();
        for part in ["qasper.json", "line `1`", "QASPER"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
