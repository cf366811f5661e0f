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
    /// Largest resident memory so far; absent where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
}

impl StepReport {
    /// Speed of this step.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 * 1000.0 / self.step_time_ms
    }
}
