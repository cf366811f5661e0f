//! Scores by task and length, and how far the context reaches.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::RulerTask;
use crate::{Answer, Grid, Interval};

const TITLE: &str = "RULER, %";
const MEAN: &str = "mean";
const INTERVAL: &str = "95 % interval";
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

    /// The 95 % interval of the [mean](Self::mean), in percent: Wilson's, as if every answer were all right or all wrong and all
    /// tasks as hard as each other, which makes it rather too wide than too narrow where each task has as many answers. Where
    /// all are right, it still tells few of them from many: ten of ten are at least 72.2 %.
    pub fn interval(&self, length: usize) -> Option<Interval> {
        let mean = self.mean(length)?;
        let tasks = self.rows.len() as f64;
        let counts = self.rows.iter().filter_map(|row| row.cells.get(&length));
        // As many as would give a mean over all of them the same variance.
        let answers = tasks.powi(2) / counts.map(|cell| 1.0 / cell.answers as f64).sum::<f64>();
        let [low, high] = wilson(mean / 100.0, answers).map(|share| 100.0 * share);
        Some(Interval { mean, low, high })
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
        let line = |name: &str, cell: &dyn Fn(usize) -> Option<String>| -> Vec<String> {
            let cell = |&length| cell(length).unwrap_or(EMPTY.to_owned());
            std::iter::once(name.to_owned()).chain(lengths.iter().map(cell)).collect()
        };
        let score = |score: f64| format!("{score:.1}");
        let interval = |Interval { low, high, .. }| format!("{low:.1} to {high:.1}");
        let tasks =
            self.rows.iter().map(|row| line(&row.task, &|length| row.percent(length).map(score)));
        let means = [
            line(MEAN, &|length| self.mean(length).map(score)),
            line(INTERVAL, &|length| self.interval(length).map(interval)),
        ];
        Grid {
            head: line(TITLE, &|length| Some(length.to_string())),
            rows: tasks.chain(means).collect(),
        }
    }
}

impl Row {
    fn percent(&self, length: usize) -> Option<f64> {
        let cell = self.cells.get(&length)?;
        Some(100.0 * cell.score_sum / cell.answers as f64)
    }
}

/// The 95 % interval of a share of so many answers (Wilson 1927).
fn wilson(share: f64, answers: f64) -> [f64; 2] {
    const Z: f64 = 1.96;
    let shrink = 1.0 + Z * Z / answers;
    let middle = (share + Z * Z / (2.0 * answers)) / shrink;
    let half =
        Z / shrink * (share * (1.0 - share) / answers + (Z / (2.0 * answers)).powi(2)).sqrt();
    [middle - half, middle + half].map(|end| end.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(task: &str, length: usize, scores: &[f64]) -> Vec<Answer> {
        let answer = |&score: &f64| Answer {
            key: String::new(),
            model: String::new(),
            weights: None,
            adapter: None,
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
| 95 % interval | 37.0 to 99.8 | 30.0 to 98.7 | 28.8 to 97.5 | 27.9 to 99.5 |
";
        assert_eq!(scores().to_markdown(), expected);
    }

    #[test]
    fn a_table_for_a_terminal() {
        let all = [answers("vt", 4096, &[0.4, 0.7]), answers("cwe", 8192, &[0.5])].concat();
        let expected = "\
┌───────────────┬──────┬──────┐
│ RULER, %      ┆ 4096 ┆ 8192 │
╞═══════════════╪══════╪══════╡
│ vt            ┆ 55.0 ┆    - │
│ cwe           ┆    - ┆ 50.0 │
│ mean          ┆    - ┆    - │
│ 95 % interval ┆    - ┆    - │
└───────────────┴──────┴──────┘";
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

    /// Wilson's interval by hand: of ten answers, all right; of eight and four, which tell as much as 10.7.
    #[test]
    fn few_answers_are_known_to_be_few() {
        let check = |answers: &[Answer], low: f64, high: f64| {
            let interval = RulerScores::new(answers).interval(4096).unwrap();
            assert!((interval.low - low).abs() < 0.1 && (interval.high - high).abs() < 0.1);
        };
        check(&answers("vt", 4096, &[1.0; 10]), 72.2, 100.0);
        check(
            &[answers("vt", 4096, &[0.9; 8]), answers("cwe", 4096, &[0.9; 4])].concat(),
            60.7,
            98.1,
        );
        assert_eq!(scores().interval(512), None);
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
