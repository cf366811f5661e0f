//! Scores what another program's model answered to LongBench, as LongBench's `eval.py` does.
//! `cargo run --release -p longlora-examples --example score_predictions -- pred/llama2-7b-chat-4k`
//!
//! The folder is one that LongBench's `pred.py` writes: a file for each task, in each line an answer with what it is to
//! be compared with. Without a folder it scores three answers of its own.
//!
//! ```text
//! passage_count              1 answer     100.00
//! qasper                     2 answers    75.00
//! ```

#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::fs::{self, read_to_string};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use longlora_eval::LongBenchTask;
use serde::Deserialize;

/// A line that `pred.py` writes.
#[derive(Deserialize)]
struct Prediction {
    pred: String,
    answers: Vec<String>,
    all_classes: Option<Vec<String>>,
}

fn main() -> Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        show("passage_count", &[prediction("There are 4 of them", &["4"])])?;
        let answers = [
            prediction("a word list", &["a list of words", "the word list"]),
            prediction("SQuAD and TriviaQA", &["SQuAD"]),
        ];
        return show("qasper", &answers);
    };
    let files = fs::read_dir(&folder).with_context(|| format!("no folder {}", folder.display()))?;
    let paths: Result<Vec<PathBuf>, _> = files.map(|file| file.map(|file| file.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    ensure!(!paths.is_empty(), "{} has no .jsonl files", folder.display());
    for path in &paths {
        let task = path.file_stem().unwrap_or_default().to_string_lossy();
        show(&task, &read(path)?)?;
    }
    Ok(())
}

fn prediction(pred: &str, answers: &[&str]) -> Prediction {
    let answers = answers.iter().map(ToString::to_string).collect();
    Prediction { pred: pred.to_owned(), answers, all_classes: None }
}

fn read(path: &Path) -> Result<Vec<Prediction>> {
    let text = read_to_string(path)?;
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("{}, line {}, is no answer", path.display(), index + 1))
        })
        .collect()
}

/// The mean over the answers, in percent.
fn show(name: &str, predictions: &[Prediction]) -> Result<()> {
    let task =
        LongBenchTask::named(name).with_context(|| format!("{name} is none of LongBench"))?;
    let scores = predictions.iter().map(|prediction| {
        let classes = prediction.all_classes.as_deref().unwrap_or_default();
        task.scoring(classes).score(&prediction.pred, &prediction.answers)
    });
    let count = predictions.len();
    ensure!(count > 0, "there is no answer to {name}");
    let mean = 100.0 * scores.sum::<f64>() / count as f64;
    let noun = if count == 1 { "answer " } else { "answers" };
    println!("{name:<22} {count:>5} {noun} {mean:>9.2}");
    Ok(())
}
