//! `longlora export` and `longlora convert`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device};
use longlora_attention::AttentionPattern;
use longlora_data::{
    Companions, Corpus, DataError, Tokenizer, gguf_metadata, split_otherwise_in_gguf,
};
use longlora_eval::{Difference, PerplexityConfig, PerplexityTable, Protocol, paired_difference};
use longlora_gguf::{TensorKind, is_gguf};
use longlora_llama::{
    AdapterFacts, Agreement, Llama, MAX_SHARD_BYTES, WeightStorage, agreement, load_pretrained,
    save_gguf, save_pretrained, write_atomically,
};
use serde_json::{Value, json};

use crate::destination::{Destination, FloatKind, Format};
use crate::device::DeviceArgs;
use crate::fingerprint::adapter_hashes;
use crate::model::{ModelArgs, model_folder};
use crate::perplexity::measure;
use crate::{GateFailed, print, say};

/// Tokens that are compared, unless the model's context is shorter or the user says otherwise.
const DEFAULT_VERIFY_LENGTH: usize = 512;
/// Tokens that the cost of RoPE offsets is measured on: as many as the table of a run.
const DEFAULT_MAX_TOKENS: usize = 65_536;

/// Merge an adapter into its model and write files that other programs load: a Hugging Face folder or a GGUF file.
///
/// The config gets the RoPE scaling and the new context; tokenizer and chat template come along. What was written is read
/// back and compared with the model in memory at the start of a text and at the end of the context, and the result is
/// recorded beside it, with the hashes of the adapter.
#[derive(clap::Args)]
pub(crate) struct Export {
    #[command(flatten)]
    model: ModelArgs,
    /// Where it goes, a folder, or a file if the name ends in .gguf; must not exist yet
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
    /// Leave learned RoPE offsets out that other programs cannot compute, and measure on --data what that costs
    #[arg(long)]
    drop_rope_offsets: bool,
    /// Text to measure the cost of --drop-rope-offsets on
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Measure that on the first so many tokens of documents that fill the context [default: 65536, or the context if that is
    /// longer]
    #[arg(long, value_name = "TOKENS", requires = "data")]
    max_tokens: Option<usize>,
}

/// Turn a model into another format without changing it: GGUF into a Hugging Face folder, or a folder into GGUF.
///
/// Quantised numbers are written as they are decoded. What was written is read back and compared.
#[derive(clap::Args)]
pub(crate) struct Convert {
    /// A GGUF file, a Hugging Face model folder, or the name of a model that was fetched
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Where it goes, a folder, or a file if the name ends in .gguf; must not exist yet
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(clap::Args, Clone, Copy)]
struct FormatArgs {
    /// Type of the numbers in matrices [default: f32 for `convert`, bf16 for `export`]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatKind>,
    /// Largest weight file of a folder, in bytes, or with KB, MB, GB, KiB, MiB or GiB [default: 5GB]
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    max_shard_size: Option<u64>,
    /// Tokens of the text that is read to compare what was written, at most the context [default: 512]
    #[arg(long, value_name = "TOKENS")]
    verify_length: Option<usize>,
}

impl Export {
    pub(crate) fn run(self) -> Result<()> {
        let destination = self.format.destination(&self.out, FloatKind::Bf16)?;
        ensure!(
            self.data.is_some() || !self.drop_rope_offsets,
            "--drop-rope-offsets changes what the model computes; give text as --data, and see what that costs"
        );
        ensure!(
            self.data.is_none() || self.drop_rope_offsets,
            "--data is for the cost of --drop-rope-offsets alone; give both or neither"
        );
        let facts = self.model.adapter().map(AdapterFacts::read).transpose()?.flatten();
        ensure!(
            !self.drop_rope_offsets || facts.is_some_and(|facts| facts.rope_offset().is_some()),
            "there are no RoPE offsets to drop; leave --drop-rope-offsets out"
        );
        let (source, tokenizer) = (self.model.folder()?, self.model.tokenizer_folder()?);
        let merged = self.model.load(WeightStorage::F32, None)?.merge();
        let (llama, dropped) = match &self.data {
            Some(data) => {
                let cost = self.cost_of_dropping(&merged, data)?;
                (merged.without_offsets(), Some(cost))
            }
            None => (merged.with_offsets_as_longrope()?, None),
        };
        let adapter = self.model.adapter().map(adapter_record).transpose()?;
        let device = self.model.device()?;
        Exported { llama, source, tokenizer, adapter, dropped, destination, device }.write()
    }

