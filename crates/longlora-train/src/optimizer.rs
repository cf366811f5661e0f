//! AdamW, with its own rates for what is trained.

use std::fmt;

use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::ParamGroup;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::Tensor;

use crate::config::TrainingConfig;
use crate::row_adam_w::RowAdamW;
use crate::schedule::Schedule;
use crate::step_gradients::{StepGradients, table_of};
use crate::trainee::Trainee;

/// Optimizer and learning rates of a run.
#[derive(Clone)]
pub struct Optimizer {
    /// AdamW, in groups.
    pub adam_w: ModuleOptimizer,
    /// Rates, in the same groups.
    pub rates: ModuleLrScheduler,
    /// The same AdamW of an embedding table that is not the head: it keeps moments for the rows seen alone.
    pub table: RowAdamW,
}

/// Of moments as many as there are weights, not one is shown.
impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Optimizer").finish_non_exhaustive()
    }
}

impl Optimizer {
    /// Three groups of rates: LoRA and other weights; norms and embeddings; RoPE offsets. Norms, biases and offsets are never
    /// decayed (the first two as in Hugging Face's `Trainer`).
    ///
    /// `step` is the number of steps already taken. Every number is passed on: burn's defaults are not PyTorch's.
    pub fn new(config: &TrainingConfig, step: u64) -> Self {
        let adam_w = |weight_decay: f64| {
            AdamWConfig::new()
                .with_beta_1(config.betas[0] as f32)
                .with_beta_2(config.betas[1] as f32)
                .with_epsilon(config.epsilon as f32)
                .with_weight_decay(weight_decay as f32)
                .with_cautious_weight_decay(false)
                .with_amsgrad(false)
        };
        let schedule = |peak| Schedule {
            peak,
            warmup_steps: config.warmup_steps,
            steps: config.steps,
            decay: config.decay,
            step,
        };
        let rates = &config.learning_rates;
        Self {
            adam_w: adam_w(config.weight_decay).init().with_group(
                undecayed(),
                adam_w(0.0).build(),
                None,
            ),
            rates: ModuleLrScheduler::new(schedule(rates.lora))
                .with_group(norms_and_embeddings(), schedule(rates.norms_and_embeddings))
                .with_group(rope_offsets(), schedule(rates.rope_offsets)),
            table: RowAdamW::new(config),
        }
    }

    /// One step at these rates.
    pub(crate) fn step(
        &mut self,
        rates: ModuleLearningRate,
        mut trainee: Trainee,
        StepGradients { whole, table }: StepGradients,
    ) -> Trainee {
        if let Some(gradient) = table {
            let weight = table_of(&trainee.llama).clone();
            let rate = rates.lr_from_param(weight.id, Some(TABLE));
            trainee.llama.model.embed_tokens.weight = weight.map(|weight| {
                let updated = self.table.step(rate, weight.without_autodiff(), &gradient);
                Tensor::from_inner(updated).require_grad()
            });
        }
        self.adam_w.step(rates, trainee, whole)
    }
}

/// Path of the embedding table.
const TABLE: &str = "llama.model.embed_tokens.weight";

fn norms_and_embeddings() -> ParamGroup {
    ParamGroup::from_any_predicates(vec!["norm.gamma", "embed_tokens.weight"])
}

fn rope_offsets() -> ParamGroup {
    ParamGroup::from_predicate("rope_offset.delta")
}

fn undecayed() -> ParamGroup {
    ParamGroup::from_any_predicates(vec!["norm.gamma", "bias", "rope_offset.delta"])
}
