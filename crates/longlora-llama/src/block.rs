//! One transformer block.

use burn::module::Module;
use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use crate::attention::SelfAttention;
use crate::cache::{CachedPass, LayerCache};
use crate::feed_forward::FeedForward;
use crate::norm::normed;
use crate::pass::Pass;

/// Tokens that an MLP takes at a time. A multiple of what the linear layers cut rows into, so that nothing is smaller for
/// it.
pub(crate) const TOKENS_PER_TILE: usize = 4096;

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
        let hidden_states = self.attend(hidden_states, layer, pass);
        let shape = hidden_states.dims();
        let tiles = Self::tiles(hidden_states).into_iter().enumerate();
        let outputs = tiles.map(|(tile, hidden)| self.feed_forward(hidden, layer, tile, pass));
        Self::join(outputs.collect(), shape)
    }

    /// The first half: attention behind its norm, added to the residual stream.
    ///
    /// # Shapes
    /// - `hidden_states`, result: `[batch, seq, hidden_size]`
    pub fn attend(&self, hidden_states: Tensor<3>, layer: usize, pass: &Pass) -> Tensor<3> {
        let x = normed(hidden_states.clone(), &self.input_layernorm);
        hidden_states + self.self_attn.forward(x, layer, pass)
    }

    /// The second half, of one of the [tiles](Self::tiles): the MLP behind its norm, added to the residual stream.
    ///
    /// # Shapes
    /// - `hidden_states`, result: `[1, tokens, hidden_size]`
    pub fn feed_forward(
        &self,
        hidden_states: Tensor<3>,
        layer: usize,
        tile: usize,
        pass: &Pass,
    ) -> Tensor<3> {
        let x = normed(hidden_states.clone(), &self.post_attention_layernorm);
        let dropout = pass.dropout.map(|dropout| dropout.part(layer as u64));
        // The first tile draws as a short text does, which has no other.
        let dropout = dropout.map(|it| if tile == 0 { it } else { it.part(tile as u64) });
        hidden_states + self.mlp.forward(x, dropout)
    }

    /// All tokens of a batch in the tiles that the MLP takes one after the other: what is wide inside it exists for one
    /// tile alone, however long the text. Views, not copies.
    ///
    /// # Shapes
    /// - `hidden_states`: `[batch, seq, hidden_size]`; results: `[1, tokens, hidden_size]`
    pub fn tiles(hidden_states: Tensor<3>) -> Vec<Tensor<3>> {
        let [batch, seq, width] = hidden_states.dims();
        let tokens = batch * seq;
        let all = hidden_states.reshape([1, tokens, width]);
        if tokens <= TOKENS_PER_TILE {
            return vec![all];
        }
        let starts = (0..tokens).step_by(TOKENS_PER_TILE);
        starts.map(|at| all.clone().narrow(1, at, TOKENS_PER_TILE.min(tokens - at))).collect()
    }

    /// The inverse of [`Self::tiles`].
    ///
    /// # Shapes
    /// - `tiles`: `[1, tokens, hidden_size]`; result: `shape`
    pub fn join(mut tiles: Vec<Tensor<3>>, shape: [usize; 3]) -> Tensor<3> {
        let all = if tiles.len() == 1 { tiles.remove(0) } else { Tensor::cat(tiles, 1) };
        all.reshape(shape)
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
