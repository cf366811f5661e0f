//! One transformer block.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use crate::attention::SelfAttention;
use crate::cache::{CachedPass, LayerCache};
use crate::mlp::FeedForward;
use crate::norm::normed;
use crate::pass::Pass;

/// Attention and MLP, each behind a norm and added to the residual stream.
#[derive(Module, Debug)]
pub struct Block {
    /// Attention.
    pub self_attn: SelfAttention,
    /// Gated MLP, or several.
    pub mlp: FeedForward,
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
}

impl Block {
    /// `layer` is the block's index, from 0: it chooses the segments and the dropout.
    ///
    /// # Shapes
    /// - `hidden_states`, result: `[batch, seq, hidden_size]`
    pub fn forward(&self, hidden_states: Tensor<3>, layer: usize, pass: &Pass) -> Tensor<3> {
        let x = normed(hidden_states.clone(), &self.input_layernorm);
        let hidden_states = hidden_states + self.self_attn.forward(x, layer, pass);
        let x = normed(hidden_states.clone(), &self.post_attention_layernorm);
        let dropout = pass.dropout.map(|dropout| dropout.part(layer as u64));
        hidden_states + self.mlp.forward(x, dropout)
    }

    /// The same of new tokens alone, after those that `cache` holds.
    ///
    /// # Shapes
    /// - `hidden_states`, result: `[1, seq, hidden_size]`
    pub(crate) fn forward_cached(
        &self,
        hidden_states: Tensor<3>,
        layer: usize,
        cache: &mut LayerCache,
        pass: &CachedPass,
    ) -> Tensor<3> {
        let x = normed(hidden_states.clone(), &self.input_layernorm);
        let hidden_states = hidden_states + self.self_attn.forward_cached(x, layer, cache, pass);
        let x = normed(hidden_states.clone(), &self.post_attention_layernorm);
        hidden_states + self.mlp.forward(x, None)
    }
}
