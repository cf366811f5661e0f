//! `longlora export` and `longlora convert`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{DType, Device};
use clap::ValueEnum;
use longlora_attention::AttentionPattern;
use longlora_data::{Corpus, Tokenizer, copy_companions, gguf_metadata, save_gguf_tokenizer};
use longlora_eval::{Difference, PerplexityConfig, PerplexityTable, Protocol, paired_difference};
use longlora_gguf::{GgufFile, TensorKind};
use longlora_llama::{
    Agreement, Llama, agreement, load_pretrained, save_gguf, save_pretrained, write_atomically,
};
use serde_json::{Value, json};

use crate::device::DeviceKind;
use crate::model::{ModelArgs, model_folder};
use crate::perplexity::measure;
use crate::{GateFailed, print, say};

/// Mean divergence in nats beyond which an exported model is another one, not a rounded one. Q8_0 stays far below.
const MAX_DIVERGENCE: f64 = 0.05;
/// Tokens that are compared, unless the model's context is shorter or the user says otherwise.
const DEFAULT_VERIFY_LENGTH: usize = 2048;
/// The record of an export, in its folder; beside a GGUF file it has the file's name before it.
const MANIFEST: &str = "longlora_export.json";

/// Merge an adapter into its model and write files that other programs load: a Hugging Face folder or a GGUF file.
///
/// The config gets the RoPE scaling and the new context; tokenizer and chat template come along. What was written is read
/// back and compared with the model in memory at short and at long positions, and the result is recorded beside it.
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
    #[arg(long, requires = "data")]
    drop_rope_offsets: bool,
    /// Text to measure the cost of --drop-rope-offsets on
    #[arg(long, value_name = "PATH", requires = "drop_rope_offsets")]
    data: Option<PathBuf>,
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
    /// Where to compute
    #[arg(long, value_name = "DEVICE", default_value = "flex")]
    device: DeviceKind,
}

#[derive(clap::Args)]
struct FormatArgs {
    /// Type of the numbers in matrices [default: f32 for `convert`, bf16 for `export`]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatKind>,
    /// Largest weight file of a folder, in bytes, with or without KB, MB or GB
    #[arg(long, value_name = "BYTES", default_value = "5GB", value_parser = bytes)]
    max_shard_size: u64,
    /// Tokens that are read to compare what was written [default: the context, at most 2048]
    #[arg(long, value_name = "TOKENS")]
    verify_length: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum FloatKind {
    /// 4 bytes: nothing is rounded
    F32,
    /// 2 bytes
    F16,
    /// 2 bytes, with the range of f32
    Bf16,
    /// GGUF only: 34 bytes for 32 numbers
    #[value(name = "q8_0")]
    Q8_0,
}

impl Export {
    pub(crate) fn run(self) -> Result<()> {
        refuse_existing(&self.out)?;
        let source = self.model.folder()?;
        let merged = self.model.load(None)?.merge();
        let llama = if self.drop_rope_offsets {
            self.print_cost_of_dropping(&merged)?;
            merged.without_offsets()
        } else {
            merged.with_offsets_as_longrope()?
        };
        let dtype = self.format.dtype.unwrap_or(FloatKind::Bf16);
        let device = self.model.device();
        Exported { llama, source, out: self.out, dtype, format: self.format, device }.write()
    }

    fn print_cost_of_dropping(&self, llama: &Llama) -> Result<()> {
        let data = self.data.as_ref().context("--drop-rope-offsets needs --data")?;
        let corpus = Corpus::read(data)?;
        let tokenizer = corpus.has_text().then(|| self.model.tokenizer()).transpose()?;
        let documents = corpus.tokenize(tokenizer.as_ref())?;
        let config = PerplexityConfig {
            length: llama.config.rope.max_position_embeddings,
            protocol: Protocol::WholeWindows { stride: None },
            pattern: AttentionPattern::Full,
            max_tokens: None,
        };
        let mut table = PerplexityTable::new();
        measure(&mut table, "with RoPE offsets", llama, &documents, &config)?;
        let without = llama.clone().without_offsets();
        measure(&mut table, "without", &without, &documents, &config)?;
        say(&table.to_text());
        let measured = |name| table.get(name, config.length).context("it was just measured");
        let cost = paired_difference(measured("without")?, measured("with RoPE offsets")?)?;
        say(&format!("leaving them out costs {} nats per token", told(&cost)));
        Ok(())
    }
}

impl Convert {
    pub(crate) fn run(self) -> Result<()> {
        refuse_existing(&self.out)?;
        let source = model_folder(&self.model)?;
        let device = self.device.open();
        let llama = load_pretrained(&source, &device)?;
        let dtype = self.format.dtype.unwrap_or(FloatKind::F32);
        Exported { llama, source, out: self.out, dtype, format: self.format, device }.write()
    }
}

/// A model on its way out.
struct Exported {
    llama: Llama,
    /// The folder or file whose tokenizer comes along.
    source: PathBuf,
    out: PathBuf,
    dtype: FloatKind,
    format: FormatArgs,
    device: Device,
}

impl Exported {
    /// Writes under another name, reads back, compares, and only then gives it its own.
    fn write(self) -> Result<()> {
        let partial = partial_path(&self.out)?;
        remove(&partial)?;
        let written = if is_gguf(&self.out) {
            self.write_gguf(&partial)
        } else {
            self.write_folder(&partial)
        };
        let verified = written.and_then(|()| self.verify(&partial));
        let agreements = match verified {
            Ok(agreements) => agreements,
            Err(error) => {
                remove(&partial)?;
                return Err(error);
            }
        };
        let manifest = self.manifest(&agreements);
        let manifest = format!("{manifest:#}\n");
        let inside = if is_gguf(&self.out) { None } else { Some(partial.join(MANIFEST)) };
        let beside = self.out.with_file_name(format!("{}.{MANIFEST}", file_name(&self.out)?));
        write_atomically(inside.as_ref().unwrap_or(&beside), manifest.as_bytes())?;
        fs::rename(&partial, &self.out)
            .with_context(|| format!("cannot write `{}`", self.out.display()))?;
        for agreement in &agreements {
            say(&sentence(agreement));
        }
        print(&self.out.display().to_string());
        Ok(())
    }