    /// Measures what leaving the RoPE offsets out costs, tells it, and returns it for the record.
    fn cost_of_dropping(&self, llama: &Llama, data: &Path) -> Result<Value> {
        let corpus = Corpus::read(data)?;
        let tokenizer = corpus.has_text().then(|| self.model.tokenizer()).transpose()?;
        let mut documents = corpus.tokenize(tokenizer.as_ref())?;
        let length = llama.config.rope.max_position_embeddings;
        if documents.iter().any(|document| document.len() >= length) {
            // The others fill no window, and would count as read.
            documents.retain(|document| document.len() >= length);
        }
        let config = PerplexityConfig {
            length,
            protocol: Protocol::WholeWindows { stride: None },
            pattern: AttentionPattern::Full,
            max_tokens: Some(self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS.max(length))),
        };
        let mut table = PerplexityTable::new();
        measure(&mut table, "with RoPE offsets", llama, &documents, &config)?;
        let without = llama.clone().without_offsets();
        measure(&mut table, "without", &without, &documents, &config)?;
        say(&table.to_text());
        let measured = |name| table.get(name, config.length).context("it was just measured");
        let with = measured("with RoPE offsets")?;
        let cost = paired_difference(measured("without")?, with)?;
        say(&format!("leaving them out costs {} nats per token", told(&cost)));
        Ok(json!({
            "data": data.to_string_lossy(),
            "length": length,
            "tokens": with.tokens,
            "nats_per_token": cost.nll,
            "standard_error": cost.standard_error,
        }))
    }
}

impl Convert {
    pub(crate) fn run(self) -> Result<()> {
        let destination = self.format.destination(&self.out, FloatKind::F32)?;
        let source = model_folder(&self.model)?;
        let device = self.device.open()?;
        let llama = load_pretrained(&source, &device)?;
        let (tokenizer, adapter, dropped) = (source.clone(), None, None);
        Exported { llama, source, tokenizer, adapter, dropped, destination, device }.write()
    }
}

impl FormatArgs {
    /// What is asked for at `out`. What cannot be is refused here, before a model is read.
    fn destination(&self, out: &Path, default: FloatKind) -> Result<Destination> {
        ensure!(
            !out.exists(),
            "`{}` exists already; choose another place, or remove it first",
            out.display()
        );
        let name = out.file_name().with_context(|| format!("`{}` names no file", out.display()))?;
        ensure!(
            self.verify_length != Some(0),
            "--verify-length is `0`; compare at least one token"
        );
        let dtype = self.dtype.unwrap_or(default);
        let format = if is_gguf(out) {
            ensure!(
                self.max_shard_size.is_none(),
                "a GGUF file is not cut into shards; leave --max-shard-size out"
            );
            Format::Gguf(dtype.of_gguf())
        } else {
            let max_shard_bytes = self.max_shard_size.unwrap_or(MAX_SHARD_BYTES);
            Format::Folder(dtype.of_folder()?, max_shard_bytes)
        };
        let name = name.to_string_lossy().into_owned();
        let verify_length = self.verify_length.unwrap_or(DEFAULT_VERIFY_LENGTH);
        let destination = Destination { out: out.to_owned(), name, dtype, format, verify_length };
        if let Some(beside) = destination.manifest_beside() {
            ensure!(
                !beside.exists(),
                "`{}` exists already, and would be replaced by what is told of `{}`; choose another place, or remove it first",
                beside.display(),
                out.display()
            );
        }
        Ok(destination)
    }
}

/// A model on its way out.
struct Exported {
    llama: Llama,
    /// The folder or file of the base model.
    source: PathBuf,
    /// The folder or file whose tokenizer comes along.
    tokenizer: PathBuf,
    /// What was merged, for the record.
    adapter: Option<Value>,
    /// What leaving RoPE offsets out costs, for the record, if they are left out.
    dropped: Option<Value>,
    destination: Destination,
    device: Device,
}

