//! A model to measure or to run, from the command line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use longlora_adapters::RopeKind;
use longlora_data::Tokenizer;
use longlora_llama::{
    AdapterFacts, Llama, LlamaConfig, WeightStorage, load_adapter, load_pretrained_as,
};

use crate::device::DeviceArgs;
use crate::places::command;

/// A scaling that would be ignored is refused: a model keeps its own RoPE as far as that reaches.
pub(crate) fn refuse_needless_scaling(base: &LlamaConfig, length: usize) -> Result<()> {
    let reach = base.rope.max_position_embeddings;
    ensure!(
        length > reach,
        "the model reaches `{reach}` tokens by itself, so `{length}` need no --rope-scaling; leave it out"
    );
    Ok(())
}

/// What `--model` means: a path that exists; or else the name of a model that was fetched. Never asks the network.
pub(crate) fn model_folder(given: &Path) -> Result<PathBuf> {
    let Err(error) = fs::metadata(given) else { return Ok(given.to_owned()) };
    let name = given.to_str().filter(|name| longlora_hub::is_model_name(name));
    let Some(name) = name else {
        bail!(
            "cannot open `{}`: {error}; check the path, or name a model that `longlora fetch OWNER/NAME` has fetched",
            given.display()
        );
    };
    let fetched =
        longlora_hub::default_cache().and_then(|cache| longlora_hub::cached(name, &cache));
    fetched.with_context(|| {
        let fetch = command(&format!("fetch {name}"));
        format!("`{name}` is neither a folder nor in the cache; `{fetch}` fetches it")
    })
}

/// How the matrices of a model are kept; the CPU computes in f32 either way.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum WeightKind {
    /// 4 bytes per weight
    F32,
    /// 2 bytes per weight: exact if the file is in bf16, rounded to the nearest otherwise
    Bf16,
}

impl From<WeightKind> for WeightStorage {
    fn from(kind: WeightKind) -> Self {
        match kind {
            WeightKind::F32 => Self::F32,
            WeightKind::Bf16 => Self::Bf16,
        }
    }
}

/// A type that the device has no arithmetic for is refused: what it would compute depends on its driver.
pub(crate) fn refuse_unsupported(weights: WeightStorage, device: &Device) -> Result<()> {
    let supported = match weights {
        WeightStorage::F32 => true,
        WeightStorage::Bf16 => device.supports_dtype(DType::BF16),
    };
    ensure!(
        supported,
        "this device does not compute with `bf16`; keep the weights in f32, with --weights f32"
    );
    Ok(())
}

/// A base model, with an adapter or without.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Hugging Face model folder or GGUF file, or the name of a model that `longlora fetch` has fetched
    #[arg(long, value_name = "PATH|OWNER/NAME")]
    model: PathBuf,
    /// PEFT adapter folder, such as the `adapter` of a run
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl ModelArgs {
    /// As the command line names it.
    pub(crate) fn device_name(&self) -> String {
        self.device.to_string()
    }

    /// The model as the command line names it.
    pub(crate) fn named(&self) -> String {
        self.model.display().to_string()
    }

    /// The model on its plain device. `stretch` gives a base model another position embedding; an adapter has its own.
    pub(crate) fn load(
        &self,
        weights: WeightStorage,
        stretch: Option<(RopeKind, usize)>,
    ) -> Result<Llama> {
        let model = model_folder(&self.model)?;
        self.check_adapter()?;
        if let Some((_, length)) = stretch {
            refuse_needless_scaling(&LlamaConfig::read(&model)?, length)?;
        }
        let device = self.device.open()?;
        refuse_unsupported(weights, &device)?;
        load_stretched(&model, weights, stretch, &device, self.adapter.as_deref())
    }

    /// The model as it was before the adapter.
    pub(crate) fn load_base(&self, weights: WeightStorage) -> Result<Llama> {
        let device = self.device.open()?;
        refuse_unsupported(weights, &device)?;
        load_stretched(&model_folder(&self.model)?, weights, None, &device, None)
    }

    /// Refuses a folder that is no adapter's, before a model is read.
    pub(crate) fn check_adapter(&self) -> Result<()> {
        if let Some(adapter) = &self.adapter {
            AdapterFacts::read(adapter)?;
        }
        Ok(())
    }

    /// The adapter's folder.
    pub(crate) fn adapter(&self) -> Option<&Path> {
        self.adapter.as_deref()
    }

    /// Where the base model lies.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        model_folder(&self.model)
    }

    pub(crate) fn device(&self) -> Result<Device> {
        self.device.open()
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(Tokenizer::read(&model_folder(&self.model)?)?)
    }
}

pub(crate) fn load_stretched(
    model: &Path,
    weights: WeightStorage,
    stretch: Option<(RopeKind, usize)>,
    device: &Device,
    adapter: Option<&Path>,
) -> Result<Llama> {
    let mut llama = load_pretrained_as(model, weights, device)?;
    if let Some((kind, length)) = stretch {
        llama.config.rope = llama.config.rope.extended(kind, length)?;
        llama.config.rope.validate()?;
    }
    Ok(match adapter {
        None => llama,
        Some(adapter) => load_adapter(llama, adapter)?.0.valid(),
    })
}
