//! The table at the end of a run: what training was worth.

use anyhow::{Result, bail};
use burn::tensor::Device;
use longlora_adapters::RopeKind;
use longlora_attention::AttentionPattern;
use longlora_eval::{PerplexityConfig, PerplexityTable, Protocol, paired_difference};
use longlora_llama::{Llama, LlamaConfig};
use longlora_train::{FinetuneConfig, RunFolder};

use crate::model::load_stretched;
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
        let load = |stretch| load_stretched(&model.path, model.weights, stretch, device, None);
        let full = AttentionPattern::Full;
        row(BASE, &load(None)?, full)?;
        // A model that reaches so far by itself has nothing to stretch.
        if longest > LlamaConfig::read(&config.model.path)?.rope.max_position_embeddings {
            row(LINEAR, &load(Some((RopeKind::Linear, longest)))?, full)?;
            row(YARN, &load(Some((RopeKind::Yarn, longest)))?, full)?;
        }
        let fine_tuned = load_finetuned(config, run, device)?;
        row(FULL, &fine_tuned, full)?;
        if config.attention != full {
            row(SPARSE, &fine_tuned, config.attention)?;
        }
        Ok(Self { table, longest })
    }

    /// One sentence per question that a reader has.
    pub(crate) fn findings(&self) -> Result<Vec<String>> {
        let mut findings = vec![];
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
        Ok(findings)
    }
}

/// The result of a run: the base with its adapter, or a model of its own.
pub(crate) fn load_finetuned(
    config: &FinetuneConfig,
    run: &RunFolder,
    device: &Device,
) -> Result<Llama> {
    let (base, weights) = (&config.model.path, config.model.weights);
    match config.adapters {
        Some(_) => load_stretched(base, weights, None, device, Some(&run.adapter())),
        None => load_stretched(&run.model(), weights, None, device, None),
    }
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
