//! Making a small model from nothing: tokenizer, architecture, weights.
//!
//! It exists so that the main job has a model of its own to extend. All weights are trained, with the same step, loop
//! and checkpoints as fine-tuning.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use longlora_attention::AttentionPattern;
use longlora_data::{
    BatchStream, Content, Corpus, Order, Tokenizer, Windows, train_byte_level_bpe,
};
use longlora_llama::{Llama, LlamaConfig, MAX_SHARD_BYTES, Selection, save_pretrained};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::config::{TrainingConfig, one_line};
use crate::document_counts::DocumentCounts;
use crate::error::TrainError;
use crate::event::{Event, Reading};
use crate::execution::{MemoryPlan, refuse_large_tensors};
use crate::folder_lock::FolderLock;
use crate::optimizer::Optimizer;
use crate::run_folder::{Manifest, RunFolder};
use crate::session::{Outcome, Session};
use crate::stop::Stop;
use crate::trainee::Trainee;

/// A pre-training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Every random number of the run follows from it.
    pub seed: u64,
    /// Text to learn from: a file or a folder.
    pub data: PathBuf,
    /// Tokens of a window, and the model's context.
    pub context_length: usize,
    /// Sizes of the model.
    pub model: ModelSizes,
    /// How it is trained; `learning_rates.lora` is the rate of all projections.
    pub training: TrainingConfig,
}

/// Sizes of a LLaMA, by Hugging Face's names; its embeddings are tied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSizes {
    /// Entries of the byte-level BPE vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl PretrainConfig {
    /// Reads a TOML file; its data path is relative to the file.
    ///
    /// # Errors
    /// [`TrainError::ConfigFile`], naming the line and the key.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file("read", path))?;
        let mut config: Self = toml::from_str(&text).map_err(|error| TrainError::ConfigFile {
            path: path.to_owned(),
            reason: one_line(&error),
        })?;
        config.data = path.parent().unwrap_or(Path::new("")).join(&config.data);
        Ok(config)
    }
}

/// Trains a model from random weights and writes it as a Hugging Face folder, in f16, to `model`. A run folder that
/// holds checkpoints of the same run goes on where it stopped.
///
/// # Errors
/// [`TrainError`], before the first step where it can be known by then; also if the text is no longer what the run began
/// with.
pub fn pretrain(
    config: &PretrainConfig,
    run: &RunFolder,
    model: &Path,
    device: &Device,
    stop: &Stop,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    config.training.validate()?;
    let _lock = FolderLock::take(run.path())?;
    let corpus = Corpus::read(&config.data)?;
    let tokenizer = train_byte_level_bpe(texts(&corpus), config.model.vocab_size)?;
    let windows = config.windows(&corpus, &tokenizer)?;
    let manifest = Manifest::new(config.seed, &corpus.files, windows.tokens(), windows.len());
    let goes_on = Checkpoint::exists(&run.checkpoints())?;
    if run.config().exists() {
        config.refuse_other_run(run)?;
    }
    if goes_on {
        run.refuse_other_sources(&manifest)?;
    }
    run.write("config.toml", &toml::to_string(config).expect("every field has a TOML form"))?;
    run.write_manifest(&manifest)?;

    let device = device.clone().autodiff();
    device.seed(config.seed);
    let llama = config.llama_config(&tokenizer)?.init(&device).train_all();
    let training = &config.training;
    let (at, llama, optimizer) = if goes_on {
        Checkpoint::load(&run.checkpoints(), llama, &Selection::Base, training)?
    } else {
        (Checkpoint { step: 0, tokens: 0 }, llama, Optimizer::new(training, 0))
    };
    refuse_large_tensors(&llama, training, config.context_length)?;
    let plan = MemoryPlan::new(&llama, &Selection::Base, training, config.context_length);
    let documents = DocumentCounts { texts: corpus.documents.len(), ..DocumentCounts::default() };
    report(Event::Reading(&Reading::of(&windows, documents, training)));
    report(Event::Planned(&plan));
    let session = Session {
        run,
        config: training,
        seed: config.seed,
        selection: Selection::Base,
        stream: BatchStream::new(
            windows,
            Order::Shuffled { seed: config.seed },
            training.batch_size,
            training.accumulation,
        ),
        at,
        trainee: Trainee {
            llama,
            pattern: AttentionPattern::Full,
            max_grad_norm: (training.max_grad_norm > 0.0).then_some(training.max_grad_norm),
            execution: plan.execution,
        },
        optimizer,
    };
    let outcome = session.run(stop, report)?;
    if let Outcome::Finished(llama) = &outcome {
        write_model(llama, &tokenizer, model)?;
    }
    Ok(outcome)
}

fn write_model(llama: &Llama, tokenizer: &Tokenizer, model: &Path) -> Result<(), TrainError> {
    std::fs::create_dir_all(model).map_err(TrainError::file("create", model))?;
    tokenizer.save(&model.join("tokenizer.json"))?;
    // Last: its `config.json` says that the folder is whole.
    Ok(save_pretrained(llama, model, DType::F16, MAX_SHARD_BYTES)?)
}

fn texts(corpus: &Corpus) -> impl Iterator<Item = &str> {
    corpus.documents.iter().filter_map(|document| match &document.content {
        Content::Text(text) => Some(text.as_str()),
        Content::Tokens(_) | Content::Conversation(_) | Content::Instruction(_) => None,
    })
}

impl PretrainConfig {
    /// At least one, of ids that the model will have.
    fn windows(&self, corpus: &Corpus, tokenizer: &Tokenizer) -> Result<Windows, TrainError> {
        let (length, path) = (self.context_length, &self.data);
        let windows = Windows::pack(corpus.tokenize(Some(tokenizer))?, length)?;
        windows.check_vocabulary(tokenizer.vocab_size())?;
        match windows.tokens() {
            tokens if tokens < length => {
                Err(TrainError::ShortText { path: path.clone(), tokens, length })
            }
            _ => Ok(windows),
        }
    }

    /// What a run began with is what it goes on with; where the text lies may have changed, its hashes are compared.
    fn refuse_other_run(&self, run: &RunFolder) -> Result<(), TrainError> {
        let refused = |reason: String| TrainError::NotResumable {
            path: run.path().to_owned(),
            reason: format!("its config.toml {reason}"),
        };
        let begun = Self::read(&run.config()).map_err(|error| {
            refused(format!("is not that of a pre-training ({error}); take another run folder"))
        })?;
        if *self == (Self { data: self.data.clone(), ..begun }) {
            return Ok(());
        }
        Err(refused("has other settings; take those, or another run folder".to_owned()))
    }

    fn llama_config(&self, tokenizer: &Tokenizer) -> Result<LlamaConfig, TrainError> {
        let sizes = &self.model;
        let special = tokenizer.special_tokens();
        let id = |token: &Option<longlora_data::SpecialToken>| token.as_ref().map(|token| token.id);
        let Value::Object(config) = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": tokenizer.vocab_size(),
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.num_hidden_layers,
            "num_attention_heads": sizes.num_attention_heads,
            "num_key_value_heads": sizes.num_key_value_heads,
            "head_dim": sizes.head_dim,
            "max_position_embeddings": self.context_length,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": id(&special.bos),
            "eos_token_id": id(&special.eos),
        }) else {
            unreachable!("the literal is an object")
        };
        Ok(LlamaConfig::from_hugging_face(config, Path::new("config.json"))?)
    }
}
