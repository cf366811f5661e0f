//! What is asked of a kernel.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;

use crate::qkv::Qkv;

/// Sizes and types of one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Problem {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Positions with a query: the last ones.
    pub(super) queries: usize,
    /// Positions with a key: all.
    pub(super) keys: usize,
    pub(super) head_dim: usize,
    /// Of q, k, v and the output.
    pub(super) dtype: DType,
    pub(super) softmax_scale: f32,
}

impl Problem {
    pub(super) fn new(qkv: &Qkv<CubeBackend>, softmax_scale: f32) -> Self {
        let [batch, heads, queries, head_dim] = qkv.q.shape().dims();
        let [_, kv_heads, keys, _] = qkv.k.shape().dims();
        let dtype = qkv.q.dtype();
        Self { batch, heads, kv_heads, queries, keys, head_dim, dtype, softmax_scale }
    }
}