    fn write_folder(&self, folder: &Path) -> Result<()> {
        let dtype = match self.dtype {
            FloatKind::F32 => DType::F32,
            FloatKind::F16 => DType::F16,
            FloatKind::Bf16 => DType::BF16,
            FloatKind::Q8_0 => {
                bail!("a Hugging Face folder has no type `q8_0`; use f32, f16 or bf16")
            }
        };
        save_pretrained(&self.llama, folder, dtype, self.format.max_shard_size)?;
        if is_gguf(&self.source) {
            Ok(save_gguf_tokenizer(&GgufFile::open(&self.source)?, folder)?)
        } else {
            let context = self.llama.config.rope.max_position_embeddings;
            Ok(copy_companions(&self.source, folder, context)?)
        }
    }

    fn write_gguf(&self, file: &Path) -> Result<()> {
        let kind = match self.dtype {
            FloatKind::F32 => TensorKind::F32,
            FloatKind::F16 => TensorKind::F16,
            FloatKind::Bf16 => TensorKind::BF16,
            FloatKind::Q8_0 => TensorKind::Q8_0,
        };
        let tokenizer = gguf_metadata(&self.source, self.llama.config.vocab_size)?;
        Ok(save_gguf(&self.llama, file, kind, &tokenizer)?)
    }

    /// Reads it back through our own loader, the tokenizer too.
    fn verify(&self, written: &Path) -> Result<Vec<Agreement>> {
        let again = load_pretrained(written, &self.device)?;
        Tokenizer::read(written)?;
        let context = self.llama.config.rope.max_position_embeddings;
        let length = self.format.verify_length.unwrap_or(DEFAULT_VERIFY_LENGTH).min(context);
        ensure!(length > 0, "--verify-length is `0`; compare at least one token");
        let agreements = agreement(&self.llama, &again, &ids(length, self.llama.config.vocab_size));
        let worst = agreements.iter().map(|agreement| agreement.mean_divergence);
        let worst = worst.fold(0.0, f64::max);
        if worst.is_nan() || worst > MAX_DIVERGENCE {
            let reason = format!(
                "what was written computes something else: its predictions diverge by `{worst:.3}` nats, and `{MAX_DIVERGENCE}` is the limit; it was removed"
            );
            return Err(GateFailed(reason).into());
        }
        Ok(agreements)
    }

    fn manifest(&self, agreements: &[Agreement]) -> Value {
        json!({
            "longlora_version": env!("CARGO_PKG_VERSION"),
            "source": self.source,
            "dtype": format!("{:?}", self.dtype).to_lowercase(),
            "context": self.llama.config.rope.max_position_embeddings,
            "read_back": agreements,
        })
    }
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

fn refuse_existing(out: &Path) -> Result<()> {
    ensure!(
        !out.exists(),
        "`{}` exists already; choose another place, or remove it first",
        out.display()
    );
    Ok(())
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

fn file_name(out: &Path) -> Result<String> {
    let name = out.file_name().with_context(|| format!("`{}` names no file", out.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Beside the place where it goes, so that a rename is enough; a GGUF file keeps its extension.
fn partial_path(out: &Path) -> Result<PathBuf> {
    Ok(out.with_file_name(format!(".partial-{}", file_name(out)?)))
}

/// What an interrupted export left.
fn remove(partial: &Path) -> Result<()> {
    let removed = match partial {
        folder if folder.is_dir() => fs::remove_dir_all(folder),
        file if file.exists() => fs::remove_file(file),
        _ => return Ok(()),
    };
    removed.with_context(|| format!("cannot remove `{}`", partial.display()))
}

/// `5000000`, `5MB` or `5 GB`; powers of ten, as Hugging Face counts.
fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => return Err(format!("`{other}` is no unit; use KB, MB or GB")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| "needs a number of bytes".to_owned())?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("needs at least one byte, and less than 18 exabytes".to_owned()),
    }
}
