//! What a run is asked to do, as a TOML file says it.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use longlora_adapters::{AdapterConfig, RopeKind};
use longlora_attention::AttentionPattern;
use longlora_data::Order;
use longlora_llama::{BaseModel, Llama, Selection, WeightStorage};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::evaluation::EvaluationConfig;
use crate::kept_input::InputsWait;
use crate::rope_target::RopeTarget;
use crate::schedule::Decay;

/// A fine-tuning run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Every random number of the run follows from it.
    pub seed: u64,
    /// What is extended.
    pub model: ModelConfig,
    /// How far, and by which scaling.
    pub context: RopeTarget,
    /// Who sees whom in training; evaluation attends in full.
    pub attention: AttentionPattern,
    /// What is learned from.
    pub data: DataConfig,
    /// What is attached and trained; absent: nothing is attached, and every weight of the model is trained, which is full
    /// fine-tuning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters: Option<AdapterConfig>,
    /// How.
    pub training: TrainingConfig,
    /// What is measured when training is over.
    #[serde(default, skip_serializing_if = "is_default")]
    pub evaluation: EvaluationConfig,
}

/// The base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A Hugging Face folder: `config.json`, safetensors, `tokenizer.json`.
    pub path: PathBuf,
    /// How its matrices are kept: `f32`; `bf16`, which takes half the memory and rounds what the file does not hold in bf16; or
    /// `nf4`, which keeps layers in a seventh. What is trained is f32 either way.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weights: WeightStorage,
    /// The model of the Hugging Face hub that lies at `path`, if that is the cache: adapters name it so, and mean the same on
    /// another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<BaseModel>,
}

/// Training text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A .txt or .md file, a .jsonl, .jsonl.gz or .json file of objects (a text, a conversation or an instruction each), a
    /// .json or .bin file of token ids, or a folder of them.
    pub path: PathBuf,
    /// In which order windows are drawn.
    pub order: WindowOrder,
    /// Text that is never trained on, for the table at the end.
    pub held_out: HeldOut,
    /// End each text in the tokenizer's end-of-text token, which is learned as its last, as in LongLoRA's `fine-tune.py`.
    /// Conversations end as the model's chat template says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub append_eos: bool,
}

/// Where held-out text comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldOut {
    /// This share of the windows, in [0, 1), from the end of the training text.
    Fraction(f64),
    /// Another file or folder.
    Path(PathBuf),
}

/// In which order windows are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WindowOrder {
    /// A new permutation in each epoch, from the run's seed.
    Shuffled,
    /// As they stand in the text.
    Sequential,
}

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Optimizer steps; LongLoRA takes 1,000.
    pub steps: u64,
    /// Windows per micro-batch; LongLoRA has 1.
    pub batch_size: usize,
    /// Micro-batches per step; LongLoRA has 8 on each of 8 GPUs.
    pub accumulation: usize,
    /// Micro-batches that run side by side, each in memory of its own. On a CPU, one per core is fastest while a window
    /// is short; 1 needs the least memory.
    pub parallel: usize,
    /// Memory that a step may take, `16GiB` say: it decides how many blocks keep their activations instead of being run
    /// again in the backward. The result does not depend on it. Most of what is free, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Keep the inputs of blocks in the host's memory between forward and backward: for a GPU, whose own memory then grows
    /// with the context by much less. They are copied while other blocks compute; the result is the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub offload_activations: bool,
    /// Peak learning rates.
    pub learning_rates: LearningRates,
    /// Steps of linear warm-up; LongLoRA has 20.
    pub warmup_steps: u64,
    /// What follows the warm-up; LongLoRA stays constant.
    pub decay: Decay,
    /// AdamW's decay rates of its two moments; LongLoRA's paper has 0.9 and 0.95.
    pub betas: [f64; 2],
    /// Added to AdamW's denominator; PyTorch's 1e-8.
    pub epsilon: f64,
    /// Decoupled weight decay; LongLoRA has 0. Norms, biases and RoPE offsets are never decayed.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; 0 does not clip. Hugging Face's default is 1.
    pub max_grad_norm: f64,
    /// Steps between checkpoints; 0 saves at the end alone.
    pub save_every: u64,
    /// Checkpoints kept; older ones are removed.
    pub keep_checkpoints: usize,
}

