//! The table at the end of a run: what training was worth.

use anyhow::{Result, bail};
use burn::tensor::Device;
use longlora_adapters::RopeKind;
use longlora_attention::AttentionPattern;
use longlora_eval::{PerplexityConfig, PerplexityTable, Protocol, context_gain, paired_difference};
use longlora_llama::{Llama, LlamaConfig, WeightStorage};
use longlora_train::{FinetuneConfig, RunFolder};

use crate::model::{load_stretched, stretched, with_adapter};
use crate::perplexity::measure;

const BASE: &str = "base, untouched";
const LINEAR: &str = "base, position interpolation";
const YARN: &str = "base, YaRN";
const FULL: &str = "fine-tuned, full attention";
const SPARSE: &str = "fine-tuned, sparse attention";

/// Perplexities of a finished run, and what follows from them.
pub(crate) struct Comparison {
    pub(crate) table: PerplexityTable,
    longest: usize,
    weights: WeightStorage,
}

impl Comparison {
    /// Measures the untouched model, its untrained extensions, and the fine-tuned model, all on held-out text.
    pub(crate) fn measure(
        config: &FinetuneConfig,
        run: &RunFolder,
        documents: &[Vec<u32>],
        lengths: &[usize],
        device: &Device,
    ) -> Result<Self> {
        let longest = config.context.length;
        let mut table = PerplexityTable::new();
        let mut row = |name: &str, llama: &Llama, pattern: AttentionPattern| -> Result<()> {
            // A short window may be no longer than a group.
            let fitting = lengths.iter().filter(|&&length| pattern.validate(length).is_ok());
            for &length in fitting {
                let protocol = Protocol::WholeWindows { stride: None };
                let measured = PerplexityConfig { length, protocol, pattern, max_tokens: None };
                measure(&mut table, name, llama, documents, &measured)?;
            }
            Ok(())
        };
        let model = &config.model;
        // Read once: a scaling is a setting, and an adapter lies beside the weights.
        let base = load_stretched(&model.path, model.weights, None, device, None)?;
        let full = AttentionPattern::Full;
        row(BASE, &base, full)?;
        // A model that reaches so far by itself has nothing to stretch.
        if longest > base.config.rope.max_position_embeddings {
            row(LINEAR, &stretched(base.clone(), RopeKind::Linear, longest)?, full)?;
            row(YARN, &stretched(base.clone(), RopeKind::Yarn, longest)?, full)?;
        }
        let fine_tuned = match config.adapters {
            Some(_) => with_adapter(base, &run.adapter())?,
            None => {
                drop(base);
                load_stretched(&run.model(), model.weights, None, device, None)?
            }
        };
        row(FULL, &fine_tuned, full)?;
        if config.attention != full {
            row(SPARSE, &fine_tuned, config.attention)?;
        }
        Ok(Self { table, longest, weights: config.model.weights })
    }

    /// One sentence per question that a reader has.
    pub(crate) fn findings(&self) -> Result<Vec<String>> {
        let mut findings = vec![];
        if self.weights != WeightStorage::F32 {
            findings.push(format!(
                "All rows are of weights in {}, the untouched model's, too.",
                self.weights
            ));
        }
        for (what, other) in [("position interpolation", LINEAR), ("YaRN", YARN)] {
            let (Some(ours), Some(theirs)) =
                (self.table.get(FULL, self.longest), self.table.get(other, self.longest))
            else {
                continue;
            };
            let difference = paired_difference(ours, theirs)?;
            let error = difference.standard_error.map_or(String::new(), |e| format!(" ± {e:.4}"));
            findings.push(format!(
                "At {} tokens, fine-tuning changes the loss by {:+.4}{error} nats against {what} alone.",
                self.longest, difference.nll
            ));
        }
        let shortest = self.table.lengths().into_iter().min().unwrap_or(self.longest);
        if let (Some(ours), Some(base)) =
            (self.table.get(FULL, shortest), self.table.get(BASE, shortest))
        {
            let change = 100.0 * (ours.perplexity() / base.perplexity() - 1.0);
            findings.push(format!(
                "At {shortest} tokens, the perplexity changes by {change:+.2} % against the untouched model."
            ));
        }
        if let (Some(ours), Some(base)) =
            (self.table.get(FULL, self.longest), self.table.get(BASE, shortest))
        {
            findings.push(format!(
                "With {} tokens of context the fine-tuned model reaches {:.3}, the untouched one with {shortest} {:.3}.",
                self.longest,
                ours.perplexity(),
                base.perplexity()
            ));
        }
        findings.extend(longer_context(&self.table, self.longest)?);
        Ok(findings)
    }
}

