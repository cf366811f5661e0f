//! Questions about documents, from a file.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Wording;
use crate::EvalError;

/// A question that documents answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QaItem {
    /// What is asked.
    pub question: String,
    /// What is right; one of them suffices.
    pub answers: Vec<String>,
    /// Documents that the question always comes with, the answer in one of them or in several.
    pub documents: Vec<Arc<str>>,
    /// Documents that come before those of other items where there is room for more: those of the same article.
    pub more_documents: Vec<Arc<str>>,
}

/// Reads the questions of a file, those without any answer left out. It is one of
///
/// - SQuAD's JSON, version 1.1 or 2.0: a paragraph is a document, the others of its article are more documents;
/// - HotpotQA's JSON: all ten paragraphs are the question's documents, each with its title;
/// - JSONL, with `question`, `answers` (a list) and `context` in each line: one document.
///
/// # Errors
/// [`EvalError`], if the file cannot be read, is none of these or has no question with an answer.
pub fn read_qa_items(path: &Path) -> Result<Vec<QaItem>, EvalError> {
    let text = fs::read_to_string(path)
        .map_err(|source| EvalError::QaFile { path: path.to_owned(), source })?;
    let parsed = match text.trim_start().starts_with('[') {
        true => hotpot(&text),
        false if is_squad(&text) => squad(&text),
        false => lines(&text),
    };
    let mut items = parsed.map_err(|Bad { line, source }| EvalError::BadQaFile {
        path: path.to_owned(),
        line,
        source,
    })?;
    items.retain(|item| !item.answers.is_empty());
    match items.is_empty() {
        true => Err(EvalError::EmptyQaFile { path: path.to_owned() }),
        false => Ok(items),
    }
}

/// Where a file is something else.
struct Bad {
    /// Counted from 1.
    line: usize,
    source: serde_json::Error,
}

impl From<serde_json::Error> for Bad {
    fn from(source: serde_json::Error) -> Self {
        Self { line: source.line(), source }
    }
}

fn is_squad(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Squad {
        #[serde(rename = "data")]
        _data: IgnoredAny,
    }
    serde_json::from_str::<Squad>(text).is_ok()
}

fn squad(text: &str) -> Result<Vec<QaItem>, Bad> {
    #[derive(Deserialize)]
    struct Squad {
        data: Vec<Article>,
    }
    #[derive(Deserialize)]
    struct Article {
        paragraphs: Vec<Paragraph>,
    }
    #[derive(Deserialize)]
    struct Paragraph {
        context: String,
        qas: Vec<Qa>,
    }
    #[derive(Deserialize)]
    struct Qa {
        question: String,
        #[serde(default)]
        answers: Vec<Text>,
        #[serde(default)]
        is_impossible: bool,
    }
    #[derive(Deserialize)]
    struct Text {
        text: String,
    }

    let mut items = vec![];
    for Article { paragraphs } in serde_json::from_str::<Squad>(text)?.data {
        let documents: Vec<Arc<str>> =
            paragraphs.iter().map(|paragraph| paragraph.context.as_str().into()).collect();
        for (document, Paragraph { qas, .. }) in documents.iter().zip(paragraphs) {
            let others = documents.iter().filter(|other| *other != document);
            let more_documents: Vec<_> = others.cloned().collect();
            for qa in qas.into_iter().filter(|qa| !qa.is_impossible) {
                items.push(QaItem {
                    question: qa.question,
                    answers: distinct(qa.answers.into_iter().map(|answer| answer.text)),
                    documents: vec![document.clone()],
                    more_documents: more_documents.clone(),
                });
            }
        }
    }
    Ok(items)
}

fn hotpot(text: &str) -> Result<Vec<QaItem>, Bad> {
    #[derive(Deserialize)]
    struct Hotpot {
        question: String,
        answer: String,
        /// Titles, each with the sentences below it.
        context: Vec<(String, Vec<String>)>,
    }
    let document = |(title, sentences): (String, Vec<String>)| -> Arc<str> {
        format!("{title}\n{}", sentences.concat()).into()
    };
    let items = serde_json::from_str::<Vec<Hotpot>>(text)?.into_iter().map(|item| QaItem {
        question: item.question,
        answers: distinct([item.answer].into_iter()),
        documents: item.context.into_iter().map(document).collect(),
        more_documents: vec![],
    });
    Ok(items.collect())
}

