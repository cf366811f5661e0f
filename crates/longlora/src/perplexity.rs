//! `longlora eval perplexity`

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use longlora_attention::AttentionPattern;
use longlora_data::Corpus;
use longlora_eval::{
    Divergence, Grid, Measurement, PerplexityConfig, PerplexityTable, PositionBin, Protocol,
    divergence, perplexity,
};
use longlora_llama::{Llama, WeightStorage};

use crate::count::refuse_twice;
use crate::model::{ModelArgs, WeightKind};
use crate::pattern::PatternArgs;
use crate::print;
use crate::progress::Progress;

/// How a table names the model.
const MODEL: &str = "model";

/// Perplexity of a model on your documents, at one or several context lengths, with its standard error.
///
/// Tokens are weighted equally. Attention is full unless a pattern is given.
#[derive(clap::Args)]
pub(crate) struct Perplexity {
    #[command(flatten)]
    model: ModelArgs,
    /// How the matrices of the model are kept: bf16 takes half the memory of f32, nf4 a seventh for the layers
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// What to measure on: a .txt, .md, .jsonl or .jsonl.gz (field `text`), .json or .bin (token ids) file, or a folder of
    /// them
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
    #[command(flatten)]
    pattern: PatternArgs,
    /// Show the loss by position in the window, too: what is gained by a longer context
    #[arg(long)]
    by_position: bool,
    /// Compare the predictions under the attention pattern with those under full attention, too, by their
    /// Kullback-Leibler divergence
    #[arg(long)]
    divergence: bool,
    /// Print the measurements as JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ProtocolKind {
    /// Every prediction of every window counts; LongLoRA's with `--stride 256`
    WholeWindows,
    /// Only the last tokens of each sliding window count, so that all but a document's first have a long context (Hugging Face's)
    LastTokens,
}

impl Perplexity {
    pub(crate) fn run(self) -> Result<()> {
        refuse_twice("--lengths", &self.lengths)?;
        let longest = self.lengths.iter().copied().max().unwrap_or_default();
        let pattern = self.pattern.over(AttentionPattern::Full)?;
        ensure!(
            !self.divergence || pattern != AttentionPattern::Full,
            "--divergence compares a pattern with full attention; name one with --attention"
        );
        let llama = self.model.load(self.weights.into(), Some(longest))?;
        let corpus = Corpus::read(&self.data)?;
        let tokenizer = corpus.has_text().then(|| self.model.tokenizer()).transpose()?;
        let documents = corpus.tokenize(tokenizer.as_ref())?;
        let mut table = PerplexityTable::new();
        let mut divergences = vec![];
        for &length in &self.lengths {
            let config = PerplexityConfig {
                length,
                protocol: self.protocol(length),
                pattern,
                max_tokens: self.max_tokens,
            };
            measure(&mut table, MODEL, &llama, &documents, &config)?;
            if self.divergence {
                divergences.push(diverge(&llama, &documents, &config)?);
            }
        }
        self.show(&table, &divergences)
    }

    fn show(&self, table: &PerplexityTable, divergences: &[Divergence]) -> Result<()> {
        if self.json {
            let mut json = serde_json::to_value(table)?;
            json["weights"] = WeightStorage::from(self.weights).to_string().into();
            if self.divergence {
                json["divergences"] = serde_json::to_value(divergences)?;
            }
            print(&serde_json::to_string_pretty(&json)?);
            return Ok(());
        }
        print(&table.to_text());
        if self.by_position {
            for length in table.lengths() {
                table
                    .get(MODEL, length)
                    .into_iter()
                    .for_each(|measured| print(&positions(measured)));
            }
        }
        divergences.iter().for_each(|divergence| print(&in_words(divergence)));
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

fn diverge(llama: &Llama, documents: &[Vec<u32>], config: &PerplexityConfig) -> Result<Divergence> {
    let mut progress = Progress::new();
    let what = format!("divergence, {} tokens", config.length);
    let mut show = |done, all| progress.window(&what, done, all);
    let divergence = divergence(llama, documents, config, &mut show)?;
    progress.finish();
    Ok(divergence)
}

fn in_words(divergence: &Divergence) -> String {
    let error = divergence.divergence_standard_error;
    format!(
        "at {} tokens the predictions diverge from those under full attention by {:.5}{} nats per token; {:.1} % have the \
         same likeliest token",
        divergence.length,
        divergence.divergence,
        error.map_or(String::new(), |error| format!(" ± {error:.5}")),
        100.0 * divergence.same_choice
    )
}

/// Loss by position, for a terminal.
fn positions(measured: &Measurement) -> String {
    let row = |bin: &PositionBin| {
        let error = bin.nll_standard_error.map_or(String::new(), |error| format!(" ± {error:.3}"));
        let tokens = format!("{} to {}", bin.start, bin.end - 1);
        vec![tokens, bin.tokens.to_string(), format!("{:.3}{error}", bin.nll())]
    };
    let head = [&format!("tokens before, of {}", measured.length), "scored", "nats ± SE"];
    let head = head.map(str::to_owned).to_vec();
    Grid { head, rows: measured.positions.iter().map(row).collect() }.to_text()
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
        perplexity(llama, documents, config, &mut |done, all| progress.window(&what, done, all))?;
    progress.finish();
    table.insert(name, measurement);
    Ok(())
}