/// Peak learning rates by what is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearningRates {
    /// Of LoRA; LongLoRA has 2e-5 for 7B and 13B. Of the head, too, and of all other weights when they are trained.
    pub lora: f64,
    /// Of norms and embeddings; LongLoRA has 2e-5.
    pub norms_and_embeddings: f64,
    /// Of RoPE offsets, which are log-frequencies: a step moves each by about this much.
    pub rope_offsets: f64,
}

impl TrainingConfig {
    /// Where the inputs of blocks wait for the backward.
    pub(crate) fn inputs_wait(&self) -> InputsWait {
        if self.offload_activations { InputsWait::InHostMemory } else { InputsWait::OnDevice }
    }
}

impl Default for TrainingConfig {
    /// LongLoRA's numbers, for one device.
    fn default() -> Self {
        Self {
            steps: 1000,
            batch_size: 1,
            accumulation: 8,
            parallel: 1,
            memory: None,
            offload_activations: false,
            learning_rates: LearningRates {
                lora: 2e-5,
                norms_and_embeddings: 2e-5,
                rope_offsets: 1e-4,
            },
            warmup_steps: 20,
            decay: Decay::Constant,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            save_every: 100,
            keep_checkpoints: 2,
        }
    }
}

impl FinetuneConfig {
    /// LongLoRA's recipe for a model and its text.
    pub fn longlora(model: PathBuf, data: PathBuf, context_length: usize) -> Self {
        Self {
            seed: 0,
            model: ModelConfig { path: model, weights: WeightStorage::F32, fetched: None },
            context: RopeTarget {
                length: context_length,
                train_length: None,
                rope_scaling: RopeKind::Linear,
            },
            attention: AttentionPattern::LONGLORA,
            data: DataConfig {
                path: data,
                order: WindowOrder::Shuffled,
                held_out: HeldOut::Fraction(0.05),
                append_eos: false,
            },
            adapters: Some(AdapterConfig::longlora()),
            training: TrainingConfig::default(),
            evaluation: EvaluationConfig::default(),
        }
    }

    /// Reads a TOML file; paths in it are relative to the file.
    ///
    /// # Errors
    /// [`TrainError::ConfigFile`], naming the line and the key.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file("read", path))?;
        let config = Self::from_toml(&text, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(config.relative_to(folder))
    }

