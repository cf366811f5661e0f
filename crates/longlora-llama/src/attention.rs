//! Self-attention of one block.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;
use longlora_adapters::{LoraLinear, RopeOffset};
use longlora_attention::attention;

use crate::pass::Pass;

/// Projections around [`attention`]; field names are the checkpoint's.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// `[hidden_size, heads · head_dim]`
    pub q_proj: LoraLinear,
    /// `[hidden_size, kv_heads · head_dim]`
    pub k_proj: LoraLinear,
    /// `[hidden_size, kv_heads · head_dim]`
    pub v_proj: LoraLinear,
    /// `[heads · head_dim, hidden_size]`
    pub o_proj: LoraLinear,
    /// Norm of each query head, where the family has one.
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head, where the family has one.
    pub k_norm: Option<RmsNorm>,
    /// Learnable RoPE offsets of this layer.
    pub rope_offset: Option<RopeOffset>,
    #[module(skip)]
    pub(crate) head_dim: usize,
}

impl SelfAttention {
    /// # Shapes
    /// - `x`, result: `[batch, seq, hidden_size]`
    pub fn forward(&self, x: Tensor<3>, layer: usize, pass: &Pass) -> Tensor<3> {
        let [batch, seq, _] = x.dims();
        let dropout = pass.dropout.map(|dropout| dropout.part(layer as u64));
        let part = |index| dropout.map(|dropout| dropout.part(index));
        // [batch, seq, heads · head_dim] -> [batch, heads, seq, head_dim]
        let heads = |x: Tensor<3>, norm: Option<&RmsNorm>| {
            let heads = x.dims()[2] / self.head_dim;
            let x = x.reshape([batch, seq, heads, self.head_dim]);
            norm.map_or(x.clone(), |norm| norm.forward(x)).swap_dims(1, 2)
        };
        let q = heads(self.q_proj.forward(x.clone(), part(0)), self.q_norm.as_ref());
        let k = heads(self.k_proj.forward(x.clone(), part(1)), self.k_norm.as_ref());
        let v = heads(self.v_proj.forward(x, part(2)), None);

        let tables = pass.tables(self.rope_offset.as_ref());
        let (q, k) = (tables.rotate(q), tables.rotate(k));
        let softmax_scale = 1.0 / (self.head_dim as f32).sqrt();
        let out = attention(q, k, v, pass.segments(layer), softmax_scale);

        let width = out.dims()[1] * self.head_dim;
        self.o_proj.forward(out.swap_dims(1, 2).reshape([batch, seq, width]), part(3))
    }
}
