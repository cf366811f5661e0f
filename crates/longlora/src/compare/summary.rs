//! What came out of a comparison, and its report.

use std::path::Path;

use anyhow::Result;
use longlora_eval::{
    Answer, Cost as ReportCost, HeatMap, LossCurve, Measurement, PerplexityTable, Pieces, Report,
    ReportTable, Retention, paired_difference,
};
use longlora_llama::write_atomically;
use longlora_train::FinetuneConfig;
use serde_json::json;

use super::method::{Method, UNTOUCHED};
use super::verdict::{Candidate, recommend};
use super::{Cost, Measured};
use crate::measured_on::measured_on;

/// A method, measured.
pub(super) struct Row {
    method: &'static Method,
    /// With one entry for an untrained method.
    seeds: Vec<(Option<u64>, Measured, Option<Cost>)>,
    training: Option<Training>,
}

/// What every seed of a trained method shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Training {
    /// Parameters.
    pub(super) trainable: u64,
    /// Tokens of a window.
    pub(super) context_length: usize,
}

/// All of them.
pub(super) struct Summary {
    facts: Vec<(String, String)>,
    title: String,
    /// The model's own context, in tokens.
    own: usize,
    longest: usize,
    rows: Vec<Row>,
}

impl Row {
    pub(super) fn untrained(method: &'static Method, measured: Measured) -> Self {
        Self { method, seeds: vec![(None, measured, None)], training: None }
    }

    pub(super) fn trained(
        method: &'static Method,
        seeds: Vec<(u64, Measured, Cost)>,
        training: Training,
    ) -> Self {
        let seeds =
            seeds.into_iter().map(|(seed, measured, cost)| (Some(seed), measured, Some(cost)));
        Self { method, seeds: seeds.collect(), training: Some(training) }
    }

    /// Means over the seeds, by length.
    fn perplexities(&self) -> Result<Vec<Measurement>> {
        let lengths = self.seeds.first().map_or(0, |(_, measured, _)| measured.perplexities.len());
        let of_length = |index: usize| {
            let of_seed =
                |(_, measured, _): &(_, Measured, _)| measured.perplexities[index].clone();
            let all: Vec<Measurement> = self.seeds.iter().map(of_seed).collect();
            Ok(Measurement::average(&all)?)
        };
        (0..lengths).map(of_length).collect()
    }

    /// Mean score of each passkey over the seeds, which were all asked the same.
    fn passkeys(&self) -> Vec<f64> {
        let of_seed = |(_, measured, _): &(_, Measured, _)| -> Vec<f64> {
            measured.answers.iter().map(|answer| answer.score).collect()
        };
        let scores: Vec<Vec<f64>> = self.seeds.iter().map(of_seed).collect();
        let count = scores.first().map_or(0, Vec::len);
        let mean = |question: usize| {
            scores.iter().map(|seed| seed[question]).sum::<f64>() / scores.len() as f64
        };
        (0..count).map(mean).collect()
    }

    fn answers(&self) -> Vec<Answer> {
        self.seeds.iter().flat_map(|(_, measured, _)| measured.answers.clone()).collect()
    }

    /// Mean over the seeds, in seconds.
    fn seconds(&self) -> f64 {
        let costs = || self.seeds.iter().filter_map(|(_, _, cost)| cost.as_ref());
        costs().map(|cost| cost.seconds).sum::<f64>() / costs().count().max(1) as f64
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        let costs = self.seeds.iter().filter_map(|(_, _, cost)| cost.as_ref());
        costs.filter_map(|cost| cost.peak_memory_bytes).max()
    }
}

