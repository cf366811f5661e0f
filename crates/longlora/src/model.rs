//! A model to measure or to run, from the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result, bail, ensure};
use burn::module::Module;
use burn::tensor::{DType, Device};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use longlora_adapters::{RopeKind, RopeScaling};
use longlora_data::Tokenizer;
use longlora_llama::{
    AdapterFacts, BaseModel, LayersInNf4, Llama, LlamaConfig, WeightStorage, load_adapter,
    load_pretrained_as, model_files,
};

use crate::count::tokens;
use crate::device::DeviceArgs;
use crate::places::command;
use crate::say;

/// Reading so much takes long enough to ask what is going on.
const MANY_BYTES: ByteSize = ByteSize::gib(1);

/// A scaling that would be ignored is refused: a model keeps its own RoPE as far as that reaches. `none` is what a model
/// without any keeps.
pub(crate) fn refuse_needless_scaling(
    base: &LlamaConfig,
    kind: RopeKind,
    length: usize,
) -> Result<()> {
    let reach = base.rope.max_position_embeddings;
    let keeps_none = kind == RopeKind::None && base.rope.scaling == RopeScaling::None;
    ensure!(
        length > reach || keeps_none,
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

/// The model of the hub that was given by its name, and whose files lie in `folder`.
pub(crate) fn fetched(given: &Path, folder: &Path) -> Option<BaseModel> {
    if given == folder {
        return None;
    }
    // The cache keeps each commit in a folder of its name.
    let revision = folder.file_name().and_then(|commit| commit.to_str()).map(ToOwned::to_owned);
    Some(BaseModel { name: given.to_str()?.to_owned(), revision })
}

/// How the matrices of a model are kept; the CPU computes in f32 either way.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum WeightKind {
    /// 4 bytes per weight
    F32,
    /// 2 bytes per weight: exact if the file is in bf16, rounded to the nearest otherwise
    Bf16,
    /// 4.5 bits per weight of the layers, as QLoRA keeps them (NF4), the rest as in bf16
    Nf4,
}

impl From<WeightKind> for WeightStorage {
    fn from(kind: WeightKind) -> Self {
        match kind {
            WeightKind::F32 => Self::F32,
            WeightKind::Bf16 => Self::Bf16,
            WeightKind::Nf4 => Self::Nf4,
        }
    }
}

/// A type that the device has no arithmetic for is refused: what it would compute depends on its driver.
pub(crate) fn refuse_unsupported(weights: WeightStorage, device: &Device) -> Result<()> {
    let supported = match weights {
        // What would be bf16 beside NF4 is f32 where there is none.
        WeightStorage::F32 | WeightStorage::Nf4 => true,
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
    /// Stretch the model by this RoPE scaling, without training, or as an adapter needs it whose folder does not tell, such as
    /// those of LongLoRA's own code: none, linear, ntk, dynamic, yarn or llama3
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<RopeKind>,
    /// Context to which --rope-scaling stretches it: that of its training, for an adapter [default: the longest length that is
    /// measured or asked for]
    #[arg(long, value_name = "TOKENS", requires = "rope_scaling", value_parser = tokens())]
    rope_context: Option<usize>,
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

    /// The model on its plain device, stretched if that was asked for: as far as was said, or to `longest` tokens.
    pub(crate) fn load(&self, weights: WeightStorage, longest: Option<usize>) -> Result<Llama> {
        let model = model_folder(&self.model)?;
        let stretch = self.stretch(longest)?;
        if let Some((kind, length)) = stretch {
            refuse_needless_scaling(&LlamaConfig::read(&model)?, kind, length)?;
        }
        let device = self.device.open()?;
        refuse_unsupported(weights, &device)?;
        self.tell_if_trained_beside_others(weights)?;
        load_stretched(&model, weights, stretch, &device, self.adapter.as_deref())
    }

    /// Says so, if the adapter was trained beside the same weights kept otherwise.
    fn tell_if_trained_beside_others(&self, weights: WeightStorage) -> Result<()> {
        let facts = self.adapter.as_deref().map(AdapterFacts::read).transpose()?.flatten();
        let trained = facts.and_then(|facts| facts.trained_beside());
        if let Some(trained) = trained.filter(|trained| *trained != weights) {
            say(&format!(
                "the adapter was trained beside weights in {trained}, and stands beside weights in {weights} here"
            ));
        }
        Ok(())
    }

    /// The scaling that was asked for, and how far it leads. Refuses a folder that is no adapter's, and one that has its own
    /// scaling.
    pub(crate) fn stretch(&self, longest: Option<usize>) -> Result<Option<(RopeKind, usize)>> {
        let facts = self.adapter.as_deref().map(AdapterFacts::read).transpose()?.flatten();
        let Some(kind) = self.rope_scaling else { return Ok(None) };
        ensure!(
            facts.is_none(),
            "the adapter's longlora.json tells the RoPE scaling of its training; leave --rope-scaling out"
        );
        // An adapter keeps the scaling of its training, whatever is measured.
        let length = self.rope_context.or(longest.filter(|_| self.adapter.is_none()));
        match length {
            Some(length) => Ok(Some((kind, length))),
            None if self.adapter.is_some() => bail!(
                "--rope-scaling with an --adapter needs the context that it was trained for; give it as --rope-context"
            ),
            None => bail!("--rope-scaling needs the context to reach; give it as --rope-context"),
        }
    }

    /// The model as it was before the adapter.
    pub(crate) fn load_base(&self, weights: WeightStorage) -> Result<Llama> {
        let device = self.device.open()?;
        refuse_unsupported(weights, &device)?;
        load_stretched(&model_folder(&self.model)?, weights, None, &device, None)
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

    /// Where tokenizer and chat template lie: in the adapter's folder, if it has a tokenizer, as those have that were trained
    /// with tokens or a template of their own. Says so once.
    pub(crate) fn tokenizer_folder(&self) -> Result<PathBuf> {
        static SAID: Once = Once::new();
        let own = self.adapter.as_deref().filter(|adapter| adapter.join("tokenizer.json").exists());
        let Some(adapter) = own else { return self.folder() };
        SAID.call_once(|| {
            say(&format!(
                "tokenizer and chat template are the adapter's, in {}",
                adapter.display()
            ));
        });
        Ok(adapter.to_owned())
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(Tokenizer::read(&self.tokenizer_folder()?)?)
    }
}

pub(crate) fn load_stretched(
    model: &Path,
    weights: WeightStorage,
    stretch: Option<(RopeKind, usize)>,
    device: &Device,
    adapter: Option<&Path>,
) -> Result<Llama> {
    announce_weights(model);
    let llama = load_pretrained_as(model, weights, device)?;
    announce_nf4(&llama, weights);
    let llama = match stretch {
        None => llama,
        Some((kind, length)) => stretched(llama, kind, length)?,
    };
    match adapter {
        None => Ok(llama),
        Some(adapter) => with_adapter(llama, adapter),
    }
}

/// Says what is read, if it takes its time.
pub(crate) fn announce_weights(model: &Path) {
    let files = model_files(model).unwrap_or_default();
    let sizes = files.iter().filter_map(|file| Some(fs::metadata(file).ok()?.len()));
    let size = ByteSize(sizes.sum());
    if size >= MANY_BYTES {
        say(&format!("reading {} of weights from {}", size.display().iec(), model.display()));
    }
}

/// Says how many of the layers are in NF4, if any were to be; once.
pub(crate) fn announce_nf4(llama: &Llama, weights: WeightStorage) {
    static SAID: Once = Once::new();
    if weights == WeightStorage::Nf4 {
        let LayersInNf4 { fitting, all } = llama.layers_in_nf4();
        SAID.call_once(|| {
            say(&format!(
                "{fitting} of {all} linear layers are kept in nf4, the other frozen matrices in bf16, or f32 where the device has \
                 none"
            ));
        });
    }
}

/// The same weights, stretched without training.
pub(crate) fn stretched(mut llama: Llama, kind: RopeKind, length: usize) -> Result<Llama> {
    llama.config.rope = llama.config.rope.extended(kind, length)?;
    llama.config.rope.validate()?;
    Ok(llama)
}

/// The same weights with an adapter beside them.
pub(crate) fn with_adapter(llama: Llama, adapter: &Path) -> Result<Llama> {
    Ok(load_adapter(llama, adapter)?.0.valid())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        model: ModelArgs,
    }

    fn args(args: &[&str]) -> ModelArgs {
        Program::parse_from([&["longlora", "--model", "m"][..], args].concat()).model
    }

    #[test]
    fn a_scaling_leads_to_what_was_said_or_to_what_is_measured() {
        let yarn = ["--rope-scaling", "yarn"];
        assert_eq!(args(&[]).stretch(Some(8)).unwrap(), None);
        assert_eq!(args(&yarn).stretch(Some(8)).unwrap(), Some((RopeKind::Yarn, 8)));
        let told = [&yarn[..], &["--rope-context", "16"]].concat();
        assert_eq!(args(&told).stretch(Some(8)).unwrap(), Some((RopeKind::Yarn, 16)));
        let error = args(&yarn).stretch(None).unwrap_err().to_string();
        assert!(error.contains("--rope-context"), "{error}");
    }

    #[test]
    fn an_adapter_that_does_not_tell_its_scaling_needs_one_with_its_context() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        let path = folder.path().to_str().unwrap();
        let linear = ["--adapter", path, "--rope-scaling", "linear"];
        let told = [&linear[..], &["--rope-context", "16"]].concat();
        assert_eq!(args(&told).stretch(Some(8)).unwrap(), Some((RopeKind::Linear, 16)));
        let error = args(&linear).stretch(Some(8)).unwrap_err().to_string();
        assert!(error.contains("--rope-context") && error.contains("trained"), "{error}");

        let rope = json!({
            "head_dim": 8, "theta": 1e4, "max_position_embeddings": 16, "scaling": { "kind": "none" },
        });
        let facts = json!({
            "longlora_version": "0.1.0", "context_length": 16, "training_pattern": "full",
            "rope": rope, "rope_offset": null,
        });
        fs::write(folder.path().join("longlora.json"), facts.to_string()).unwrap();
        let error = args(&told).stretch(Some(8)).unwrap_err().to_string();
        assert!(error.contains("longlora.json") && error.contains("--rope-scaling"), "{error}");
    }

    #[test]
    fn a_model_of_the_hub_is_named_with_its_commit() {
        let commit = "c0ffee";
        let folder = Path::new("cache/models--a--b/snapshots").join(commit);
        let named = fetched(Path::new("a/b"), &folder).unwrap();
        assert_eq!((named.name.as_str(), named.revision.as_deref()), ("a/b", Some(commit)));
        assert_eq!(fetched(&folder, &folder), None);
    }

    #[test]
    fn no_scaling_is_needless_where_there_is_none() {
        let config = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 8, "max_position_embeddings": 64,
        });
        let Some(config) = config.as_object().cloned() else { panic!("it is an object") };
        let base = LlamaConfig::from_hugging_face(config, Path::new("config.json")).unwrap();
        refuse_needless_scaling(&base, RopeKind::None, 64).unwrap();
        refuse_needless_scaling(&base, RopeKind::Yarn, 65).unwrap();
        let error = refuse_needless_scaling(&base, RopeKind::Yarn, 64).unwrap_err().to_string();
        assert!(error.contains("`64`") && error.contains("--rope-scaling"), "{error}");
    }
}