fn lines(text: &str) -> Result<Vec<QaItem>, Bad> {
    #[derive(Deserialize)]
    struct Line {
        question: String,
        answers: Vec<String>,
        context: String,
    }
    let numbered = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let items = numbered.map(|(line, number)| -> Result<QaItem, Bad> {
        let bad = |source| Bad { line: number, source };
        let Line { question, answers, context } = serde_json::from_str(line).map_err(bad)?;
        Ok(QaItem {
            question,
            answers: distinct(answers.into_iter()),
            documents: vec![context.into()],
            more_documents: vec![],
        })
    });
    items.collect()
}

/// Each once, in their order: SQuAD has what several people answered. Nothing is no answer: every output contains it.
fn distinct(answers: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = HashSet::new();
    answers.filter(|answer| !answer.trim().is_empty() && known.insert(answer.clone())).collect()
}

/// Items, and the documents of all of them.
pub(super) struct Library<'a> {
    items: &'a [QaItem],
    documents: Vec<&'a str>,
}

impl<'a> Library<'a> {
    /// `None`, if there is no item or no document.
    pub(super) fn new(items: &'a [QaItem]) -> Option<Self> {
        let all = items.iter().flat_map(|item| item.documents.iter().chain(&item.more_documents));
        // Most are shared, and an address is compared faster than a text.
        let (mut addresses, mut texts) = (HashSet::new(), HashSet::new());
        let new = |text: &&'a str| addresses.insert(text.as_ptr()) && texts.insert(*text);
        let documents: Vec<&str> = all.map(|document| &**document).filter(new).collect();
        (!documents.is_empty()).then_some(Self { items, documents })
    }

    /// The question of an item, with so many documents more than its own.
    pub(super) fn draw(&self, index: usize, mut random: ChaCha8Rng) -> impl Fn(usize) -> Wording {
        let item = &self.items[index];
        let own = item.documents.iter().map(|document| &**document);
        let mut more: Vec<&str> = item.more_documents.iter().map(|document| &**document).collect();
        let known: HashSet<&str> = own.clone().chain(more.iter().copied()).collect();
        let rest = self.documents.iter().copied().filter(|document| !known.contains(document));
        let mut rest: Vec<&str> = rest.collect();
        more.shuffle(&mut random);
        rest.shuffle(&mut random);
        let all: Vec<&str> = own.chain(more).chain(rest).collect();
        move |count| {
            let count = item.documents.len() + count;
            let mut documents: Vec<&str> = all.iter().copied().cycle().take(count).collect();
            documents.shuffle(&mut random.clone());
            ask(item, &documents)
        }
    }
}