    /// From the text of a TOML file; `path` is for error messages.
    ///
    /// # Errors
    /// [`TrainError::ConfigFile`], naming the line and the key.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, TrainError> {
        toml::from_str(text).map_err(|error| TrainError::ConfigFile {
            path: path.to_owned(),
            reason: one_line(&error),
        })
    }

    /// The same run, with relative paths meant from `folder`.
    pub fn relative_to(mut self, folder: &Path) -> Self {
        for path in self.paths() {
            *path = folder.join(&path);
        }
        self
    }

    /// The same run, wherever the process stands when it is resumed.
    ///
    /// # Errors
    /// [`TrainError::File`], if the working directory is gone.
    pub fn absolute(mut self) -> Result<Self, TrainError> {
        for path in self.paths() {
            *path = std::path::absolute(&path).map_err(TrainError::file("find", path))?;
        }
        Ok(self)
    }

    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut paths = vec![&mut self.model.path, &mut self.data.path];
        if let HeldOut::Path(path) = &mut self.data.held_out {
            paths.push(path);
        }
        paths.extend(&mut self.evaluation.data);
        paths
    }

    /// The same, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every field has a TOML form")
    }

    /// Checks every number that can be checked without the model.
    ///
    /// # Errors
    /// [`TrainError`], naming the key and the value.
    pub fn validate(&self) -> Result<(), TrainError> {
        let held_out = match &self.data.held_out {
            HeldOut::Path(path) => Some(("data.held_out.path", path)),
            HeldOut::Fraction(_) => None,
        };
        let measured_on = self.evaluation.data.as_ref().map(|path| ("evaluation.data", path));
        let paths = [("model.path", &self.model.path), ("data.path", &self.data.path)];
        for (key, path) in paths.into_iter().chain(held_out).chain(measured_on) {
            if path.to_str().is_none() {
                return Err(TrainError::Value {
                    key,
                    value: path.display().to_string(),
                    needed: "it has to be UTF-8, or config.toml could not hold it; rename it",
                });
            }
        }
        self.context.validate()?;
        if let HeldOut::Fraction(fraction) = self.data.held_out
            && !(0.0..1.0).contains(&fraction)
        {
            return Err(TrainError::Value {
                key: "data.held_out.fraction",
                value: fraction.to_string(),
                needed: "it has to be in [0, 1)",
            });
        }
        if self.adapters.is_none() && self.model.weights != WeightStorage::F32 {
            return Err(TrainError::Value {
                key: "model.weights",
                value: self.model.weights.to_string(),
                needed: "full fine-tuning freezes nothing that could be kept in less memory; use f32",
            });
        }
        self.attention.validate(self.context.window())?;
        self.adapters.as_ref().map_or(Ok(()), AdapterConfig::validate)?;
        self.training.validate()?;
        self.evaluation.validate()
    }

    /// The parameters that are trained.
    pub fn selection(&self) -> Selection {
        match &self.adapters {
            Some(adapters) => Selection::Adapter(adapters.clone()),
            None => Selection::Base,
        }
    }

    /// The model with what is trained attached, or with all of its weights to be trained.
    pub fn trainable(&self, base: Llama) -> Llama {
        match &self.adapters {
            Some(adapters) => base.attach(adapters, self.seed),
            None => base.train_all(),
        }
    }

    pub(crate) fn order(&self) -> Order {
        match self.data.order {
            WindowOrder::Shuffled => Order::Shuffled { seed: self.seed },
            WindowOrder::Sequential => Order::Sequential,
        }
    }
}

