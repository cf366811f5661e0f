//! NarrativeQA's own files: questions about books and film scripts (arXiv:1712.07040).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::items::read_text;
use super::{LongBenchItem, LongBenchTask};
use crate::EvalError;

/// A row of `qaps.csv`.
#[derive(Deserialize)]
struct Row {
    document_id: String,
    set: String,
    question: String,
    answer1: String,
    answer2: String,
}

/// Reads a folder of NarrativeQA: all questions of a set (`train`, `valid` or `test`), in their order, with the prompt
/// of LongBench's `narrativeqa`.
///
/// The folder is a copy of google-deepmind/narrativeqa: `qaps.csv` has the questions, and `tmp/` the stories, once its
/// `download_stories.sh` has run. They are taken as they are: with whatever is before and behind a story, with the tags
/// of those in HTML, and without the letters beyond ASCII of those that are not in UTF-8. LongBench has chosen 200
/// questions, so its scores are not those of a whole set.
///
/// # Errors
/// [`EvalError`], if a file cannot be read or is none of NarrativeQA, a story is missing, or there is no such set.
pub fn read_narrativeqa(folder: &Path, set: &str) -> Result<Vec<LongBenchItem>, EvalError> {
    let path = folder.join("qaps.csv");
    if folder.is_dir() && !path.exists() {
        return Err(EvalError::NotNarrativeQa { path: folder.to_owned() });
    }
    let text = read_text(&path)?;
    let task = LongBenchTask::named("narrativeqa").expect("it is in the table");
    let mut stories: HashMap<String, (Arc<str>, usize)> = HashMap::new();
    let mut items = vec![];
    for row in csv::Reader::from_reader(text.as_bytes()).into_deserialize::<Row>() {
        let row = row.map_err(|error| not_a_row(&path, &error))?;
        if row.set != set {
            continue;
        }
        if Path::new(&row.document_id).file_name() != Some(OsStr::new(&row.document_id)) {
            return Err(EvalError::DatasetFile {
                path,
                source: io::Error::other(format!("document_id `{}` is no name", row.document_id)),
            });
        }
        let (context, asked) = match stories.entry(row.document_id.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert((story(folder, &row.document_id)?, 0)),
        };
        items.push(LongBenchItem {
            task,
            id: format!("{}/{asked}", row.document_id),
            input: row.question,
            context: context.clone(),
            answers: vec![row.answer1, row.answer2],
            all_classes: vec![],
            length: None,
        });
        *asked += 1;
    }
    match items.is_empty() {
        true => Err(EvalError::EmptySet { path, set: set.to_owned() }),
        false => Ok(items),
    }
}

/// An empty file is what is left of a download that failed.
fn story(folder: &Path, document: &str) -> Result<Arc<str>, EvalError> {
    let path = folder.join("tmp").join(format!("{document}.content"));
    match fs::read(&path) {
        Ok(bytes) if bytes.is_empty() => Err(EvalError::NoStory { path }),
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(EvalError::NoStory { path }),
        Err(source) => Err(EvalError::DatasetFile { path, source }),
    }
}

fn not_a_row(path: &Path, error: &csv::Error) -> EvalError {
    let line = error.position().map_or(1, csv::Position::line);
    EvalError::BadDataset {
        dataset: "NarrativeQA",
        path: path.to_owned(),
        line: usize::try_from(line).unwrap_or(usize::MAX),
        problem: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const ROWS: &str = "\
document_id,set,question,answer1,answer2,question_tokenized,answer1_tokenized,answer2_tokenized
d1,test,Who owns the mill?,\"Hans, the baker\",A baker,Who owns the mill ?,\"Hans , the baker\",A baker
d2,train,\"What does \"\"he\"\" do?\",He sells it.,Sells,What does he do ?,He sells it .,Sells
d1,test,Where is it?,By the river,At the river,Where is it ?,By the river,At the river
";

    fn folder(rows: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        fs::write(folder.path().join("qaps.csv"), rows).unwrap();
        fs::write(folder.path().join("tmp/d1.content"), b"<html>Hans had a caf\xe9.").unwrap();
        fs::write(folder.path().join("tmp/d2.content"), b"").unwrap();
        folder
    }

    #[track_caller]
    fn check_error(rows: &str, set: &str, parts: &[&str]) {
        let folder = folder(rows);
        let error = read_narrativeqa(folder.path(), set).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_question_is_an_item() {
        let folder = folder(ROWS);
        let items = read_narrativeqa(folder.path(), "test").unwrap();
        let expected = LongBenchItem {
            task: LongBenchTask::named("narrativeqa").unwrap(),
            id: "d1/0".to_owned(),
            input: "Who owns the mill?".to_owned(),
            context: "<html>Hans had a caf\u{fffd}.".into(),
            answers: vec!["Hans, the baker".to_owned(), "A baker".to_owned()],
            all_classes: vec![],
            length: None,
        };
        assert_eq!(items[0], expected);
        assert_eq!((items.len(), items[1].id.as_str()), (2, "d1/1"));
        assert!(Arc::ptr_eq(&items[0].context, &items[1].context));
    }

    #[test]
    fn a_story_that_is_not_there_is_an_error() {
        check_error(ROWS, "train", &["d2.content", "download_stories.sh"]);
        check_error(&ROWS.replace("d1", "d3"), "test", &["d3.content", "download_stories.sh"]);
    }

    #[test]
    fn a_folder_of_something_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_narrativeqa(folder.path(), "test").unwrap_err().to_string();
        let path = folder.path().display().to_string();
        for part in [path.as_str(), "`qaps.csv`", "NarrativeQA"] {
            assert!(error.contains(part), "{error}");
        }
        let absent = folder.path().join("absent");
        let error = read_narrativeqa(&absent, "test").unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }

    #[test]
    fn another_set_or_file_is_an_error() {
        check_error(ROWS, "dev", &["qaps.csv", "`dev`", "`valid`"]);
        check_error("a,b\n1,2\n", "test", &["qaps.csv", "line `2`", "NarrativeQA", "document_id"]);
        check_error(&ROWS.replace("d2,train,", "d2,"), "test", &["line `3`", "NarrativeQA"]);
    }
}
