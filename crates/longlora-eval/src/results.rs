//! Answers on the disk.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{Answer, EvalError};

/// Answers of an exam, one JSON object per line, in a file that only grows.
///
/// An exam that was interrupted goes on where it was: what stands in the file is not asked again. One file may hold
/// answers of several models and tasks.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
    answers: BTreeMap<String, Answer>,
}

impl Results {
    /// Opens a file of answers, and creates it and its folder where there is none. A last line that was not written to
    /// its end is cut off: its question is asked again.
    ///
    /// # Errors
    /// [`EvalError`], if the file cannot be read or written, or another line than the last is none of an answer.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let failed = |source| EvalError::ResultsFile { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let opened = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = opened.map_err(failed)?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let (lines, torn) = bytes.split_at(whole);
        let answers = read(path, lines)?;
        if !torn.is_empty() {
            let line = answers.len() + 1;
            if !(torn.starts_with(BEGINNING) || BEGINNING.starts_with(torn)) {
                let problem = "it is no answer that was broken off".to_owned();
                return Err(EvalError::BadResults { path: path.to_owned(), line, problem });
            }
            file.set_len(whole as u64).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file, answers })
    }

    /// The answer of this key.
    pub fn get(&self, key: &str) -> Option<&Answer> {
        self.answers.get(key)
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes an answer, and waits until the disk has it.
    ///
    /// # Errors
    /// [`EvalError::ResultsFile`]
    pub fn append(&mut self, answer: &Answer) -> Result<(), EvalError> {
        let line = serde_json::to_string(answer).expect("an answer is plain data") + "\n";
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| EvalError::ResultsFile { path: self.path.clone(), source })?;
        self.answers.insert(answer.key.clone(), answer.clone());
        Ok(())
    }
}

/// How every answer begins on the disk.
const BEGINNING: &[u8] = b"{\"key\":";

fn read(path: &Path, lines: &[u8]) -> Result<BTreeMap<String, Answer>, EvalError> {
    let mut answers = BTreeMap::new();
    let lines = lines.strip_suffix(b"\n").map(|lines| lines.split(|&byte| byte == b'\n'));
    for (index, line) in lines.into_iter().flatten().enumerate() {
        let answer: Answer =
            serde_json::from_slice(line).map_err(|error| EvalError::BadResults {
                path: path.to_owned(),
                line: index + 1,
                problem: error.to_string(),
            })?;
        answers.insert(answer.key.clone(), answer);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn answer(key: &str) -> Answer {
        Answer {
            key: key.to_owned(),
            model: "models/tiny".to_owned(),
            weights: None,
            adapter: None,
            task: "passkey".to_owned(),
            id: "0".to_owned(),
            length: 64,
            depth: Some(0.5),
            prompt_tokens: 60,
            output: " 1\n2".to_owned(),
            answers: vec!["1".to_owned()],
            score: 1.0,
        }
    }

    #[test]
    fn what_was_written_is_there_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/passkey.jsonl");
        let mut results = Results::open(&path).unwrap();
        for key in ["a", "b"] {
            results.append(&answer(key)).unwrap();
        }
        drop(results);

        let results = Results::open(&path).unwrap();
        assert_eq!(results.get("b"), Some(&answer("b")));
        assert_eq!(results.get("c"), None);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    /// As lines were before they told how weights were kept, and of which adapter an answer is.
    #[test]
    fn lines_of_before_are_read_and_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passkey.jsonl");
        let before = r#"{"key":"a","model":"models/tiny","task":"passkey","id":"0","length":64,"depth":0.5,"prompt_tokens":60,"output":" 1\n2","answers":["1"],"score":1.0}"#;
        fs::write(&path, format!("{before}\n")).unwrap();
        let mut results = Results::open(&path).unwrap();
        assert_eq!(results.get("a"), Some(&answer("a")));
        let (weights, adapter) = (Some("bf16".to_owned()), Some("0123456789ab".to_owned()));
        let told = Answer { weights, adapter, ..answer("b") };
        results.append(&told).unwrap();
        assert_eq!(Results::open(&path).unwrap().get("b"), Some(&told));
        assert!(fs::read_to_string(&path).unwrap().starts_with(before));
    }

    #[test]
    fn a_torn_last_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passkey.jsonl");
        Results::open(&path).unwrap().append(&answer("a")).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        // Half of a letter of two bytes, and less than any answer begins with.
        for torn in [&whole.as_bytes()[..whole.len() / 2], b"{\"key\":\"\xc3", b"{\"k"] {
            fs::write(&path, [whole.as_bytes(), torn].concat()).unwrap();
            let mut results = Results::open(&path).unwrap();
            results.append(&answer("b")).unwrap();
            let results = Results::open(&path).unwrap();
            assert!(results.get("a").is_some() && results.get("b").is_some());
        }
    }

    #[test]
    fn another_file_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letter.txt");
        for contents in [&b"Dear Sir,\nyours\n"[..], b"\xff\xfe\n", b"{\"scores\": []}"] {
            fs::write(&path, contents).unwrap();
            let error = Results::open(&path).unwrap_err().to_string();
            for part in ["letter.txt", "line `1`", "name another file"] {
                assert!(error.contains(part), "{error}");
            }
            assert_eq!(fs::read(&path).unwrap(), contents);
        }
    }
}
