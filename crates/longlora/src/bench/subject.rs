//! The model to measure with, and what it reads.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use clap::Args;
use longlora_data::{Corpus, Tokenizer};
use longlora_llama::{LlamaConfig, WeightStorage};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;

use crate::model::{WeightKind, model_folder, refuse_unsupported};

/// Tokens at the front of a text that are left out: titles and licences.
const FIRST_TOKEN: usize = 1000;

/// A model, and text for it.
#[derive(Args)]
pub(super) struct Subject {
    #[command(flatten)]
    model: ShapeArgs,
    /// What to read, from its token 1,000 on: a .txt, .md, .jsonl or .jsonl.gz (field `text`), .json or .bin (token ids)
    /// file [default: random ids]
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How the matrices of the model are kept
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
}

/// A model of which the sizes alone matter.
#[derive(Args)]
pub(super) struct ShapeArgs {
    /// Hugging Face model folder or GGUF file, or the name of a model that `longlora fetch` has fetched [default: random
    /// weights in the shape of SmolLM2-135M]
    #[arg(long, value_name = "PATH|OWNER/NAME")]
    model: Option<PathBuf>,
}

/// Where the model to measure with lies.
pub(super) enum ModelFolder {
    /// The user's.
    Given(PathBuf),
    /// Random weights, gone when this is dropped.
    Random(TempDir),
}

impl ModelFolder {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Random(folder) => folder.path(),
        }
    }
}

impl ShapeArgs {
    pub(super) fn config(&self) -> Result<LlamaConfig> {
        match &self.model {
            Some(model) => Ok(LlamaConfig::read(&model_folder(model)?)?),
            None => smollm2(),
        }
    }

    /// Random weights are drawn by another process, so that this one's peak of memory is that of what is measured.
    fn folder(&self) -> Result<ModelFolder> {
        if let Some(model) = &self.model {
            return Ok(ModelFolder::Given(model_folder(model)?));
        }
        let folder = TempDir::new().context("cannot create a folder for random weights")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let drawn = Command::new(program)
            .args(["bench", "model", "--json", "--out"])
            .arg(folder.path())
            .output()
            .context("cannot start this program again to draw random weights")?;
        let said = String::from_utf8_lossy(&drawn.stderr);
        ensure!(drawn.status.success(), "drawing random weights failed: {}", said.trim());
        Ok(ModelFolder::Random(folder))
    }
}

impl Subject {
    pub(super) fn config(&self) -> Result<LlamaConfig> {
        self.model.config()
    }

    pub(super) fn folder(&self) -> Result<ModelFolder> {
        self.model.folder()
    }

    /// As the command line names it.
    pub(super) fn weights_name(&self) -> String {
        WeightStorage::from(self.weights).to_string()
    }

    /// How its matrices are kept, on a device that can.
    pub(super) fn weights(&self, device: &Device) -> Result<WeightStorage> {
        let weights = self.weights.into();
        refuse_unsupported(weights, device)?;
        Ok(weights)
    }

    /// `count` token ids.
    pub(super) fn tokens(&self, model: &ModelFolder, count: usize) -> Result<Vec<u32>> {
        let vocab_size = LlamaConfig::read(model.path())?.vocab_size;
        let Some(data) = &self.data else { return random_ids(count, vocab_size) };
        let corpus = Corpus::read(data)?;
        let tokenizer = corpus.has_text().then(|| Tokenizer::read(model.path())).transpose()?;
        let first = corpus.tokenize(tokenizer.as_ref())?.swap_remove(0);
        let (path, there, needed) = (data.display(), first.len(), FIRST_TOKEN + count);
        ensure!(there >= needed, "`{path}` has `{there}` tokens, and `{needed}` are needed");
        Ok(first[FIRST_TOKEN..needed].to_vec())
    }
}

fn random_ids(count: usize, vocab_size: usize) -> Result<Vec<u32>> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let vocab_size = u32::try_from(vocab_size).context("the vocabulary is too large")?;
    Ok((0..count).map(|_| random.random_range(0..vocab_size)).collect())
}

/// The architecture of SmolLM2-135M, from its `config.json`.
pub(super) fn smollm2() -> Result<LlamaConfig> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rope_theta": 100_000.0, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
    });
    let config = config.as_object().context("it is an object")?.clone();
    Ok(LlamaConfig::from_hugging_face(config, Path::new("SmolLM2-135M"))?)
}