fn ask(item: &QaItem, documents: &[&str]) -> Wording {
    let documents = documents.iter().zip(1..);
    let documents = documents.map(|(document, number)| format!("Document {number}:\n{document}"));
    let context = documents.collect::<Vec<_>>().join("\n\n");
    let query = &item.question;
    Wording {
        text: format!(
            "Answer the question based on the given documents. Only give me the answer and do not output any other \
             words.\n\nThe following are given documents.\n\n{context}\n\n\
             Answer the question based on the given documents. Only give me the answer and do not output any other \
             words.\n\nQuestion: {query}"
        ),
        opening: " Answer:".to_owned(),
        answers: item.answers.clone(),
        depth: None,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use rand::SeedableRng;

    use super::*;
    use crate::RulerTask;
    use crate::ruler::testing;

    fn read(contents: &str) -> Result<Vec<QaItem>, EvalError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("questions.json");
        fs::write(&path, contents).unwrap();
        read_qa_items(&path)
    }

    fn item(question: &str, answers: &[&str], documents: &[&str], more: &[&str]) -> QaItem {
        let shared = |texts: &[&str]| texts.iter().map(|text| Arc::from(*text)).collect();
        QaItem {
            question: question.to_owned(),
            answers: answers.iter().map(|answer| (*answer).to_owned()).collect(),
            documents: shared(documents),
            more_documents: shared(more),
        }
    }

    #[test]
    fn squad_has_paragraphs_of_articles() {
        let squad = r#"{"version": "v2.0", "data": [
            {"title": "t", "paragraphs": [
                {"context": "A is 1.", "qas": [
                    {"id": "0", "question": "A?", "answers": [{"text": "1", "answer_start": 5}, {"text": "1", "answer_start": 5}]},
                    {"id": "1", "question": "B?", "answers": [], "plausible_answers": [], "is_impossible": true}
                ]},
                {"context": "C is 3.", "qas": [
                    {"id": "2", "question": "C?", "answers": [{"text": "3", "answer_start": 5}], "is_impossible": false}
                ]}
            ]},
            {"title": "u", "paragraphs": [{"context": "D is 4.", "qas": [{"question": "D?", "answers": [{"text": "4"}]}]}]}
        ]}"#;
        let expected = [
            item("A?", &["1"], &["A is 1."], &["C is 3."]),
            item("C?", &["3"], &["C is 3."], &["A is 1."]),
            item("D?", &["4"], &["D is 4."], &[]),
        ];
        assert_eq!(read(squad).unwrap(), expected);
    }

    #[test]
    fn hotpot_has_ten_paragraphs_for_a_question() {
        let hotpot = r#"[{"_id": "0", "question": "Both?", "answer": "yes", "supporting_facts": [["T", 0]],
            "context": [["T", ["One. ", "Two."]], ["U", ["Three."]]]}]"#;
        let expected = [item("Both?", &["yes"], &["T\nOne. Two.", "U\nThree."], &[])];
        assert_eq!(read(hotpot).unwrap(), expected);
    }

    #[test]
    fn a_line_has_a_question() {
        let lines = "{\"question\": \"A?\", \"answers\": [\"1\", \"one\"], \"context\": \"A is 1.\", \"more\": 1}\n\n\
                     {\"question\": \"B?\", \"answers\": [], \"context\": \"A is 1.\"}\n";
        assert_eq!(read(lines).unwrap(), [item("A?", &["1", "one"], &["A is 1."], &[])]);
    }

    #[test]
    fn another_file_is_an_error_that_says_what_to_do() {
        let check = |contents: &str, parts: &[&str]| {
            let error = read(contents).unwrap_err();
            let cause = error.source().map(ToString::to_string);
            let error = format!("{error}: {}", cause.unwrap_or_default());
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check("Dear Sir,", &["questions.json", "line `1`", "SQuAD"]);
        check("[{\"question\": \"A?\"}]", &["line `1`", "answer", "HotpotQA"]);
        check("{\"data\": [\n{\"title\": \"t\"}]}", &["line `2`", "paragraphs"]);
        let good = "{\"question\": \"A?\", \"answers\": [\"1\"], \"context\": \"A is 1.\"}\n";
        check(&format!("{good}{{\"question\": \"B?\"}}\n"), &["line `2`", "answers"]);
        check("", &["questions.json", "answer"]);
        let missing = read_qa_items(Path::new("nowhere/questions.json")).unwrap_err().to_string();
        assert!(missing.contains("nowhere") && missing.contains("name another file"), "{missing}");
    }

    #[test]
    fn documents_of_the_item_come_first_and_then_those_of_its_article() {
        let items = [
            item("A?", &["1"], &["A is 1."], &["B is 2.", "C is 3."]),
            item("D?", &["4"], &["D is 4."], &["B is 2."]),
        ];
        let library = Library::new(&items).unwrap();
        assert_eq!(library.documents, ["A is 1.", "B is 2.", "C is 3.", "D is 4."]);
        let wording = library.draw(0, ChaCha8Rng::seed_from_u64(1));
        let has = |count: usize, document: &str| wording(count).text.matches(document).count();
        for count in 0..9 {
            let documents = wording(count).text.matches("Document ").count();
            assert_eq!(documents, 1 + count);
            assert_eq!(has(count, "A is 1."), 1 + count / 4);
        }
        assert_eq!(has(1, "B is 2.") + has(1, "C is 3."), 1);
        assert_eq!((has(2, "B is 2."), has(2, "C is 3."), has(2, "D is 4.")), (1, 1, 0));
        assert_eq!(has(3, "D is 4."), 1);
        assert!(Library::new(&[]).is_none());
    }

    #[test]
    fn templates_are_rulers() {
        let question = &testing::ask(RulerTask::Qa1, 2048, 1)[0];
        let begin = "Answer the question based on the given documents. Only give me the answer and do not output any \
                     other words.\n\n";
        assert!(
            question.text.starts_with(&format!(
                "{begin}The following are given documents.\n\nDocument 1:\n"
            ))
        );
        assert!(question.text.contains("\n\nDocument 2:\n"));
        let end = format!("\n\n{begin}Question: {}", testing::items()[0].question);
        assert!(question.text.ends_with(&end));
        assert_eq!(question.opening, " Answer:");
    }
}
