//! The tensors of one call.

use burn::backend::{Backend, tensor::FloatTensor};

/// Queries, keys and values, or their gradients.
///
/// `q`: `[batch, heads, seq, head_dim]`; `k`, `v`: `[batch, kv_heads, seq, head_dim]`, or longer in the forward over a
/// cache.
#[derive(Debug, Clone)]
pub(crate) struct Qkv<B: Backend> {
    pub(crate) q: FloatTensor<B>,
    pub(crate) k: FloatTensor<B>,
    pub(crate) v: FloatTensor<B>,
}

/// What the forward keeps for the backward.
///
/// `out`: `[batch, heads, seq, head_dim]`; `lse`: `[batch, heads, seq, 1]`, f32.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: Backend> {
    pub(crate) out: FloatTensor<B>,
    pub(crate) lse: FloatTensor<B>,
}
