//! The gated MLP of one block.

use burn::module::Module;
use burn::tensor::Tensor;
use longlora_adapters::{Dropout, LoraLinear};
use longlora_kernels::swiglu;

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
    /// - `x`, result: `[.., hidden_size]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
        let part = |index| dropout.map(|dropout| dropout.part(index));
        let gate = self.gate_proj.forward(x.clone(), part(4));
        let up = self.up_proj.forward(x, part(5));
        self.down_proj.forward(swiglu(gate, up), part(6))
    }
}
