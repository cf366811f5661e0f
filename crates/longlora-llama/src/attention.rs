//! Self-attention of one block.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;
use longlora_adapters::{Dropout, LoraLinear, RopeOffset};
use longlora_attention::{attention, attention_over_cache};

use crate::cache::{CachedPass, LayerCache};
use crate::norm::normed;
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
        let dropout = pass.dropout.map(|dropout| dropout.part(layer as u64));
        let [q, k, v] = self.project(x, dropout);
        let tables = pass.tables(self.rope_offset.as_ref());
        let (q, k) = (tables.rotate(q), tables.rotate(k));
        let out = attention(q, k, v, pass.segments(layer), self.softmax_scale());
        self.join(out, dropout)
    }

    /// The same of new tokens alone, after those whose keys and values `cache` holds; theirs are added to it.
    ///
    /// # Shapes
    /// - `x`, result: `[1, seq, hidden_size]`
    pub(crate) fn forward_cached(
        &self,
        x: Tensor<3>,
        layer: usize,
        cache: &mut LayerCache,
        pass: &CachedPass,
    ) -> Tensor<3> {
        let [q, k, v] = self.project(x, None);
        let offset = self.rope_offset.as_ref();
        let q = pass.tables(offset).rotate(q);
        let (k, v) = cache.extend(k, v, offset, pass);
        let out = attention_over_cache(q, k, v, pass.windows[layer], self.softmax_scale());
        self.join(out, None)
    }

    /// Queries, keys and values before their rotation: `[batch, heads or kv_heads, seq, head_dim]`.
    fn project(&self, x: Tensor<3>, dropout: Option<Dropout>) -> [Tensor<4>; 3] {
        let [batch, seq, _] = x.dims();
        let part = |index| dropout.map(|dropout| dropout.part(index));
        // [batch, seq, heads · head_dim] -> [batch, heads, seq, head_dim]
        let heads = |x: Tensor<3>, norm: Option<&RmsNorm>| {
            let heads = x.dims()[2] / self.head_dim;
            let x = x.reshape([batch, seq, heads, self.head_dim]);
            norm.map_or(x.clone(), |norm| normed(x, norm)).swap_dims(1, 2)
        };
        let q = heads(self.q_proj.forward(x.clone(), part(0)), self.q_norm.as_ref());
        let k = heads(self.k_proj.forward(x.clone(), part(1)), self.k_norm.as_ref());
        let v = heads(self.v_proj.forward(x, part(2)), None);
        [q, k, v]
    }

    fn softmax_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// What the heads found, side by side, through the last projection: `[batch, seq, hidden_size]`.
    fn join(&self, out: Tensor<4>, dropout: Option<Dropout>) -> Tensor<3> {
        let [batch, heads, seq, head_dim] = out.dims();
        let out = out.swap_dims(1, 2).reshape([batch, seq, heads * head_dim]);
        self.o_proj.forward(out, dropout.map(|dropout| dropout.part(3)))
    }
}
