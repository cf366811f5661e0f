//! One line of a run's metrics.

use serde::{Deserialize, Serialize};

/// One step, as `metrics.jsonl` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Steps taken, this one included.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Mean negative log-likelihood per target before the step, in nats.
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the base group.
    pub learning_rate: f64,
    /// Tokens of this step.
    pub tokens: usize,
    /// Wall-clock time of this step.
    pub step_time_ms: f64,
    /// Largest resident memory of the process so far; absent where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// What the allocator of the GPU holds after the step, which is seldom less than within it; absent on the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_memory_bytes: Option<u64>,
}

impl StepReport {
    /// Speed of this step.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 * 1000.0 / self.step_time_ms
    }

    /// What is scarce: the memory of the GPU, or else that of the process.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.device_memory_bytes.or(self.peak_memory_bytes)
    }
}
