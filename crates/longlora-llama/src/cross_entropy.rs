//! Negative log-likelihoods of a model.

use burn::tensor::Tensor;
use longlora_kernels::nll;

use crate::llama::Llama;

impl Llama {
    /// Negative log-likelihood of each target, in nats, zero where there is none; no graph, no whole logits.
    ///
    /// # Shapes
    /// - `hidden`: `[tokens, hidden_size]`; `targets` and result: `tokens` entries
    pub fn nll(&self, hidden: Tensor<2>, targets: &[i64]) -> Vec<f32> {
        nll(hidden, self.head(), targets)
    }
}
