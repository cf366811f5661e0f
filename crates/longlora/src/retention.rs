//! `longlora eval retention`

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use longlora_attention::AttentionPattern;
use longlora_data::Corpus;
use longlora_eval::{Grid, Interval, PerplexityConfig, PerplexityTable, Protocol, Retention};
use longlora_llama::{Llama, LlamaConfig, WeightStorage};

use crate::comparison::refuse_short;
use crate::model::{ModelArgs, WeightKind, load_stretched, model_folder, refuse_unsupported};
use crate::perplexity::measure;
use crate::{GateFailed, print};

const BEFORE: &str = "base";
const AFTER: &str = "extended";
/// Over [`cells`].
pub(crate) const HEAD: [&str; 5] = ["length", "before", "after", "change", "95 % interval"];

/// What the short context lost: perplexity at the model's own length and below, with the adapter and without it, or of a
/// fully fine-tuned model and of what it was.
///
/// A gate: the exit code is 2 if it rose by more than --max-increase at any length.
#[derive(clap::Args)]
pub(crate) struct RetentionCheck {
    #[command(flatten)]
    model: ModelArgs,
    /// The model as it was before, if --model is a fine-tuned one without an adapter, such as the `model` of a run with --full
    #[arg(long, value_name = "PATH|OWNER/NAME", conflicts_with = "adapter")]
    base: Option<PathBuf>,
    /// How the matrices of the model are kept: bf16 takes half the memory of f32, nf4 a seventh for the layers
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// What to measure on: a .txt, .md, .jsonl or .jsonl.gz (field `text`), .json or .bin (token ids) file, or a folder of
    /// them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Context lengths in tokens, separated by commas [default: the model's own, its half and its quarter]
    #[arg(long, value_name = "TOKENS,…", value_delimiter = ',')]
    lengths: Vec<usize>,
    /// Measure on the first so many tokens alone
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Largest rise of the perplexity, as a share: 0.05 is 5 %
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    max_increase: f64,
    /// Print the comparison as JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl RetentionCheck {
    pub(crate) fn run(self) -> Result<()> {
        ensure!(
            self.model.adapter().is_some() || self.base.is_some(),
            "without an --adapter nothing can have been lost; give the folder of one, or with --base the model that this one \
             was fine-tuned from"
        );
        ensure!(
            self.max_increase >= 0.0,
            "a --max-increase of `{}` is no share; use 0 or more",
            self.max_increase
        );
        refuse_short("--lengths", &self.lengths)?;
        self.model.stretch(None)?;
        self.refuse_stranger()?;
        let corpus = Corpus::read(&self.data)?;
        let tokenizer = corpus.has_text().then(|| self.model.tokenizer()).transpose()?;
        let documents = corpus.tokenize(tokenizer.as_ref())?;
        let lengths = self.lengths()?;
        let storage = WeightStorage::from(self.weights);
        let mut table = PerplexityTable::new();
        self.fill(&mut table, BEFORE, &self.load_before(storage)?, &documents, &lengths)?;
        self.fill(&mut table, AFTER, &self.model.load(storage, None)?, &documents, &lengths)?;
        let rows = retained(&table, BEFORE, AFTER)?;
        if self.json {
            print(&serde_json::to_string_pretty(&rows)?);
        } else {
            print(&to_text(&rows));
        }
        gate(&rows, self.max_increase)
    }

    fn lengths(&self) -> Result<Vec<usize>> {
        if !self.lengths.is_empty() {
            return Ok(self.lengths.clone());
        }
        let own = LlamaConfig::read(&self.before()?)?.rope.original_context();
        Ok([own / 4, own / 2, own].into_iter().filter(|length| *length >= 2).collect())
    }

    /// Where the model lies that all of this was made from.
    fn before(&self) -> Result<PathBuf> {
        match &self.base {
            Some(base) => model_folder(base),
            None => self.model.folder(),
        }
    }

