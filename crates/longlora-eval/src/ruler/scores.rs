//! Scores by task and length, and how far the context reaches.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::RulerTask;
use crate::{Answer, Grid};

const TITLE: &str = "RULER, %";
const MEAN: &str = "mean";
const EMPTY: &str = "-";
/// Of scores that are equal but for their rounding, in percent.
const ROUNDING: f64 = 1e-9;

/// Mean scores in percent: a row per task, a column per length, and the mean over the tasks below.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RulerScores {
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    task: String,
    /// Keys are lengths in tokens.
    cells: BTreeMap<usize, Cell>,
}

/// The answers of one task at one length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Cell {
    answers: usize,
    /// Each from 0 to 1.
    score_sum: f64,
}

impl RulerScores {
    /// The scores of all answers to RULER's tasks; those to others are left out.
    pub fn new(answers: &[Answer]) -> Self {
        let mut tasks: BTreeMap<RulerTask, BTreeMap<usize, Cell>> = BTreeMap::new();
        for answer in answers {
            let Some(task) = RulerTask::named(&answer.task) else { continue };
            let cell = tasks.entry(task).or_default().entry(answer.length).or_default();
            cell.answers += 1;
            cell.score_sum += answer.score;
        }
        let rows =
            tasks.into_iter().map(|(task, cells)| Row { task: task.name().to_owned(), cells });
        Self { rows: rows.collect() }
    }

    /// The tasks, from top to bottom.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.task.as_str())
    }

    /// The lengths, in tokens, from left to right.
    pub fn lengths(&self) -> Vec<usize> {
        let lengths: BTreeSet<usize> =
            self.rows.iter().flat_map(|row| row.cells.keys().copied()).collect();
        lengths.into_iter().collect()
    }

    /// Mean score of a task at a length, in percent.
    pub fn get(&self, task: &str, length: usize) -> Option<f64> {
        self.rows.iter().find(|row| row.task == task)?.percent(length)
    }

    /// Mean over the tasks at a length, in percent. `None`, if one of them has no answers at this length: the mean of
    /// other tasks cannot be compared.
    pub fn mean(&self, length: usize) -> Option<f64> {
        let scores: Option<Vec<f64>> = self.rows.iter().map(|row| row.percent(length)).collect();
        let scores = scores.filter(|scores| !scores.is_empty())?;
        Some(scores.iter().sum::<f64>() / scores.len() as f64)
    }

    /// The longest length whose [mean](Self::mean) reaches a share, such as 0.85, of the mean at the shortest length, and
    /// so do all between. `None`, if nothing was right at the shortest. Lengths that have no mean are left out.
    pub fn effective_context(&self, share: f64) -> Option<usize> {
        let shortest = self.lengths().into_iter().find_map(|length| self.mean(length))?;
        self.longest_until(|mean| mean > 0.0 && mean + ROUNDING >= share * shortest)
    }

    /// Whether all of RULER's thirteen tasks were asked: the mean of others cannot be compared with its table.
    pub fn is_complete(&self) -> bool {
        self.rows.len() == RulerTask::all().len()
    }

    /// The longest length whose [mean](Self::mean) is above a threshold in percent, and so are all shorter ones: RULER's
    /// own rule, with 85.6, what Llama-2-7B-chat has at 4,096 tokens. `None`, if the shortest is not.
    pub fn effective_context_above(&self, percent: f64) -> Option<usize> {
        self.longest_until(|mean| mean > percent)
    }

    /// The last length before the first whose mean does not suffice.
    fn longest_until(&self, suffices: impl Fn(f64) -> bool) -> Option<usize> {
        let lengths = self.lengths().into_iter();
        let means = lengths.filter_map(|length| Some((length, self.mean(length)?)));
        let enough = means.take_while(|(_, mean)| suffices(*mean));
        enough.last().map(|(length, _)| length)
    }

    /// A Markdown table.
    pub fn to_markdown(&self) -> String {
        self.grid().to_markdown()
    }

    /// A table for a terminal.
    pub fn to_text(&self) -> String {
        self.grid().to_text()
    }

    fn grid(&self) -> Grid {
        let lengths = self.lengths();
        let head = lengths.iter().map(|length| length.to_string());
        let line = |name: &str, score: &dyn Fn(usize) -> Option<f64>| -> Vec<String> {
            let cell =
                |&length| score(length).map_or(EMPTY.to_owned(), |score| format!("{score:.1}"));
            std::iter::once(name.to_owned()).chain(lengths.iter().map(cell)).collect()
        };
        let tasks = self.rows.iter().map(|row| line(&row.task, &|length| row.percent(length)));
        Grid {
            head: std::iter::once(TITLE.to_owned()).chain(head).collect(),
            rows: tasks.chain([line(MEAN, &|length| self.mean(length))]).collect(),
        }
    }
}

