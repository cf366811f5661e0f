//! What a step computes besides its gradients.

use burn::tensor::ExecutionError;
use burn::train::ItemLazy;

/// What a step reports: a sum and a count, so that means stay means.
#[derive(Debug, Clone, Copy)]
pub struct StepOutput {
    /// Sum of negative log-likelihoods, in nats.
    pub nll_sum: f64,
    /// Number of targets in the sum.
    pub targets: usize,
}

impl StepOutput {
    /// Mean negative log-likelihood per target, in nats.
    pub fn loss(&self) -> f64 {
        self.nll_sum / self.targets as f64
    }
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}
