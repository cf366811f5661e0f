//! All that was measured, on one page.

mod axis;
mod plots;
mod html;
mod markdown;

use std::collections::BTreeMap;
use std::io;

use plotters::drawing::DrawingAreaErrorKind;
use serde::{Deserialize, Serialize};

use crate::{HeatMap, Measurement, PerplexityTable, PositionBin};

const EMPTY: &str = "-";
/// A moving average of a loss curve spans this share of its points.
const SMOOTHED_SHARE: usize = 30;

/// What is known of some models, for people to read and for programs to compare.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The heading of the page.
    pub title: String,
    /// What was measured, on what, by which command: terms and what they stand for.
    pub facts: Vec<(String, String)>,
    /// One sentence each: what follows from the numbers.
    pub findings: Vec<String>,
    /// Perplexities by model and context length.
    pub perplexity: PerplexityTable,
    /// All else that has a table.
    pub tables: Vec<ReportTable>,
    /// Scores by context length and by where the answer stands.
    pub heat_maps: Vec<HeatMap>,
    /// What training or reading took.
    pub costs: Vec<Cost>,
    /// How training went.
    pub losses: Vec<LossCurve>,
}

/// A table of texts, most of them numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportTable {
    /// What the table shows.
    pub title: String,
    /// How to read it; may be empty.
    pub note: String,
    /// A text for each column.
    pub head: Vec<String>,
    /// The cells of each row; the first one names the row.
    pub rows: Vec<Vec<String>>,
}

/// Time and memory at one context length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The model, or how it was trained.
    pub name: String,
    /// Context length, in tokens.
    pub context: usize,
    /// Wall-clock time, in seconds.
    pub seconds: f64,
    /// The most memory in use, in bytes, if that is known.
    pub peak_memory_bytes: Option<u64>,
    /// Parameters that were trained, if any were.
    pub trainable: Option<u64>,
}