    fn load_before(&self, storage: WeightStorage) -> Result<Llama> {
        let Some(base) = &self.base else { return self.model.load_base(storage) };
        let device = self.model.device()?;
        refuse_unsupported(storage, &device)?;
        load_stretched(&model_folder(base)?, storage, None, &device, None)
    }

    /// A base whose tokens are others would be measured on another text.
    fn refuse_stranger(&self) -> Result<()> {
        let Some(base) = &self.base else { return Ok(()) };
        let [before, after] = [self.before()?, self.model.folder()?];
        let [before, after] = [LlamaConfig::read(&before)?, LlamaConfig::read(&after)?];
        if before.vocab_size != after.vocab_size {
            bail!(
                "--base `{}` has a vocabulary of `{}`, and --model of `{}`: one was not made from the other; give the model that \
                 was fine-tuned",
                base.display(),
                before.vocab_size,
                after.vocab_size
            );
        }
        Ok(())
    }

    fn fill(
        &self,
        table: &mut PerplexityTable,
        name: &str,
        llama: &Llama,
        documents: &[Vec<u32>],
        lengths: &[usize],
    ) -> Result<()> {
        for &length in lengths {
            let config = PerplexityConfig {
                length,
                protocol: Protocol::WholeWindows { stride: None },
                pattern: AttentionPattern::Full,
                max_tokens: self.max_tokens,
            };
            measure(table, name, llama, documents, &config)?;
        }
        Ok(())
    }
}

/// The lengths that both were measured at.
pub(crate) fn retained(
    table: &PerplexityTable,
    before: &str,
    after: &str,
) -> Result<Vec<Retention>> {
    let pair = |length: usize| Some((table.get(before, length)?, table.get(after, length)?));
    let pairs = table.lengths().into_iter().filter_map(pair);
    pairs.map(|(before, after)| Ok(Retention::of(before, after)?)).collect()
}

fn to_text(rows: &[Retention]) -> String {
    let head = HEAD.map(str::to_owned).to_vec();
    Grid { head, rows: rows.iter().map(cells).collect() }.to_text()
}

/// A row of a table.
pub(crate) fn cells(row: &Retention) -> Vec<String> {
    let percent = |share: f64| format!("{:+.2} %", 100.0 * share);
    let interval = row.interval.map_or("-".to_owned(), |Interval { low, high, .. }| {
        format!("{} to {}", percent(low), percent(high))
    });
    vec![
        row.length.to_string(),
        format!("{:.3}", row.before),
        format!("{:.3}", row.after),
        percent(row.increase),
        interval,
    ]
}

/// Tells of the largest rise.
fn gate(rows: &[Retention], limit: f64) -> Result<()> {
    let failed = rows.iter().filter(|row| !row.passes(limit));
    let Some(worst) = failed.max_by(|a, b| a.increase.total_cmp(&b.increase)) else {
        return Ok(());
    };
    Err(GateFailed(format!(
        "at `{}` tokens the perplexity changed by `{:+.2} %`, and `{:.2} %` are allowed; train for a shorter context or \
         less, mix in short texts, or raise --max-increase",
        worst.length,
        100.0 * worst.increase,
        100.0 * limit
    ))
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_tells_of_the_largest_rise() {
        let row = |(length, increase): (usize, f64)| Retention {
            length,
            before: 1.0,
            after: 1.0 + increase,
            increase,
            interval: None,
        };
        let rows = [(128, 0.06), (256, 0.5), (512, 0.07), (1024, 0.01)].map(row);
        let error = gate(&rows, 0.05).unwrap_err().to_string();
        assert!(error.contains("at `256` tokens") && error.contains("`+50.00 %`"), "{error}");
        gate(&rows, 0.5).unwrap();
        gate(&rows[3..], 0.05).unwrap();
        let broken = [(128, 0.06), (256, f64::NAN)].map(row);
        assert!(gate(&broken, 0.05).unwrap_err().to_string().contains("at `256` tokens"));
    }
}
