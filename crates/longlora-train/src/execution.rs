//! How a step is executed: what changes its time and its memory, and not its result.

use std::fmt;

use burn::tensor::Device;
use bytesize::ByteSize;
use longlora_llama::{
    Footprint, Llama, Selection, WeightStorage, device_buffer, device_memory, largest_tensor,
};
use sysinfo::System;

use crate::config::TrainingConfig;
use crate::error::TrainError;
use crate::kept_input::InputsWait;

/// Largest share of what is free of the machine's memory at the start, which a run takes unasked.
const SHARE_OF_FREE: f64 = 0.8;
/// The same of all that a GPU has. Its allocator cuts tensors from pages as large as the largest of them, and loses what is left of
/// a page: up to a quarter more than the tensors was seen (docs/performance.md).
const SHARE_OF_GPU: f64 = 0.7;
/// What the program itself takes, its tokens and its tables.
const PROGRAM: u64 = 64 << 20;

/// How the micro-batches of a step are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// Micro-batches that run side by side.
    pub parallel: usize,
    /// Blocks, from the last, that keep their activations for the backward; the others are run again from their inputs.
    pub kept_blocks: usize,
    /// Where the inputs of those wait.
    pub inputs_wait: InputsWait,
}

impl Execution {
    /// One micro-batch at a time in the least memory: every block is run twice.
    pub const SMALLEST: Self =
        Self { parallel: 1, kept_blocks: 0, inputs_wait: InputsWait::OnDevice };
}

/// How many blocks keep their activations within a budget, and what that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What may be taken; `None`, if nobody named it and the GPU does not tell what it has.
    pub budget: Option<ByteSize>,
    /// What will be taken at the peak, as predicted.
    pub predicted: ByteSize,
    /// Blocks of the model.
    pub blocks: usize,
    /// How steps are to be run.
    pub execution: Execution,
}

impl MemoryPlan {
    /// As many blocks as fit into the budget that `training` names; else into most of the memory that a GPU has, or that is
    /// free on the processor. None, if not even the rest fits, or the GPU does not tell.
    ///
    /// `length` is that of a window.
    pub fn new(
        llama: &Llama,
        selection: &Selection,
        training: &TrainingConfig,
        length: usize,
    ) -> Self {
        Self::kept_as(WeightStorage::F32, llama, selection, training, length)
    }

    /// The same, where weights that were not read yet will be kept as `storage` says.
    pub fn kept_as(
        storage: WeightStorage,
        llama: &Llama,
        selection: &Selection,
        training: &TrainingConfig,
        length: usize,
    ) -> Self {
        let footprint = Footprint::kept_as(storage, llama, selection);
        let is_processor = llama.device().without_autodiff() == Device::flex();
        let parallel = if is_processor { training.parallel.min(training.accumulation) } else { 1 };
        let tokens = length * training.batch_size;
        let gradients = if training.accumulation > 1 { parallel + 1 } else { 1 };
        let share = |bytes: u64, share: f64| ByteSize((bytes as f64 * share) as u64);
        let unasked = || match is_processor {
            // What was read of the weights is no longer free.
            true => Some(share(free_memory() + footprint.read, SHARE_OF_FREE)),
            false => device_memory(&llama.device()).map(|bytes| share(bytes, SHARE_OF_GPU)),
        };
        let budget = training.memory.or_else(unasked);
        // A run that began on a GPU may go on where the inputs are in the host's memory already.
        let inputs_wait = if is_processor { InputsWait::OnDevice } else { training.inputs_wait() };
        let inputs_away = inputs_wait == InputsWait::InHostMemory;
        let predicted = |kept| {
            ByteSize(PROGRAM + footprint.peak(parallel, tokens, gradients, kept, inputs_away))
        };
        let fits = |kept: &usize| budget.is_some_and(|budget| predicted(*kept) <= budget);
        let kept_blocks = (0..=footprint.blocks).rev().find(fits).unwrap_or(0);
        Self {
            budget,
            predicted: predicted(kept_blocks),
            blocks: footprint.blocks,
            execution: Execution { parallel, kept_blocks, inputs_wait },
        }
    }