/// Loss of a model in training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurve {
    /// The model, or how it was trained.
    pub name: String,
    /// Steps, ascending, and the loss of each, in nats per token.
    pub points: Vec<(u64, f64)>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A plot cannot be drawn.
    #[error("a plot cannot be drawn; write the report as Markdown or JSON")]
    Plot(#[from] DrawingAreaErrorKind<io::Error>),
    /// The page's template cannot be filled in.
    #[error("the page cannot be filled in; write the report as Markdown or JSON")]
    Page(#[from] minijinja::Error),
}

impl Report {
    /// A text to read as it is, or in a repository: findings, facts, then all numbers as tables.
    pub fn to_markdown(&self) -> String {
        markdown::render(self)
    }

    /// All of it, for programs; it can be read into a `Report` again if every number is finite.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self)
            .expect("every map of a report has numbers or texts as keys")
    }

    /// A page with plots in one file: it loads nothing, runs no script and can be printed.
    ///
    /// # Errors
    /// [`ReportError`]
    pub fn to_html(&self) -> Result<String, ReportError> {
        html::render(self)
    }

    /// All that is named in plots: whoever is in two of them looks the same in both.
    fn names(&self) -> Vec<&str> {
        let costs = self.costs.iter().map(|cost| cost.name.as_str());
        let losses = self.losses.iter().map(|curve| curve.name.as_str());
        let mut names: Vec<&str> = vec![];
        for name in self.perplexity.models().chain(costs).chain(losses) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What was measured at the longest length with anything known about positions.
    fn longest(&self) -> Vec<(&str, &Measurement)> {
        let at = |length| {
            let models = self.perplexity.models();
            let measured =
                models.filter_map(|model| Some((model, self.perplexity.get(model, length)?)));
            measured.filter(|(_, measurement)| !measurement.positions.is_empty()).collect()
        };
        let lengths = self.perplexity.lengths().into_iter().rev();
        lengths.map(at).find(|models: &Vec<_>| !models.is_empty()).unwrap_or_default()
    }

    /// A column per model.
    fn position_table(&self) -> ReportTable {
        let models = self.longest();
        let mut rows: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
        for (column, (_, measurement)) in models.iter().enumerate() {
            for bin in &measurement.positions {
                let row = rows.entry((bin.start, bin.end));
                row.or_insert_with(|| vec![EMPTY.to_owned(); models.len()])[column] = nats(bin);
            }
        }
        let label = |(start, end): (usize, usize)| match end - start {
            0 | 1 => start.to_string(),
            _ => format!("{start} to {}", end - 1),
        };
        let rows = rows.into_iter().map(|(bin, cells)| [vec![label(bin)], cells].concat());
        let head = std::iter::once("tokens before").chain(models.iter().map(|(model, _)| *model));
        ReportTable {
            title: "Loss by position".to_owned(),
            note: models.first().map_or(String::new(), |(_, measurement)| {
                let length = measurement.length;
                format!("Nats per token ± SE in windows of {length} tokens, by the tokens before.")
            }),
            head: head.map(str::to_owned).collect(),
            rows: rows.collect(),
        }
    }

    fn cost_table(&self) -> ReportTable {
        let row = |cost: &Cost| {
            let Cost { name, context, seconds, peak_memory_bytes, trainable } = cost;
            let or_empty = |text: Option<String>| text.unwrap_or(EMPTY.to_owned());
            vec![
                name.clone(),
                context.to_string(),
                brief(*seconds),
                or_empty(peak_memory_bytes.map(|bytes| brief(gibibytes(bytes)))),
                or_empty(trainable.map(|parameters| parameters.to_string())),
            ]
        };
        let head = ["name", "context", "seconds", "peak GiB", "trainable parameters"];
        ReportTable {
            title: "Time and memory".to_owned(),
            note: String::new(),
            head: head.map(str::to_owned).to_vec(),
            rows: self.costs.iter().map(row).collect(),
        }
    }

    fn loss_table(&self) -> ReportTable {
        let row = |curve: &LossCurve| {
            let smooth = curve.smoothed();
            let last = smooth.len().checked_sub(1)?;
            let at = |share: usize| format!("{:.3}", smooth[last * share / 4].1);
            let steps = smooth[last].0.to_string();
            Some([vec![curve.name.clone(), steps], (0..=4).map(at).collect()].concat())
        };
        let head = ["name", "steps", "first", "after 1/4", "after 1/2", "after 3/4", "last"];
        ReportTable {
            title: "Training loss".to_owned(),
            note: "Nats per token, as a moving average.".to_owned(),
            head: head.map(str::to_owned).to_vec(),
            rows: self.losses.iter().filter_map(row).collect(),
        }
    }
}

impl LossCurve {
    /// The finite points.
    fn finite(&self) -> Vec<(u64, f64)> {
        self.points.iter().copied().filter(|(_, loss)| loss.is_finite()).collect()
    }

    /// The exponential moving average of the finite points, which begins as their plain mean.
    fn smoothed(&self) -> Vec<(u64, f64)> {
        let points = self.finite();
        let span = (points.len() / SMOOTHED_SHARE).max(1);
        let mut mean = 0.0;
        let average = |(seen, (step, loss)): (usize, (u64, f64))| {
            let weight = (2.0 / (span as f64 + 1.0)).max(1.0 / (seen as f64 + 1.0));
            mean += weight * (loss - mean);
            (step, mean)
        };
        points.into_iter().enumerate().map(average).collect()
    }
}

fn nats(bin: &PositionBin) -> String {
    match bin.nll_standard_error {
        Some(error) => format!("{:.3} ± {error:.3}", bin.nll()),
        None => format!("{:.3}", bin.nll()),
    }
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Three digits, or all before the point.
fn brief(number: f64) -> String {
    let decimals = match number.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Stretch};

    /// A name that is markup wherever it is not escaped.
    pub(super) const HOSTILE: &str = "<b>&\"x";

    fn measurement(length: usize, nlls: [f64; 2]) -> Measurement {
        let stretch = |index: usize| Stretch {
            document: 0,
            start: index * length,
            tokens: length - 1,
            nll_sum: nlls[index] * (length - 1) as f64,
        };
        let bin = |start: usize| PositionBin {
            start,
            end: 2 * start,
            tokens: start,
            nll_sum: start as f64 * (nlls[0] + 1.0 / start as f64),
            nll_standard_error: Some(0.125),
        };
        let stretches = vec![stretch(0), stretch(1)];
        let positions = [1, 2, 4, 8].map(bin).to_vec();
        Measurement { positions, ..Measurement::new(length, 2, String::new(), stretches) }
    }

    fn answer(length: usize, depth: f64, score: f64) -> Answer {
        Answer {
            key: String::new(),
            model: String::new(),
            weights: None,
            adapter: None,
            task: "passkey".to_owned(),
            id: String::new(),
            length,
            depth: Some(depth),
            prompt_tokens: length,
            output: String::new(),
            answers: vec![],
            score,
        }
    }

    fn cost(name: &str, context: usize, seconds: f64) -> Cost {
        let peak_memory_bytes = Some((context as u64 * 3) << 20);
        let trainable = Some(4_194_304);
        Cost { name: name.to_owned(), context, seconds, peak_memory_bytes, trainable }
    }

    /// A bit of everything.
    pub(super) fn report() -> Report {
        let mut perplexity = PerplexityTable::new();
        perplexity.insert("untouched", measurement(512, [2.3, 2.5]));
        perplexity.insert("untouched", measurement(1024, [7.0, 7.2]));
        perplexity.insert(HOSTILE, measurement(512, [2.2, 2.5]));
        perplexity.insert(HOSTILE, measurement(1024, [2.1, 2.4]));
        let answers = [answer(512, 0.0, 1.0), answer(512, 0.5, 0.0), answer(1024, 0.5, 0.75)];
        let table = ReportTable {
            title: "RULER".to_owned(),
            note: "Mean scores in %.".to_owned(),
            head: ["task", "512"].map(str::to_owned).to_vec(),
            rows: vec![["niah | single", "87.5"].map(str::to_owned).to_vec()],
        };
        let points = (1..=200).map(|step| (step, 2.0 + 1.0 / step as f64)).collect();
        Report {
            title: format!("Longer context for {HOSTILE}"),
            facts: vec![("model".to_owned(), "tiny, 2 layers".to_owned())],
            findings: vec!["Tuning halves the perplexity.".to_owned()],
            perplexity,
            tables: vec![table],
            heat_maps: vec![HeatMap::new("passkey", &answers)],
            costs: vec![cost(HOSTILE, 512, 1.5), cost(HOSTILE, 1024, 4.25)],
            losses: vec![LossCurve { name: HOSTILE.to_owned(), points }],
        }
    }

    /// One with numbers that are none.
    pub(super) fn broken() -> Report {
        let mut report = report();
        let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, f64::MAX];
        for (index, number) in numbers.into_iter().enumerate() {
            report.perplexity.insert("broken", measurement(64 << index, [number, 1.0]));
            report.costs.push(cost("broken", 64 << index, number));
            report.losses[0].points.push((201 + index as u64, number));
        }
        let answers = numbers.map(|number| answer(512, 0.0, number));
        report.heat_maps.push(HeatMap::new("broken", &answers));
        report
    }

    #[test]
    fn whoever_is_in_two_plots_is_named_once() {
        assert_eq!(report().names(), ["untouched", HOSTILE]);
    }

    #[test]
    fn a_report_survives_json() {
        let report = report();
        let read: Report = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(read.to_markdown(), report.to_markdown());
    }

    #[test]
    fn an_average_begins_with_the_first_points_and_ends_with_the_last() {
        let points = (0..90).map(|step| (step, if step < 45 { 4.0 } else { 2.0 })).collect();
        let smooth = LossCurve { name: String::new(), points }.smoothed();
        assert_eq!(smooth[0], (0, 4.0));
        assert_eq!(smooth[45].1, 3.0);
        assert!((smooth[89].1 - 2.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_no_number_is_left_out_of_averages() {
        let points = vec![(1, 2.0), (2, f64::NAN), (3, f64::INFINITY), (4, 4.0)];
        let curve = LossCurve { name: String::new(), points };
        assert_eq!(curve.smoothed(), [(1, 2.0), (4, 4.0)]);
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.0625, 1.5, 43.21, 1234.5].map(brief), ["0.062", "1.50", "43.2", "1234"]);
    }
}
