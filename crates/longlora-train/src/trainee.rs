//! The model in training, as burn-train sees it.

use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use longlora_attention::AttentionPattern;
use longlora_llama::Llama;

use crate::batch::{StepBatch, layout};
use crate::clip::clip_by_global_norm;
use crate::execution::Execution;
use crate::gradients::gradients;
use crate::step_gradients::StepGradients;
use crate::step_output::StepOutput;

/// A LLaMA with what its training step needs to know.
#[derive(Module, Debug)]
pub struct Trainee {
    /// The model, on an autodiff device, its trained parameters unfrozen.
    pub llama: Llama,
    /// Who sees whom in training.
    #[module(skip)]
    pub pattern: AttentionPattern,
    /// Largest norm of the whole gradient; `None` does not clip.
    #[module(skip)]
    pub max_grad_norm: Option<f64>,
    /// How much of it is kept in memory, and how much runs side by side.
    #[module(skip)]
    pub execution: Execution,
}

impl Trainee {
    /// The gradient of the mean loss per target, each part in its smallest form.
    pub(crate) fn gradients(&self, batch: &StepBatch) -> (StepGradients, StepOutput) {
        gradients(&self.llama, self.pattern, batch, self.execution)
    }
}

impl TrainStep for Trainee {
    type Input = StepBatch;
    type Output = StepOutput;

    /// The gradient of the mean loss per target; accumulation happens inside, over micro-batches of any size.
    fn step(&self, batch: StepBatch) -> TrainOutput<StepOutput> {
        let (grads, item) = self.gradients(&batch);
        TrainOutput { grads: grads.into_whole(&self.llama), item }
    }

    fn optimize(
        self,
        optim: &mut ModuleOptimizer,
        lr_module: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        let grads = match self.max_grad_norm {
            None => grads,
            Some(max_norm) => clip_by_global_norm(&self.llama, grads, max_norm).0,
        };
        optim.step(lr_module, self, grads)
    }
}

impl InferenceStep for Trainee {
    type Input = StepBatch;
    type Output = StepOutput;

    fn step(&self, batch: StepBatch) -> StepOutput {
        let mut output = StepOutput { nll_sum: 0.0, targets: batch.num_targets() };
        for micro_batch in &batch.micro_batches {
            let pass = self.llama.pass(self.pattern, &layout(micro_batch));
            let hidden = self.llama.hidden(micro_batch.inputs(&self.llama.device()), &pass);
            let nll = self.llama.nll(hidden.flatten(0, 1), micro_batch.target_ids());
            output.nll_sum += nll.into_iter().map(f64::from).sum::<f64>();
        }
        output
    }
}