impl Exported {
    /// Writes under another name, reads back, compares, and only then gives it its own.
    fn write(self) -> Result<()> {
        let _lock = self.destination.claim()?;
        let agreements = self.make().inspect_err(|_| {
            if let Err(left) = self.destination.clear() {
                say(&format!("{left:#}"));
            }
        })?;
        for agreement in &agreements {
            say(&sentence(agreement));
        }
        print(&self.destination.out.display().to_string());
        Ok(())
    }

    /// All of it, up to its own name; what an error leaves is the caller's to clear.
    fn make(&self) -> Result<Vec<Agreement>> {
        let (staging, staged) = (self.destination.staging(), self.destination.staged());
        match self.destination.format {
            Format::Folder(dtype, max_shard_bytes) => {
                self.write_folder(&staged, dtype, max_shard_bytes)?;
            }
            Format::Gguf(kind) => self.write_gguf(&staged, kind)?,
        }
        let agreements = self.compare(&staged)?;
        if let Some(reason) = refusal(&agreements, self.destination.dtype.max_divergence()) {
            return Err(GateFailed(reason).into());
        }
        let manifest = format!("{:#}\n", self.manifest(&agreements));
        write_atomically(&staging.join(self.destination.manifest()), manifest.as_bytes())?;
        self.destination.publish()?;
        Ok(agreements)
    }

    fn write_folder(&self, folder: &Path, dtype: DType, max_shard_bytes: u64) -> Result<()> {
        let companions = self.companions()?;
        save_pretrained(&self.llama, folder, dtype, max_shard_bytes)?;
        Ok(companions.write(folder)?)
    }

    /// What goes with the weights: the base's, or the adapter's tokenizer with the base's settings of generation.
    fn companions(&self) -> Result<Companions> {
        let context = self.llama.config.rope.max_position_embeddings;
        let companions = Companions::read(&self.source, context)?;
        if self.tokenizer == self.source {
            return Ok(companions);
        }
        let known = Tokenizer::read(&self.tokenizer)?.vocab_size();
        let vocab_size = self.llama.config.vocab_size;
        if known > vocab_size {
            let token = known as u32 - 1;
            return Err(DataError::TokenOutsideVocabulary { token, vocab_size })
                .with_context(|| format!("`{}` has a tokenizer", self.tokenizer.display()));
        }
        Ok(companions.with_tokenizer_of(&self.tokenizer, context)?)
    }

    fn write_gguf(&self, file: &Path, kind: TensorKind) -> Result<()> {
        let tokenizer = gguf_metadata(&self.tokenizer, self.llama.config.vocab_size)
            .context("a GGUF file holds its tokenizer, too")?;
        if let Some(text) = split_otherwise_in_gguf(&self.tokenizer, &tokenizer)? {
            say(&format!(
                "GGUF cannot say all of this tokenizer: llama.cpp will split a text such as {text:?} otherwise"
            ));
        }
        Ok(save_gguf(&self.llama, file, kind, &tokenizer)?)
    }

    /// Reads it back through our own loaders. A folder need not have a tokenizer; one that it has must be readable.
    fn compare(&self, written: &Path) -> Result<Vec<Agreement>> {
        let again = load_pretrained(written, &self.device)?;
        if has_tokenizer(written) {
            Tokenizer::read(written)?;
        }
        let context = self.llama.config.rope.max_position_embeddings;
        let length = self.destination.verify_length.min(context).max(1);
        Ok(agreement(&self.llama, &again, &ids(length, self.llama.config.vocab_size)))
    }

    fn manifest(&self, agreements: &[Agreement]) -> Value {
        json!({
            "longlora_version": env!("CARGO_PKG_VERSION"),
            "source": self.source.to_string_lossy(),
            "adapter": self.adapter,
            "dropped_rope_offsets": self.dropped.is_some(),
            "cost_of_dropping": self.dropped,
            "dtype": format!("{:?}", self.destination.dtype).to_lowercase(),
            "context": self.llama.config.rope.max_position_embeddings,
            "read_back": agreements,
        })
    }
}

