//! The gated MLP of one block.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use longlora_adapters::{Dropout, LoraLinear};

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

impl Mlp {
    /// # Shapes
    /// - `x`, result: `[batch, seq, hidden_size]`
    pub fn forward(&self, x: Tensor<3>, dropout: Option<Dropout>) -> Tensor<3> {
        let part = |index| dropout.map(|dropout| dropout.part(index));
        let gate = silu(self.gate_proj.forward(x.clone(), part(4)));
        let up = self.up_proj.forward(x, part(5));
        self.down_proj.forward(gate * up, part(6))
    }
}
