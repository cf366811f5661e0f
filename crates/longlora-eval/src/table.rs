//! Perplexities side by side.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Grid, Measurement};

const TITLE: &str = "perplexity ± SE";
const EMPTY: &str = "-";

/// Perplexities of several models at several context lengths: a row per model, a column per length.
///
/// Rows stand in the order in which their models were first put in, columns by length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PerplexityTable {
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    model: String,
    /// Keys are lengths in tokens.
    cells: BTreeMap<usize, Measurement>,
}

impl PerplexityTable {
    /// A table without any row.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a measurement of `model` into the column of its length, in place of what was there.
    pub fn insert(&mut self, model: &str, measurement: Measurement) {
        let index = self.rows.iter().position(|row| row.model == model).unwrap_or_else(|| {
            self.rows.push(Row { model: model.to_owned(), cells: BTreeMap::new() });
            self.rows.len() - 1
        });
        self.rows[index].cells.insert(measurement.length, measurement);
    }

    /// What was measured of `model` at `length` tokens.
    pub fn get(&self, model: &str, length: usize) -> Option<&Measurement> {
        self.rows.iter().find(|row| row.model == model)?.cells.get(&length)
    }

    /// The models, from top to bottom.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|row| row.model.as_str())
    }

    /// The lengths, in tokens, from left to right.
    pub fn lengths(&self) -> Vec<usize> {
        let lengths: BTreeSet<usize> =
            self.rows.iter().flat_map(|row| row.cells.keys().copied()).collect();
        lengths.into_iter().collect()
    }

    /// How much text each length was measured on, or nothing without a measurement: what is behind a document's last whole
    /// window is not read, so that long windows read other text than short ones.
    pub fn note(&self) -> String {
        let of_length = |length: usize| {
            let measured = self.rows.iter().find_map(|row| row.cells.get(&length))?;
            let documents: BTreeSet<usize> =
                measured.stretches.iter().map(|stretch| stretch.document).collect();
            let (tokens, documents) = (measured.tokens, documents.len());
            Some(format!("{tokens} ({documents}) at {length}"))
        };
        let lengths: Vec<String> = self.lengths().into_iter().filter_map(of_length).collect();
        match lengths.is_empty() {
            true => String::new(),
            false => format!("Scored tokens (and documents): {}.", lengths.join(", ")),
        }
    }

    /// A Markdown table.
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
        let row = |row: &Row| {
            let cells = lengths.iter().map(|length| cell(row.cells.get(length)));
            std::iter::once(row.model.clone()).chain(cells).collect()
        };
        Grid {
            head: std::iter::once(TITLE.to_owned()).chain(head).collect(),
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

fn cell(measurement: Option<&Measurement>) -> String {
    let Some(measurement) = measurement else { return EMPTY.to_owned() };
    let perplexity = measurement.perplexity();
    match measurement.perplexity_standard_error() {
        Some(error) => format!("{perplexity:.2} ± {error:.2}"),
        None => format!("{perplexity:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stretch;

    fn measurement(length: usize, nlls: &[f64]) -> Measurement {
        let stretch = |(index, nll): (usize, &f64)| Stretch {
            document: 0,
            start: index * length,
            tokens: length - 1,
            nll_sum: nll * (length - 1) as f64,
        };
        let stretches = nlls.iter().enumerate().map(stretch).collect();
        Measurement::new(length, nlls.len(), String::new(), stretches)
    }

    fn table() -> PerplexityTable {
        let mut table = PerplexityTable::new();
        table.insert("untouched", measurement(1024, &[7.0, 7.2]));
        table.insert("untouched", measurement(512, &[9.9]));
        table.insert("untouched", measurement(512, &[2.3, 2.5]));
        table.insert("tuned | full", measurement(2048, &[2.4]));
        table
    }

    #[test]
    fn a_table_for_a_report() {
        let expected = "\
| perplexity ± SE | 512 | 1024 | 2048 |
| --- | ---: | ---: | ---: |
| untouched | 11.02 ± 1.10 | 1211.97 ± 121.20 | - |
| tuned \\| full | - | - | 11.02 |
";
        assert_eq!(table().to_markdown(), expected);
    }

    #[test]
    fn it_says_how_much_was_read() {
        let expected =
            "Scored tokens (and documents): 1022 (1) at 512, 2046 (1) at 1024, 2047 (1) at 2048.";
        assert_eq!(table().note(), expected);
        assert_eq!(PerplexityTable::new().note(), "");
    }

    #[test]
    fn a_table_for_a_terminal() {
        let expected = "\
┌─────────────────┬──────────────┬──────────────────┬───────┐
│ perplexity ± SE ┆          512 ┆             1024 ┆  2048 │
╞═════════════════╪══════════════╪══════════════════╪═══════╡
│ untouched       ┆ 11.02 ± 1.10 ┆ 1211.97 ± 121.20 ┆     - │
│ tuned | full    ┆            - ┆                - ┆ 11.02 │
└─────────────────┴──────────────┴──────────────────┴───────┘";
        assert_eq!(table().to_text(), expected);
    }

    #[test]
    fn cells_are_found_by_model_and_length() {
        let table = table();
        assert_eq!(table.models().collect::<Vec<_>>(), ["untouched", "tuned | full"]);
        assert_eq!(table.lengths(), [512, 1024, 2048]);
        assert_eq!(table.get("untouched", 512), Some(&measurement(512, &[2.3, 2.5])));
        assert_eq!(table.get("untouched", 2048), None);
        assert_eq!(table.get("unheard of", 512), None);
    }

    #[test]
    fn a_table_survives_json() {
        let table = table();
        let json = serde_json::to_string(&table).unwrap();
        let read: PerplexityTable = serde_json::from_str(&json).unwrap();
        assert_eq!(read.to_text(), table.to_text());
    }
}
