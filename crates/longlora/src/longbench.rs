//! `longlora eval qa` and `longlora eval summarize`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;
use longlora_eval::{
    Answer, Grid, Interval, LengthClass, LongBenchItem, LongBenchKind, bootstrap,
    longbench_questions, read_longbench, read_narrativeqa, read_qasper,
};
use serde_json::json;

use crate::count::{at_least_one, tokens};
use crate::exam::{ExamArgs, ask};
use crate::print;

/// Questions about long texts: LongBench's tasks that are no summaries, QASPER and NarrativeQA.
///
/// With LongBench's prompts, a cut in the middle where a text is too long, and its metrics: F1 of words, ROUGE-L, accuracy,
/// edit similarity of code.
#[derive(Args)]
pub(crate) struct Qa {
    #[command(flatten)]
    data: LongBenchArgs,
}

/// Summaries of long texts: LongBench's gov_report, qmsum, multi_news and vcsum, by ROUGE-L.
#[derive(Args)]
pub(crate) struct Summarize {
    #[command(flatten)]
    data: LongBenchArgs,
}

#[derive(Args)]
struct LongBenchArgs {
    #[command(flatten)]
    exam: ExamArgs,
    /// LongBench's .jsonl, QASPER's .json, or the folder of NarrativeQA with its qaps.csv
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Which set of NarrativeQA: train, valid or test [default: test]
    #[arg(long, value_name = "SET")]
    set: Option<String>,
    /// Tokens of prompt and answer; what is longer loses its middle
    #[arg(long, value_name = "TOKENS", visible_alias = "context-size", value_parser = tokens())]
    context_length: usize,
    /// The first so many items of each task alone
    #[arg(long, value_name = "COUNT", value_parser = at_least_one())]
    limit: Option<usize>,
}

impl Qa {
    pub(crate) fn run(self) -> Result<()> {
        self.data.run("qa", |kind| kind != LongBenchKind::Summary)
    }
}

impl Summarize {
    pub(crate) fn run(self) -> Result<()> {
        self.data.run("summarize", |kind| kind == LongBenchKind::Summary)
    }
}

impl LongBenchArgs {
    fn run(&self, command: &str, wanted: impl Fn(LongBenchKind) -> bool) -> Result<()> {
        let mut items = self.read()?;
        ensure!(
            !items.is_empty(),
            "`{}` has no items; give LongBench's .jsonl, QASPER's .json, or the folder of NarrativeQA",
            self.data.display()
        );
        items.retain(|item| wanted(item.task.kind));
        ensure!(
            !items.is_empty(),
            "`{}` has nothing for `eval {command}`; the other one of `qa` and `summarize` takes it",
            self.data.display()
        );
        self.keep_first(&mut items);
        let text = self.exam.prompter()?;
        let mut questions = vec![];
        let mut documents = vec![];
        // Some tasks go on with a text even where the model is asked in a chat: their prompters differ.
        let (chats, texts): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| self.exam.is_chat() && item.task.wants_chat());
        for (items, prompter) in [(chats, &text), (texts, &self.exam.text_prompter()?)] {
            documents.extend(items.iter().map(|item| (item.context.clone(), item.length)));
            let asked = longbench_questions(&items, prompter, self.context_length)?;
            questions.push((asked, prompter.clone()));
        }
        let examinee = self.exam.load(self.context_length)?;
        let mut results = self.exam.results(command)?;
        let mut answers = vec![];
        for (questions, prompter) in &questions {
            if !questions.is_empty() {
                answers.extend(ask(&examinee, command, prompter, questions, &mut results)?);
            }
        }
        self.show(&answers, &documents)
    }

    fn read(&self) -> Result<Vec<LongBenchItem>> {
        let path: &Path = &self.data;
        ensure!(
            self.set.is_none() || path.is_dir() || !path.exists(),
            "--set is of NarrativeQA's folder, and `{}` is none; leave it out",
            path.display()
        );
        let extension = path.extension().and_then(|extension| extension.to_str());
        Ok(match extension.map(str::to_lowercase).as_deref() {
            _ if path.is_dir() => read_narrativeqa(path, self.set.as_deref().unwrap_or("test"))?,
            Some("json") => read_qasper(path)?,
            _ => read_longbench(path)?,
        })
    }

    fn keep_first(&self, items: &mut Vec<LongBenchItem>) {
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        let limit = self.limit.unwrap_or(usize::MAX);
        items.retain(|item| {
            let count = kept.entry(item.task.name).or_default();
            *count += 1;
            *count <= limit
        });
    }

    /// `documents` are what the answers are about, one for each. Items of LongBench-E count for their task and once more for
    /// their length.
    fn show(
        &self,
        answers: &[Answer],
        documents: &[(Arc<str>, Option<LengthClass>)],
    ) -> Result<()> {
        let mut tasks: BTreeMap<Row<'_>, Documents<'_>> = BTreeMap::new();
        for (answer, (document, length)) in answers.iter().zip(documents) {
            for length in std::iter::once(None).chain(length.map(Some)) {
                let rows = tasks.entry((&answer.task, length)).or_default();
                let (items, sum) = rows.entry(document.as_ref()).or_default();
                *items += 1.0;
                *sum += 100.0 * answer.score;
            }
        }
        let scores: Vec<Score> = tasks
            .iter()
            .map(|(row, documents)| Score::of(*row, documents, self.exam.seed))
            .collect();
        if self.exam.json {
            print(&serde_json::to_string_pretty(&json!({ "scores": scores, "answers": answers }))?);
        } else {
            print(&to_text(&scores));
        }
        Ok(())
    }
}

/// A task, or its items of one length.
type Row<'a> = (&'a str, Option<LengthClass>);

/// How many items are about each document, and the sum of their scores.
type Documents<'a> = BTreeMap<&'a str, (f64, f64)>;

/// What a task came to, in percent.
#[derive(serde::Serialize)]
struct Score {
    task: String,
    items: usize,
    /// That the items are about.
    documents: usize,
    mean: f64,
    /// 95 %, by the bootstrap over documents.
    interval: Option<Interval>,
}

impl Score {
    fn of((task, length): Row<'_>, documents: &Documents<'_>, seed: u64) -> Self {
        let pieces: Vec<(f64, f64)> = documents.values().copied().collect();
        let items: f64 = pieces.iter().map(|(items, _)| items).sum();
        Self {
            task: length.map_or(task.to_owned(), |length| format!("{task} {}", length.name())),
            items: items as usize,
            documents: pieces.len(),
            mean: pieces.iter().map(|(_, sum)| sum).sum::<f64>() / items,
            interval: bootstrap(&pieces, seed).and_then(within_percent),
        }
    }
}

/// Student's t knows of no 0 and no 100 percent; and from scores that are all the same, nothing is known of how far apart others
/// would be.
fn within_percent(Interval { mean, low, high }: Interval) -> Option<Interval> {
    (low < high).then(|| Interval { mean, low: low.max(0.0), high: high.min(100.0) })
}

fn to_text(scores: &[Score]) -> String {
    let row = |Score { task, items, documents, mean, interval }: &Score| {
        let interval = interval
            .map_or("-".to_owned(), |Interval { low, high, .. }| format!("{low:.2} to {high:.2}"));
        let [items, documents] = [items, documents].map(ToString::to_string);
        vec![task.clone(), items, documents, format!("{mean:.2}"), interval]
    };
    let head = ["task", "items", "documents", "score", "95 % interval"].map(str::to_owned).to_vec();
    Grid { head, rows: scores.iter().map(row).collect() }.to_text()
}
