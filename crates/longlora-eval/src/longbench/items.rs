//! LongBench's own files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use super::{LengthClass, LongBenchItem, LongBenchTask};
use crate::EvalError;

/// A line of a file.
#[derive(Deserialize)]
struct Line {
    input: String,
    context: String,
    answers: Vec<String>,
    dataset: String,
    all_classes: Option<Vec<String>>,
    length: Option<usize>,
    #[serde(rename = "_id")]
    id: String,
}

/// Reads a file of LongBench or LongBench-E: a JSON object in each line, of whatever tasks.
///
/// # Errors
/// [`EvalError`], if the file cannot be read, or a line is none of LongBench.
pub fn read_longbench(path: &Path) -> Result<Vec<LongBenchItem>, EvalError> {
    let text = read_text(path)?;
    let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| item(path, index + 1, line)).collect()
}

/// The text of a dataset's file.
pub(super) fn read_text(path: &Path) -> Result<String, EvalError> {
    fs::read_to_string(path).map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::NotFound => EvalError::NoDataset { path },
            _ => EvalError::DatasetFile { path, source },
        }
    })
}

fn item(path: &Path, number: usize, line: &str) -> Result<LongBenchItem, EvalError> {
    let bad = |problem: String| EvalError::BadDataset {
        dataset: "LongBench",
        path: path.to_owned(),
        line: number,
        problem,
    };
    let line: Line = serde_json::from_str(line).map_err(|error| bad(error.to_string()))?;
    let Some(task) = LongBenchTask::named(&line.dataset) else {
        let (path, task) = (path.to_owned(), line.dataset);
        return Err(EvalError::UnknownLongBenchTask { path, line: number, task });
    };
    if line.answers.is_empty() {
        return Err(bad("`answers` is empty, so no answer could be right".to_owned()));
    }
    let all_classes = line.all_classes.unwrap_or_default();
    if task.has_classes() && all_classes.is_empty() {
        return Err(bad(format!("`all_classes` is empty, and `{}` is to choose", task.name)));
    }
    // `pred.py --e` reads `qasper_e.jsonl` and the like.
    let of_file = path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_e"));
    let is_e = of_file || line.dataset.ends_with("_e");
    Ok(LongBenchItem {
        length: line.length.filter(|_| is_e).map(LengthClass::of),
        task,
        id: line.id,
        input: line.input,
        context: line.context.into(),
        answers: line.answers,
        all_classes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QMSUM: &str = r#"{"input": "What of the mill?", "context": "A: Sell it.", "answers": ["Sell"], "length": 8,
        "dataset": "qmsum", "language": "en", "all_classes": null, "_id": "a1"}"#;
    const TREC: &str = r#"{"input": "Where?", "context": "When?\nDate", "answers": ["City"], "length": 4,
        "dataset": "trec_e", "language": "en", "all_classes": ["City", "Date"], "_id": "b2"}"#;

    const VCSUM: &str = r#"{"input": "", "context": "甲：卖掉磨坊。", "answers": ["卖掉"], "length": 7,
        "dataset": "vcsum", "language": "zh", "all_classes": null, "_id": "c3"}"#;

    fn read(lines: &[&str]) -> Result<Vec<LongBenchItem>, EvalError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.jsonl");
        let lines: Vec<_> = lines.iter().map(|line| line.replace('\n', "")).collect();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        read_longbench(&path)
    }

    #[track_caller]
    fn check_error(line: &str, parts: &[&str]) {
        let error = read(&[QMSUM, line]).unwrap_err().to_string();
        for part in ["test.jsonl", "line `2`"].iter().chain(parts) {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_line_is_an_item() {
        let items = read(&[QMSUM, "", TREC]).unwrap();
        let expected = LongBenchItem {
            task: LongBenchTask::named("qmsum").unwrap(),
            id: "a1".to_owned(),
            input: "What of the mill?".to_owned(),
            context: "A: Sell it.".into(),
            answers: vec!["Sell".to_owned()],
            all_classes: vec![],
            length: None,
        };
        assert_eq!(items[0], expected);
        assert_eq!((items[1].task.name, &*items[1].context), ("trec", "When?\nDate"));
        assert_eq!(items[1].all_classes, ["City", "Date"]);
    }

    #[test]
    fn lengths_are_told_apart_in_longbench_e() {
        let of = |words: &str| {
            let line = TREC.replace("\"length\": 4", &format!("\"length\": {words}"));
            read(&[&line]).unwrap()[0].length.map(LengthClass::name)
        };
        let names = ["3999", "4000", "7999", "8000", "null"].map(of);
        assert_eq!(names, [Some("0-4k"), Some("4-8k"), Some("4-8k"), Some("8k+"), None]);
    }

    #[test]
    fn a_line_may_be_in_chinese() {
        let line = VCSUM.replace("vcsum", "passage_retrieval_zh");
        let items = read(&[VCSUM, &line]).unwrap();
        assert_eq!((items[0].task.name, &*items[0].context), ("vcsum", "甲：卖掉磨坊。"));
        assert_eq!(items[0].answers, ["卖掉"]);
        assert_eq!(items[1].task.name, "passage_retrieval_zh");
    }

    #[test]
    fn what_is_no_item_is_an_error() {
        check_error(&QMSUM.replace("qmsum", "quality"), &["`quality`"]);
        check_error(&QMSUM.replace("\"_id\"", "\"id\""), &["_id", "LongBench"]);
        check_error("{", &["LongBench"]);
        check_error(&TREC.replace(r#"["City", "Date"]"#, "null"), &["`all_classes`", "`trec`"]);
        check_error(&VCSUM.replace("vcsum", "lsht"), &["`all_classes`", "`lsht`"]);
        let error = read_longbench(Path::new("nowhere/lcc.jsonl")).unwrap_err().to_string();
        assert!(error.contains("`nowhere/lcc.jsonl` does not exist"), "{error}");
    }
}
