//! Attention as an operation of a backend.

use std::sync::Arc;

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

use crate::qkv::{Qkv, Saved};
use crate::segments::Segments;
use crate::tiled;

/// The forward. Its default body is plain tensor operations that run anywhere; a backend may do better.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "gpu"))]
pub(crate) trait AttentionBackend: Backend {
    /// `out`: shaped like `q`; `lse`: `[batch, heads, seq, 1]`, natural log, f32 even where `q` has less: the backward
    /// subtracts it.
    ///
    /// With fewer queries than the segments have positions, the queries are those of the last ones: over a cache, where
    /// nothing is differentiated.
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Arc<Segments>,
        softmax_scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        tiled::forward::<Self>(&Qkv { q, k, v }, &segments, softmax_scale)
    }
}

/// The backward, of a backend that computes; the autodiff decorator has none, as there are no second derivatives.
pub(crate) trait AttentionGradient: AttentionBackend {
    /// `dq`, `dk`, `dv` from the inputs, what the forward returned, and the gradient of its output.
    fn segment_attention_backward(
        qkv: &Qkv<Self>,
        saved: &Saved<Self>,
        d_out: FloatTensor<Self>,
        segments: &Segments,
        softmax_scale: f32,
    ) -> Qkv<Self> {
        tiled::backward::<Self>(qkv, saved, d_out, segments, softmax_scale)
    }
}