impl TrainingConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`TrainError::Value`], naming the key and the value.
    pub fn validate(&self) -> Result<(), TrainError> {
        let rates = &self.learning_rates;
        // In f32, in which they will count.
        let positive = |x: f64| (x as f32).is_finite() && x as f32 > 0.0;
        let fraction = |x: f64| (0.0..1.0).contains(&(x as f32));
        let at_least_one = "at least 1 is needed";
        let count = |key, count: usize| {
            (
                key,
                count.to_string(),
                (1..=MOST).contains(&count),
                "it has to be from 1 to 1,048,576",
            )
        };
        let checks = [
            ("training.steps", self.steps.to_string(), self.steps > 0, at_least_one),
            count("training.batch_size", self.batch_size),
            count("training.accumulation", self.accumulation),
            count("training.parallel", self.parallel),
            count("training.keep_checkpoints", self.keep_checkpoints),
            ("learning_rates.lora", rates.lora.to_string(), positive(rates.lora), POSITIVE),
            (
                "learning_rates.norms_and_embeddings",
                rates.norms_and_embeddings.to_string(),
                positive(rates.norms_and_embeddings),
                POSITIVE,
            ),
            (
                "learning_rates.rope_offsets",
                rates.rope_offsets.to_string(),
                positive(rates.rope_offsets),
                POSITIVE,
            ),
            (
                "training.betas",
                format!("{:?}", self.betas),
                self.betas.into_iter().all(fraction),
                "both have to be in [0, 1), rounded to f32",
            ),
            ("training.epsilon", self.epsilon.to_string(), positive(self.epsilon), POSITIVE),
            (
                "training.weight_decay",
                self.weight_decay.to_string(),
                fraction(self.weight_decay),
                "it has to be in [0, 1)",
            ),
            (
                "training.max_grad_norm",
                self.max_grad_norm.to_string(),
                self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(),
                "it has to be 0, for no clipping, or a positive number",
            ),
        ];
        match checks.into_iter().find(|(_, _, fine, _)| !fine) {
            None => Ok(()),
            Some((key, value, _, needed)) => Err(TrainError::Value { key, value, needed }),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Of what is counted in windows or folders.
const MOST: usize = 1 << 20;

const POSITIVE: &str = "it has to be a positive number, rounded to f32";

/// What toml says about a mistake, on one line: where, the line itself, what is wrong, and which keys there are.
pub(crate) fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('|'));
    let parts = lines.map(|line| match line.split_once(" | ") {
        // The drawing: a line number and what stands there.
        Some((number, source)) if number.parse::<usize>().is_ok() => format!("`{source}`"),
        _ => line.to_owned(),
    });
    parts.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use longlora_attention::{GroupSize, Shift};

    use super::*;

    fn longlora() -> FinetuneConfig {
        FinetuneConfig::longlora("model".into(), "text".into(), 8192)
    }

    #[test]
    fn the_recipe_is_longloras() {
        let recipe = longlora();
        assert_eq!(recipe.evaluation, EvaluationConfig::default());
        let FinetuneConfig { seed, model, context, attention, data, adapters, training, .. } =
            recipe;
        assert_eq!(seed, 0);
        let path = "model".into();
        assert_eq!(model, ModelConfig { path, weights: WeightStorage::F32, fetched: None });
        let (train_length, rope_scaling) = (None, RopeKind::Linear);
        assert_eq!(context, RopeTarget { length: 8192, train_length, rope_scaling });
        let (group_size, shift) = (GroupSize::Ratio(0.25), Shift::HalfHeads);
        assert_eq!(attention, AttentionPattern::Shifted { group_size, shift });
        let (order, held_out) = (WindowOrder::Shuffled, HeldOut::Fraction(0.05));
        let append_eos = false;
        assert_eq!(data, DataConfig { path: "text".into(), order, held_out, append_eos });
        assert_eq!(training, TrainingConfig::default());

        let AdapterConfig { lora, norms, embeddings, head, rope_offset } = adapters.unwrap();
        assert_eq!((norms, embeddings, head, rope_offset), (true, true, false, None));
        let lora = lora.unwrap();
        assert_eq!((lora.rank, lora.alpha, lora.dropout), (8, 16.0, 0.0));
        assert_eq!((lora.use_rslora, lora.use_dora), (false, false));
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj"];
        assert_eq!(lora.target_modules.iter().map(|it| it.name()).collect::<Vec<_>>(), targets);
    }

    /// Files of before it was noted say nothing of it.
    #[test]
    fn where_a_model_was_fetched_from_is_kept() {
        let mut config = longlora();
        assert!(!config.to_toml().contains("fetched"));
        for revision in [None, Some("c0ffee".to_owned())] {
            config.model.fetched = Some(BaseModel { name: "owner/name".to_owned(), revision });
            let read = FinetuneConfig::from_toml(&config.to_toml(), Path::new("config.toml"));
            assert_eq!(read.unwrap(), config);
        }
    }

    #[test]
    fn a_step_is_longloras_on_one_device() {
        let it = TrainingConfig::default();
        assert_eq!((it.steps, it.batch_size, it.accumulation, it.parallel), (1000, 1, 8, 1));
        assert_eq!((it.memory, it.offload_activations), (None, false));
        let LearningRates { lora, norms_and_embeddings, rope_offsets } = it.learning_rates;
        assert_eq!([lora, norms_and_embeddings, rope_offsets], [2e-5, 2e-5, 1e-4]);
        assert_eq!((it.warmup_steps, it.decay), (20, Decay::Constant));
        assert_eq!((it.betas, it.epsilon, it.weight_decay), ([0.9, 0.95], 1e-8, 0.0));
        assert_eq!(it.max_grad_norm, 1.0);
        assert_eq!((it.save_every, it.keep_checkpoints), (100, 2));
    }

    #[test]
    fn windows_are_shuffled_by_the_seed_of_the_run_or_taken_as_they_stand() {
        let mut config = FinetuneConfig { seed: 7, ..longlora() };
        assert_eq!(config.order(), Order::Shuffled { seed: 7 });
        config.data.order = WindowOrder::Sequential;
        assert_eq!(config.order(), Order::Sequential);
    }
}
