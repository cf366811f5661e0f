//! The gated MLP of one block.

use burn::module::Module;
use burn::tensor::Tensor;
use longlora_adapters::{Dropout, LoraLinear};
use longlora_kernels::swiglu;

use crate::experts::Experts;

/// What follows attention in a block.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one per block, and its weights are larger")]
pub enum FeedForward {
    /// One MLP.
    Dense(Mlp),
    /// A mixture of them.
    Experts(Experts),
}

/// `down(silu(gate(x)) ⊙ up(x))`: SwiGLU (arXiv:2002.05202).
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[hidden_size, intermediate_size]`
    pub gate_proj: LoraLinear,
    /// `[hidden_size, intermediate_size]`
    pub up_proj: LoraLinear,
    /// `[intermediate_size, hidden_size]`
    pub down_proj: LoraLinear,
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

impl Mlp {
    /// # Shapes
    /// - `x`, result: `[.., hidden_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
        let part = |index| dropout.map(|dropout| dropout.part(index));
        let gate = self.gate_proj.forward(x.clone(), part(4));
        let up = self.up_proj.forward(x, part(5));
        self.down_proj.forward(swiglu(gate, up), part(6))
    }
}
