//! Steps that compute nothing: what memory they take on a GPU.

use burn::tensor::Device;
use bytesize::ByteSize;
use longlora_adapters::Dropout;
use longlora_attention::AttentionPattern;
use longlora_data::{TokenBatch, Window};
use longlora_llama::{Llama, Selection, WeightStorage, rehearsed, with_room_for_weights};

use crate::batch::StepBatch;
use crate::config::TrainingConfig;
use crate::error::TrainError;
use crate::execution::{MemoryPlan, refuse_large_tensors};
use crate::memory::device_memory_held;
use crate::optimizer::Optimizer;
use crate::trainee::Trainee;

/// Steps that are rehearsed: only from the second on have the optimizer's moments a place.
const STEPS: u64 = 3;

/// What is rehearsed.
#[derive(Debug, Clone, Copy)]
pub struct Rehearsal<'a> {
    /// The parameters that are trained.
    pub selection: &'a Selection,
    /// How the weights are kept.
    pub weights: WeightStorage,
    /// Who sees whom.
    pub pattern: AttentionPattern,
    /// Batch and memory of a step.
    pub training: &'a TrainingConfig,
    /// Tokens of a window.
    pub length: usize,
}

impl Rehearsal<'_> {
    /// Takes steps on a GPU that compile every kernel, keep every byte in its books, and compute nothing: the plan by which
    /// they were taken, and the most that the device's allocator set aside, with what it loses between tensors.
    ///
    /// `llama` is on an autodiff device, with what is trained attached; its weights need not be read, and their numbers do
    /// not matter. `None` on devices that keep no books, such as the processor.
    ///
    /// # Errors
    /// [`TrainError::TensorTooLarge`]
    ///
    /// # Panics
    /// If the model is a mixture of experts: who is asked depends on numbers.
    pub fn run(&self, llama: Llama) -> Result<Option<(MemoryPlan, ByteSize)>, TrainError> {
        assert!(
            llama.config.experts.is_none(),
            "the experts of a step are chosen by what it computes"
        );
        let device = llama.device();
        if device_memory_held(&device).is_none() {
            return Ok(None);
        }
        refuse_large_tensors(&llama, self.training, self.length)?;
        Ok(rehearsed(|| {
            self.steps(with_room_for_weights(llama, self.weights, self.selection), &device)
        }))
    }

    fn steps(&self, llama: Llama, device: &Device) -> Option<(MemoryPlan, ByteSize)> {
        let plan = MemoryPlan::new(&llama, self.selection, self.training, self.length);
        let max_grad_norm = Some(self.training.max_grad_norm);
        let mut trainee =
            Trainee { llama, pattern: self.pattern, max_grad_norm, execution: plan.execution };
        let mut optimizer = Optimizer::new(self.training, 0);
        let batch = self.batch();
        let mut most = 0;
        for _ in 0..STEPS {
            let (grads, _) = trainee.gradients(&batch);
            most = most.max(device_memory_held(device)?);
            let (grads, _) = grads.clipped(&trainee.llama, 1.0);
            let rates = optimizer.rates.step();
            trainee = optimizer.step(rates, trainee, grads);
            most = most.max(device_memory_held(device)?);
        }
        Some((plan, ByteSize(most)))
    }

    /// Windows of one document each.
    fn batch(&self) -> StepBatch {
        let window = Window::new(vec![0; self.length], vec![0]);
        let windows = vec![window; self.training.batch_size];
        let micro_batch = TokenBatch::from_windows(&windows, 0);
        StepBatch {
            micro_batches: vec![micro_batch; self.training.accumulation],
            dropout: Dropout::new(0),
        }
    }
}
