//! What follows attention: one MLP, or a mixture.

use burn::module::Module;
use burn::tensor::Tensor;
use longlora_adapters::Dropout;

use crate::experts::Experts;
use crate::mlp::Mlp;

/// What follows attention in a block.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per block, and its weights are larger")]
pub enum FeedForward {
    /// One MLP.
    Dense(Mlp),
    /// A mixture of them.
    Experts(Experts),
}

impl FeedForward {
    /// # Shapes
    /// - `x`, result: `[batch, seq, hidden_size]`
    pub fn forward(&self, x: Tensor<3>, dropout: Option<Dropout>) -> Tensor<3> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, dropout),
            Self::Experts(experts) => experts.forward(x),
        }
    }
}