impl Summary {
    pub(super) fn new(
        config: &FinetuneConfig,
        own: usize,
        lengths: &[usize],
        device: &str,
    ) -> Self {
        let training = &config.training;
        let rates = training.learning_rates;
        let windows = training.steps * (training.accumulation * training.batch_size) as u64;
        let tokens = windows * config.context.length as u64;
        let model = config.model.path.display().to_string();
        let facts = [
            ("model", model.clone()),
            ("text to learn from", config.data.path.display().to_string()),
            ("text to measure on", measured_on(config)),
            ("its own context", format!("{own} tokens")),
            ("context to reach", format!("{} tokens", config.context.length)),
            ("training of each method", format!("{} steps, {tokens} tokens", training.steps)),
            (
                "learning rates",
                format!(
                    "{} for LoRA, {} for norms and embeddings",
                    rates.lora, rates.norms_and_embeddings
                ),
            ),
            ("RoPE scaling of the trained methods", config.context.rope_scaling.to_string()),
            ("weights", config.model.weights.to_string()),
            ("device", device.to_owned()),
            ("longlora", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Self {
            facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            title: format!("{} at {} tokens, by method", name_of(&model), config.context.length),
            own,
            longest: lengths.last().copied().unwrap_or_default(),
            rows: vec![],
        }
    }

    /// How many there are.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// What follows from the numbers.
    pub(super) fn findings(&self) -> Result<Vec<String>> {
        let mut measured = vec![];
        for row in &self.rows {
            let perplexities = row.perplexities()?;
            if let Some(longest) = perplexities.into_iter().find(|one| one.length == self.longest) {
                measured.push((row, longest, self.retention(row)?, row.passkeys()));
            }
        }
        let candidates = measured.iter().map(|(row, longest, retention, passkeys)| Candidate {
            title: row.method.title,
            longest,
            retention,
            passkeys,
            seconds: row.seconds(),
        });
        recommend(&candidates.collect::<Vec<_>>())
    }

    /// Against the untouched model, at its own length and below.
    fn retention(&self, row: &Row) -> Result<Vec<Retention>> {
        let Some(untouched) = self.rows.iter().find(|row| row.method.name == UNTOUCHED) else {
            return Ok(vec![]);
        };
        let (before, after) = (untouched.perplexities()?, row.perplexities()?);
        let pairs = before.iter().zip(&after).filter(|(before, _)| before.length <= self.own);
        pairs.map(|(before, after)| Ok(Retention::of(before, after)?)).collect()
    }

    /// report.html, report.md and report.json.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let report = self.report()?;
        write_atomically(&folder.join("report.html"), report.to_html()?.as_bytes())?;
        write_atomically(&folder.join("report.md"), report.to_markdown().as_bytes())?;
        let seeds = self.rows.iter().flat_map(|row| {
            row.seeds.iter().map(move |(seed, measured, cost)| {
                json!({ "method": row.method.name, "seed": seed, "measured": measured, "cost": cost })
            })
        });
        let json = json!({ "report": report, "runs": seeds.collect::<Vec<_>>() });
        write_atomically(
            &folder.join("report.json"),
            serde_json::to_string_pretty(&json)?.as_bytes(),
        )?;
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        let mut perplexity = PerplexityTable::new();
        for row in &self.rows {
            for measurement in row.perplexities()? {
                perplexity.insert(row.method.title, measurement);
            }
        }
        let heat_maps = self.rows.iter().map(|row| HeatMap::new(row.method.title, &row.answers()));
        let heat_maps = heat_maps.filter(|map| !map.cells().is_empty()).collect();
        Ok(Report {
            title: self.title.clone(),
            facts: self.facts.clone(),
            findings: self.findings()?,
            perplexity,
            tables: self.tables()?,
            heat_maps,
            costs: self.costs(),
            losses: self.losses(),
        })
    }

    fn tables(&self) -> Result<Vec<ReportTable>> {
        let tables = [
            self.difference_table()?,
            self.seed_table(),
            self.sparse_table(),
            self.retention_table()?,
        ];
        Ok(tables.into_iter().filter(|table| !table.rows.is_empty()).collect())
    }

    /// Every method against YaRN without training and against plain LongLoRA, at the longest length.
    fn difference_table(&self) -> Result<ReportTable> {
        let at = |row: &Row| -> Result<Option<Measurement>> {
            Ok(row.perplexities()?.into_iter().find(|one| one.length == self.longest))
        };
        let of_name = |name: &str| self.rows.iter().find(|row| row.method.name == name);
        // All of them are of the same text.
        let measured = self.rows.first().map(at).transpose()?.flatten();
        let mut rows = vec![];
        for row in &self.rows {
            let mut cells = vec![row.method.title.to_owned()];
            for reference in ["yarn", "longlora"] {
                let pair = match of_name(reference) {
                    Some(reference) => at(row)?.zip(at(reference)?),
                    None => None,
                };
                cells.push(match pair {
                    Some((ours, theirs)) => in_words(&ours, &theirs)?,
                    None => "-".to_owned(),
                });
            }
            rows.push(cells);
        }
        Ok(ReportTable {
            title: format!("Differences at {} tokens", self.longest),
            note: note_on_differences(measured.map(|one| one.pieces())),
            head: ["method", "against YaRN, untrained", "against LongLoRA"]
                .map(str::to_owned)
                .to_vec(),
            rows,
        })
    }

    /// How far the seeds are apart.
    fn seed_table(&self) -> ReportTable {
        let trained = self.rows.iter().filter(|row| row.seeds.len() > 1);
        let row = |row: &Row| {
            let at = |(_, measured, _): &(_, Measured, _)| {
                let found = measured.perplexities.iter().find(|one| one.length == self.longest);
                found.map(Measurement::perplexity)
            };
            let all: Vec<f64> = row.seeds.iter().filter_map(at).collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let square = |one: &f64| (one - mean).powi(2);
            let deviation = (all.iter().map(square).sum::<f64>() / (all.len() - 1) as f64).sqrt();
            let each: Vec<String> = all.iter().map(|one| format!("{one:.3}")).collect();
            vec![
                row.method.title.to_owned(),
                format!("{mean:.3}"),
                format!("{deviation:.3}"),
                each.join(", "),
            ]
        };
        ReportTable {
            title: format!("Seeds, perplexity at {} tokens", self.longest),
            note: "Mean and standard deviation over the seeds.".to_owned(),
            head: ["method", "mean", "deviation", "each"].map(str::to_owned).to_vec(),
            rows: trained.map(row).collect(),
        }
    }

    /// The same weights, read as they were trained.
    fn sparse_table(&self) -> ReportTable {
        let row = |row: &Row| {
            let of_seed = |(_, measured, _): &(_, Measured, _)| measured.sparse.clone();
            let sparse: Option<Vec<Measurement>> = row.seeds.iter().map(of_seed).collect();
            let sparse = Measurement::average(&sparse?).ok()?;
            let all = row.perplexities().ok()?;
            let full = all.iter().find(|one| one.length == sparse.length)?;
            let numbers = [full.perplexity(), sparse.perplexity()].map(|one| format!("{one:.3}"));
            Some([vec![row.method.title.to_owned()], numbers.to_vec()].concat())
        };
        ReportTable {
            title: "Full attention and the pattern of the training".to_owned(),
            note: "Perplexity at the training length, of the same weights.".to_owned(),
            head: ["method", "full", "as trained"].map(str::to_owned).to_vec(),
            rows: self.rows.iter().filter_map(row).collect(),
        }
    }

    fn retention_table(&self) -> Result<ReportTable> {
        let mut rows = vec![];
        for row in self.rows.iter().filter(|row| row.method.name != UNTOUCHED) {
            for retention in self.retention(row)? {
                let mut cells = vec![row.method.title.to_owned()];
                cells.extend(crate::retention::cells(&retention));
                rows.push(cells);
            }
        }
        let head = ["method"].into_iter().chain(crate::retention::HEAD);
        Ok(ReportTable {
            title: "What the short context lost".to_owned(),
            note: "Perplexity at the model's own length and below, against the untouched model."
                .to_owned(),
            head: head.map(str::to_owned).collect(),
            rows,
        })
    }

    fn costs(&self) -> Vec<ReportCost> {
        let cost = |row: &Row| {
            let Training { trainable, context_length } = row.training?;
            Some(ReportCost {
                name: row.method.title.to_owned(),
                context: context_length,
                seconds: row.seconds(),
                peak_memory_bytes: row.peak_memory_bytes(),
                trainable: Some(trainable),
            })
        };
        self.rows.iter().filter_map(cost).collect()
    }

    /// Of the first seed.
    fn losses(&self) -> Vec<LossCurve> {
        let curve = |row: &Row| {
            let cost = row.seeds.first()?.2.as_ref()?;
            let points = (1u64..).zip(cost.losses.iter().copied()).collect();
            Some(LossCurve { name: row.method.title.to_owned(), points })
        };
        self.rows.iter().filter_map(curve).collect()
    }
}

fn in_words(ours: &Measurement, theirs: &Measurement) -> Result<String> {
    let difference = paired_difference(ours, theirs)?;
    let interval = difference.interval.map_or(String::new(), |interval| {
        format!(" ({:+.4} to {:+.4})", interval.low, interval.high)
    });
    Ok(format!("{:+.4}{interval}", difference.nll))
}

/// What stands over differences that were measured on so many pieces of text.
fn note_on_differences(pieces: Option<Pieces>) -> String {
    let intervals = match pieces {
        Some(pieces) if pieces.count() > 1 => {
            format!("; 95 % intervals by {} over {pieces}", pieces.interval_method())
        }
        _ => String::new(),
    };
    format!(
        "Nats per token, negative if the method of the row is better{intervals}; means over seeds."
    )
}

fn name_of(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_how_intervals_were_found() {
        let check = |pieces: Option<Pieces>, expected: &str| {
            let note = note_on_differences(pieces);
            assert_eq!(
                note,
                format!(
                    "Nats per token, negative if the method of the row is better{expected}; means over seeds."
                )
            );
        };
        let few = "; 95 % intervals by Student's t over 15 stretches of text";
        check(Some(Pieces::Stretches(15)), few);
        check(
            Some(Pieces::Documents(16)),
            "; 95 % intervals by the paired bootstrap over 16 documents",
        );
        check(Some(Pieces::Stretches(1)), "");
        check(None, "");
    }
}