/// What the longer context is worth to the fine-tuned model, against the shortest one that was measured and that windows of
/// the longest one hold as a whole. `None`, if there is none.
fn longer_context(table: &PerplexityTable, longest: usize) -> Result<Option<String>> {
    let nested = |length: &usize| *length < longest && longest.is_multiple_of(*length);
    let shorter = table.lengths().into_iter().filter(nested).min();
    let Some((short, long)) =
        shorter.and_then(|length| table.get(FULL, length)).zip(table.get(FULL, longest))
    else {
        return Ok(None);
    };
    let gain = context_gain(short, long)?;
    let error = gain.standard_error.map_or(String::new(), |error| format!(" ± {error:.4}"));
    Ok(Some(format!(
        "To the fine-tuned model the longer context is worth {:.4}{error} nats: {longest} tokens of it against {}, paired over \
         {}.",
        gain.nll, short.length, gain.pieces
    )))
}

/// A length in which nothing can be predicted is refused before anything is measured.
pub(crate) fn refuse_short(option: &str, lengths: &[usize]) -> Result<()> {
    match lengths.iter().find(|&&length| length < 2) {
        None => Ok(()),
        Some(length) => bail!(
            "{option} has `{length}`, and nothing can be predicted in less than 2 tokens; use at least 2"
        ),
    }
}

/// The model's own context, doubled until the training context is reached.
pub(crate) fn default_lengths(base: &LlamaConfig, context_length: usize) -> Vec<usize> {
    let start = base.rope.original_context().min(context_length).max(2);
    let mut lengths: Vec<usize> =
        std::iter::successors(Some(start), |length| length.checked_mul(2))
            .take_while(|&length| length < context_length)
            .collect();
    lengths.push(context_length);
    lengths
}

#[cfg(test)]
mod tests {
    use longlora_eval::{Measurement, Stretch};
    use serde_json::json;

    use super::*;

    /// One document in windows side by side, with so many nats per token.
    fn side_by_side(length: usize, nlls: &[f64]) -> Measurement {
        let stretch = |(index, nll): (usize, &f64)| Stretch {
            document: 0,
            start: index * length,
            tokens: length - 1,
            nll_sum: nll * (length - 1) as f64,
        };
        let stretches: Vec<Stretch> = nlls.iter().enumerate().map(stretch).collect();
        let tokens: usize = stretches.iter().map(|one| one.tokens).sum();
        let nll_sum: f64 = stretches.iter().map(|one| one.nll_sum).sum();
        serde_json::from_value(json!({
            "length": length, "windows": nlls.len(), "tokens": tokens, "nll_sum": nll_sum,
            "nll_standard_error": null, "windows_sha256": "", "stretches": stretches,
        }))
        .unwrap()
    }

    #[test]
    fn the_longer_context_is_compared_with_the_shortest_that_it_holds() {
        let mut table = PerplexityTable::new();
        let said = |table: &PerplexityTable| longer_context(table, 8).unwrap();
        table.insert(FULL, side_by_side(8, &[2.0, 3.0, 4.0]));
        assert_eq!(said(&table), None);
        table.insert(FULL, side_by_side(3, &[9.0; 8]));
        assert_eq!(said(&table), None);
        table.insert(FULL, side_by_side(4, &[2.25, 2.25, 3.5, 3.5, 4.25, 4.25, 9.0]));
        let expected = "To the fine-tuned model the longer context is worth 0.3333 ± 0.0833 nats: 8 tokens of it against 4, \
                        paired over 3 stretches of text.";
        assert_eq!(said(&table).unwrap(), expected);
        table.insert(FULL, side_by_side(8, &[2.0]));
        assert!(said(&table).unwrap().contains("0.2500 nats: 8 tokens"));
    }
}