impl Row {
    fn percent(&self, length: usize) -> Option<f64> {
        let cell = self.cells.get(&length)?;
        Some(100.0 * cell.score_sum / cell.answers as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(task: &str, length: usize, scores: &[f64]) -> Vec<Answer> {
        let answer = |&score: &f64| Answer {
            key: String::new(),
            task: task.to_owned(),
            id: String::new(),
            length,
            depth: None,
            prompt_tokens: length,
            output: String::new(),
            answers: vec![],
            score,
        };
        scores.iter().map(answer).collect()
    }

    /// Means 95, 85, 80 and 90 %.
    fn scores() -> RulerScores {
        let all = [
            answers("vt", 4096, &[1.0, 0.8]),
            answers("niah_single_1", 4096, &[1.0]),
            answers("vt", 8192, &[0.7]),
            answers("niah_single_1", 8192, &[1.0, 1.0]),
            answers("vt", 16384, &[0.6, 0.6, 0.6]),
            answers("niah_single_1", 16384, &[1.0]),
            answers("vt", 32768, &[0.8]),
            answers("niah_single_1", 32768, &[1.0]),
            answers("passkey", 32768, &[0.0]),
        ];
        RulerScores::new(&all.concat())
    }

    #[test]
    fn a_table_for_a_report() {
        let expected = "\
| RULER, % | 4096 | 8192 | 16384 | 32768 |
| --- | ---: | ---: | ---: | ---: |
| niah_single_1 | 100.0 | 100.0 | 100.0 | 100.0 |
| vt | 90.0 | 70.0 | 60.0 | 80.0 |
| mean | 95.0 | 85.0 | 80.0 | 90.0 |
";
        assert_eq!(scores().to_markdown(), expected);
    }

    #[test]
    fn a_table_for_a_terminal() {
        let all = [answers("vt", 4096, &[0.4, 0.7]), answers("cwe", 8192, &[0.5])].concat();
        let expected = "\
┌──────────┬──────┬──────┐
│ RULER, % ┆ 4096 ┆ 8192 │
╞══════════╪══════╪══════╡
│ vt       ┆ 55.0 ┆    - │
│ cwe      ┆    - ┆ 50.0 │
│ mean     ┆    - ┆    - │
└──────────┴──────┴──────┘";
        assert_eq!(RulerScores::new(&all).to_text(), expected);
    }

    #[test]
    fn a_context_is_effective_as_far_as_no_shorter_one_fails() {
        let scores = scores();
        let check =
            |share, expected| assert_eq!(scores.effective_context(share), expected, "{share}");
        check(1.0, Some(4096));
        // 85 of 95 is 89.5 %, 80 of 95 is 84.2 %.
        check(0.9, Some(4096));
        check(0.89, Some(8192));
        check(0.85, Some(8192));
        check(0.84, Some(32768));
        check(1.01, None);
    }

    #[test]
    fn rulers_rule_has_a_threshold() {
        let scores = scores();
        let check = |percent, expected| {
            assert_eq!(scores.effective_context_above(percent), expected, "{percent}");
        };
        check(95.5, None);
        check(85.6, Some(4096));
        check(84.9, Some(8192));
        check(79.9, Some(32768));
    }

    #[test]
    fn a_mean_is_of_all_tasks_or_none() {
        let all = [
            answers("cwe", 512, &[1.0]),
            answers("cwe", 1024, &[0.5]),
            answers("vt", 1024, &[0.9]),
            answers("cwe", 2048, &[0.4]),
            answers("vt", 2048, &[0.9]),
        ];
        let scores = RulerScores::new(&all.concat());
        assert_eq!(scores.tasks().collect::<Vec<_>>(), ["vt", "cwe"]);
        assert_eq!(scores.lengths(), [512, 1024, 2048]);
        assert_eq!((scores.get("cwe", 512), scores.get("vt", 512)), (Some(100.0), None));
        assert_eq!(scores.mean(512), None);
        assert!((scores.mean(1024).unwrap() - 70.0).abs() < 1e-9);
        // 65 of 70, for 512 tokens have no mean.
        assert_eq!(scores.effective_context(0.9), Some(2048));
        assert_eq!(scores.effective_context(0.95), Some(1024));
    }

    #[test]
    fn nothing_right_is_no_context() {
        let scores = RulerScores::new(&answers("vt", 1024, &[0.0]));
        assert_eq!(scores.effective_context(0.85), None);
        assert_eq!(RulerScores::new(&[]).effective_context(0.85), None);
        assert_eq!(RulerScores::new(&[]).effective_context_above(0.0), None);
    }

    #[test]
    fn scores_survive_json() {
        let json = serde_json::to_string(&scores()).unwrap();
        assert_eq!(serde_json::from_str::<RulerScores>(&json).unwrap(), scores());
    }
}