/// Where an adapter is, and what.
fn adapter_record(folder: &Path) -> Result<Value> {
    Ok(json!({ "path": folder.to_string_lossy(), "sha256": adapter_hashes(folder)? }))
}

/// Why what was written is not the model in memory, if it is not.
fn refusal(agreements: &[Agreement], limit: f64) -> Option<String> {
    let divergence = |agreement: &Agreement| agreement.mean_divergence;
    let beyond = |divergence: &f64| divergence.is_nan() || *divergence > limit;
    let divergence = agreements.iter().map(divergence).find(beyond)?;
    Some(if divergence.is_finite() {
        format!(
            "what was written computes something else: its predictions diverge by `{divergence:.3}` nats, and \
             `{limit}` is the limit; it was removed"
        )
    } else {
        "what was written predicts nothing finite, as happens when a number is too large for its type; try --dtype \
         bf16 or f32; it was removed"
            .to_owned()
    })
}

/// Spread over the vocabulary, the same in every run: what is compared is arithmetic, not language.
fn ids(length: usize, vocab_size: usize) -> Vec<u32> {
    (0..length as u64).map(|i| (i * i * 2_654_435_761 % vocab_size as u64) as u32).collect()
}

fn sentence(agreement: &Agreement) -> String {
    let Agreement { first_position, positions, largest_difference, largest_logit, .. } = agreement;
    format!(
        "read back: positions {first_position} to {}: logits differ by at most {largest_difference:.1e} of {largest_logit:.1}, predictions by {:.1e} nats, {} of {positions} choices are the same",
        first_position + positions - 1,
        agreement.mean_divergence.max(0.0),
        agreement.same_choice,
    )
}

fn told(cost: &Difference) -> String {
    match cost.standard_error {
        Some(error) => format!("{:+.4} ± {error:.4}", cost.nll),
        None => format!("{:+.4}", cost.nll),
    }
}

/// Every GGUF file has to have one.
fn has_tokenizer(model: &Path) -> bool {
    is_gguf(model) || model.join("tokenizer.json").exists()
}

/// `5000000`, `5MB` or `5 GB` in powers of ten, as Hugging Face counts, `5GiB` in powers of two.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let name = &text[digits.len()..];
    let unit = match name.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err(format!("`{name}` is no unit; use KB, MB, GB, KiB, MiB or GiB")),
    };
    let number: u64 =
        digits.trim().parse().map_err(|_| "needs a whole number, as in 5GB".to_owned())?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("needs at least one byte, and less than 18 exabytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::MAX_DIVERGENCE;

    #[test]
    fn what_diverges_or_is_not_finite_is_refused_wherever_it_is() {
        let part = |mean_divergence| Agreement {
            first_position: 0,
            positions: 64,
            largest_difference: 0.1,
            largest_logit: 17.0,
            mean_divergence,
            same_choice: 64,
        };
        let refused = |parts: [f64; 2]| refusal(&parts.map(part), MAX_DIVERGENCE);
        // Rounding can take a mean of zero below it.
        assert_eq!(refused([0.0, 0.0]), None);
        assert_eq!(refused([-1e-9, MAX_DIVERGENCE]), None);
        for parts in [[0.0, 0.06], [0.06, 0.0]] {
            let reason = refused(parts).unwrap();
            assert!(reason.contains("`0.060` nats") && reason.contains("`0.05`"), "{reason}");
        }
        for bad in [f64::NAN, f64::INFINITY] {
            for parts in [[0.0, bad], [bad, 0.0]] {
                assert!(refused(parts).unwrap().contains("nothing finite"), "{parts:?}");
            }
        }
    }

    #[test]
    fn bytes_are_counted_in_powers_of_ten_or_of_two() {
        let counted = [
            ("5000000", 5_000_000),
            ("1b", 1),
            ("3KB", 3_000),
            ("5 GB", 5_000_000_000),
            ("3kib", 3_072),
            ("2 MiB", 2_097_152),
            ("5GiB", 5_368_709_120),
        ];
        for (text, expected) in counted {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "0GB", "MB", "-1", "1.5GB", "5XB", "5TiB", "99999999999999GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(
            bytes("5XB"),
            Err("`XB` is no unit; use KB, MB, GB, KiB, MiB or GiB".to_owned())
        );
    }
}
