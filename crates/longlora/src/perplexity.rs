//! `longlora eval perplexity`

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use longlora_adapters::RopeKind;
use longlora_attention::AttentionPattern;
use longlora_data::Corpus;
use longlora_eval::{PerplexityConfig, PerplexityTable, Protocol, perplexity};
use longlora_llama::Llama;

use crate::model::{ModelArgs, WeightKind};
use crate::pattern::PatternArgs;
use crate::print;
use crate::progress::Progress;

/// Perplexity of a model on your documents, at one or several context lengths, with its standard error.
///
/// Tokens are weighted equally. Attention is full unless a pattern is given.
#[derive(clap::Args)]
pub(crate) struct Perplexity {
    #[command(flatten)]
    model: ModelArgs,
    /// How the matrices of the model are kept: bf16 takes half the memory of f32
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// What to measure on: a .txt, .md, .jsonl (field `text`) or .json (token ids) file, or a folder of them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Context lengths in tokens, separated by commas
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',', required = true)]
    lengths: Vec<usize>,
    /// How windows are cut and what is scored in them
    #[arg(long, value_name = "PROTOCOL", default_value = "whole-windows")]
    protocol: ProtocolKind,
    /// Tokens between the starts of two windows; whole windows follow one another unless this is given, and the last
    /// tokens of sliding windows are a quarter of the length
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Measure on the first so many tokens alone
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Stretch the model to the longest length by this RoPE scaling, without training
    #[arg(long, value_name = "SCALING", conflicts_with = "adapter")]
    rope_scaling: Option<RopeKind>,
    #[command(flatten)]
    pattern: PatternArgs,
    /// Print the measurements as JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProtocolKind {
    /// Every prediction of every window counts (LongLoRA's)
    WholeWindows,
    /// Only the last tokens of each sliding window count, so that all have a long context (Hugging Face's)
    LastTokens,
}

impl Perplexity {
    pub(crate) fn run(self) -> Result<()> {
        let longest = self.lengths.iter().copied().max().unwrap_or_default();
        let pattern = self.pattern.over(AttentionPattern::Full)?;
        let stretch = self.rope_scaling.map(|kind| (kind, longest));
        let llama = self.model.load(self.weights.into(), stretch)?;
        let corpus = Corpus::read(&self.data)?;
        let tokenizer = corpus.has_text().then(|| self.model.tokenizer()).transpose()?;
        let documents = corpus.tokenize(tokenizer.as_ref())?;
        let mut table = PerplexityTable::new();
        for &length in &self.lengths {
            let config = PerplexityConfig {
                length,
                protocol: self.protocol(length),
                pattern,
                max_tokens: self.max_tokens,
            };
            measure(&mut table, "model", &llama, &documents, &config)?;
        }
        if self.json {
            print(&serde_json::to_string_pretty(&table)?);
        } else {
            print(&table.to_text());
        }
        Ok(())
    }

    fn protocol(&self, length: usize) -> Protocol {
        match self.protocol {
            ProtocolKind::WholeWindows => Protocol::WholeWindows { stride: self.stride },
            ProtocolKind::LastTokens => {
                Protocol::LastTokens { stride: self.stride.unwrap_or((length / 4).max(1)) }
            }
        }
    }
}

/// Measures one model at one length, and shows how far it is.
pub(crate) fn measure(
    table: &mut PerplexityTable,
    name: &str,
    llama: &Llama,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
) -> Result<()> {
    let mut progress = Progress::new();
    let what = format!("{name}, {} tokens", config.length);
    let measurement =
        perplexity(llama, documents, config, &mut |done, all| progress.part(&what, done, all))?;
    progress.finish();
    table.insert(name, measurement);
    Ok(())
}