    /// Whether the prediction is within the budget, as far as that is known.
    pub fn fits(&self) -> bool {
        self.budget.is_none_or(|budget| self.predicted <= budget)
    }
}

/// Refuses a step with a tensor that the device has no buffer for, which no plan can help.
pub(crate) fn refuse_large_tensors(
    llama: &Llama,
    training: &TrainingConfig,
    length: usize,
) -> Result<(), TrainError> {
    let tokens = length * training.batch_size;
    let needed = ByteSize(largest_tensor(llama, tokens));
    match device_buffer(&llama.device()).map(ByteSize) {
        Some(most) if needed > most => Err(TrainError::TensorTooLarge { tokens, needed, most }),
        _ => Ok(()),
    }
}

/// A sentence for the user.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, predicted, blocks, execution: Execution { kept_blocks, .. } } = self;
        match budget {
            Some(budget) => write!(f, "memory: about {predicted:.1} of {budget:.1}; ")?,
            None => write!(
                f,
                "memory: about {predicted:.1}; the driver does not tell how much there is, so name it as `training.memory`; "
            )?,
        }
        match kept_blocks {
            0 => write!(f, "all {blocks} blocks are run again in the backward"),
            kept if kept == blocks => write!(f, "nothing is run again in the backward"),
            kept => write!(f, "{} of {blocks} blocks are run again in the backward", blocks - kept),
        }
    }
}

/// Memory that is free now, in bytes, within the limits of a container.
fn free_memory() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let in_container = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(in_container)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longlora_adapters::AdapterConfig;
    use longlora_llama::{ComputeType, LlamaConfig};
    use serde_json::json;

    use super::*;
    use crate::testing::tiny;

    /// Two micro-batches at once of three windows of 50 tokens each, with a gradient each and their sum.
    #[test]
    fn as_many_blocks_are_kept_as_fit_to_the_byte() {
        let llama = tiny();
        let footprint = Footprint::of(&llama, &Selection::Base);
        let peak = |kept| PROGRAM + footprint.peak(2, 3 * 50, 3, kept, false);
        let plan = |bytes| {
            let memory = Some(ByteSize(bytes));
            let sizes = TrainingConfig { batch_size: 3, parallel: 2, ..TrainingConfig::default() };
            MemoryPlan::new(&llama, &Selection::Base, &TrainingConfig { memory, ..sizes }, 50)
        };
        for kept in 1..=3 {
            let fitting = plan(peak(kept));
            assert_eq!(fitting.execution.kept_blocks, kept);
            assert_eq!(fitting.predicted, ByteSize(peak(kept)));
            assert!(fitting.fits());
            assert_eq!(plan(peak(kept) - 1).execution.kept_blocks, kept - 1);
        }
        // A block that is run again takes as much as one that is kept.
        assert_eq!(peak(0), peak(1));
        assert!(!plan(peak(0) - 1).fits());
        assert_eq!(plan(u64::MAX).execution.kept_blocks, 3);
    }

    /// LongLoRA takes 46.4 GB of each of eight GPUs for it, with FlashAttention-2 (table 12).
    #[test]
    fn llama_2_7b_at_32768_tokens_is_planned_within_28_gib_and_in_nf4_within_20() {
        let config = json!({ "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5 });
        let config = config.as_object().unwrap().clone();
        let config = LlamaConfig::from_hugging_face(config, Path::new("config.json")).unwrap();
        let adapters = AdapterConfig::longlora();
        let llama = config.init(&Device::flex().autodiff()).computing_in(ComputeType::Bf16);
        let llama = llama.attach(&adapters, 0);
        let memory = Some(ByteSize(1));
        let training = TrainingConfig { accumulation: 1, memory, ..TrainingConfig::default() };
        let selection = Selection::Adapter(adapters);
        let gib = |storage| {
            let plan = MemoryPlan::kept_as(storage, &llama, &selection, &training, 32_768);
            plan.predicted.as_u64() as f64 / (1u64 << 30) as f64
        };
        assert!((25.0..28.0).contains(&gib(WeightStorage::Bf16)), "{}", gib(WeightStorage::Bf16));
        assert!((16.0..20.0).contains(&gib(WeightStorage::Nf4)), "{}", gib(WeightStorage::Nf4));
    }
}
