//! Scores by length and depth.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Answer, Grid};

/// Depths that are told apart where they are not a few given ones.
const TENTHS: u32 = 10;
/// Most depths that stand as they are.
const MOST_DEPTHS: usize = 11;

/// Mean scores by context length and by where in the text the answer stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeatMap {
    /// What was asked.
    pub title: String,
    /// By depth, then by length.
    cells: Vec<HeatCell>,
}

/// The answers of one length and one depth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeatCell {
    /// Context length, in tokens.
    pub length: usize,
    /// From 0, the beginning of the text, to 1.
    pub depth: f64,
    /// How many there are.
    pub answers: usize,
    /// Sum of their scores.
    pub score_sum: f64,
}

impl HeatCell {
    /// Mean score, from 0 to 1.
    pub fn score(&self) -> f64 {
        self.score_sum / self.answers as f64
    }
}

impl HeatMap {
    /// The map of all answers that have a depth. More than 11 different depths are sorted into tenths.
    pub fn new(title: &str, answers: &[Answer]) -> Self {
        let placed = || answers.iter().filter_map(|answer| Some((answer, answer.depth?)));
        let mut exact: Vec<u32> = placed().map(|(_, depth)| per_mille(depth)).collect();
        exact.sort_unstable();
        exact.dedup();
        let few = exact.len() <= MOST_DEPTHS;
        let row = |depth: f64| match few {
            true => per_mille(depth),
            false => (depth * f64::from(TENTHS)).round() as u32 * (1000 / TENTHS),
        };
        let mut sums: BTreeMap<(u32, usize), (usize, f64)> = BTreeMap::new();
        for (answer, depth) in placed() {
            let (answers, sum) = sums.entry((row(depth), answer.length)).or_default();
            *answers += 1;
            *sum += answer.score;
        }
        let cell = |((depth, length), (answers, score_sum))| {
            let depth = f64::from(depth) / 1000.0;
            HeatCell { length, depth, answers, score_sum }
        };
        Self { title: title.to_owned(), cells: sums.into_iter().map(cell).collect() }
    }

    /// By depth, then by length; what was not asked has no cell.
    pub fn cells(&self) -> &[HeatCell] {
        &self.cells
    }

    /// The lengths, in tokens, ascending.
    pub fn lengths(&self) -> Vec<usize> {
        let mut lengths: Vec<usize> = self.cells.iter().map(|cell| cell.length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// The depths, ascending.
    pub fn depths(&self) -> Vec<f64> {
        let mut depths: Vec<f64> = self.cells.iter().map(|cell| cell.depth).collect();
        depths.dedup();
        depths
    }

    /// The cell of a length and a depth.
    pub fn get(&self, length: usize, depth: f64) -> Option<&HeatCell> {
        self.cells.iter().find(|cell| cell.length == length && cell.depth == depth)
    }

    /// A Markdown table: a row per depth, a column per length, and the mean over the depths below.
    pub fn to_markdown(&self) -> String {
        self.grid().to_markdown()
    }

    /// A table for a terminal.
    pub fn to_text(&self) -> String {
        self.grid().to_text()
    }

    pub(crate) fn grid(&self) -> Grid {
        let lengths = self.lengths();
        let head = lengths.iter().map(|length| length.to_string());
        let row = |depth: f64| {
            let cells = lengths.iter().map(|&length| percent(self.get(length, depth)));
            std::iter::once(format!("{:.0} %", 100.0 * depth)).chain(cells).collect()
        };
        let mean = lengths.iter().map(|&length| percent(Some(&self.column(length))));
        let mean = std::iter::once("all".to_owned()).chain(mean).collect();
        Grid {
            head: std::iter::once(format!("{}: % by depth", self.title)).chain(head).collect(),
            rows: self.depths().into_iter().map(row).chain([mean]).collect(),
        }
    }

    /// All answers of a length.
    fn column(&self, length: usize) -> HeatCell {
        let none = HeatCell { length, depth: 0.0, answers: 0, score_sum: 0.0 };
        self.cells.iter().filter(|cell| cell.length == length).fold(none, |sum, cell| HeatCell {
            answers: sum.answers + cell.answers,
            score_sum: sum.score_sum + cell.score_sum,
            ..sum
        })
    }
}

fn per_mille(depth: f64) -> u32 {
    (1000.0 * depth).round() as u32
}

fn percent(cell: Option<&HeatCell>) -> String {
    cell.map_or("-".to_owned(), |cell| format!("{:.0} ({})", 100.0 * cell.score(), cell.answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: usize, depth: Option<f64>, score: f64) -> Answer {
        Answer {
            key: String::new(),
            model: String::new(),
            weights: None,
            adapter: None,
            task: "passkey".to_owned(),
            id: String::new(),
            length,
            depth,
            prompt_tokens: length,
            output: String::new(),
            answers: vec![],
            score,
        }
    }

    #[test]
    fn a_row_per_depth_and_a_column_per_length() {
        let answers = [
            answer(1024, Some(0.5), 1.0),
            answer(512, Some(0.5), 1.0),
            answer(512, Some(0.5), 0.0),
            answer(512, Some(0.0), 1.0),
            answer(512, None, 1.0),
        ];
        let expected = "\
| passkey: % by depth | 512 | 1024 |
| --- | ---: | ---: |
| 0 % | 100 (1) | - |
| 50 % | 50 (2) | 100 (1) |
| all | 67 (3) | 100 (1) |
";
        assert_eq!(HeatMap::new("passkey", &answers).to_markdown(), expected);
    }

    #[test]
    fn many_depths_are_sorted_into_tenths() {
        let answers: Vec<_> =
            (0..40).map(|n| answer(512, Some(f64::from(n) / 39.0), 1.0)).collect();
        let map = HeatMap::new("needle", &answers);
        assert_eq!(map.depths().len(), 11);
        assert_eq!(map.cells().iter().map(|cell| cell.answers).sum::<usize>(), 40);
    }
}
