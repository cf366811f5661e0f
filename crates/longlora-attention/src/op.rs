//! The operation on tensors.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Tensor, assert_shape};
use longlora_kernels::has_kernels;

use crate::backend::AttentionBackend;
use crate::layout::Layout;
use crate::reference;
use crate::segments::Segments;

/// Causal attention inside segments, differentiable in `q`, `k` and `v`.
///
/// Forward keeps the output and one log-sum-exp per query; backward recomputes the scores tile by tile
/// (FlashAttention-2, arXiv:2307.08691, alg. 1 and 2), so no `seq × seq` matrix is ever held. Query heads share key and
/// value heads in groups of `heads / kv_heads` (GQA, arXiv:2305.13245) without a copy. On a device that this build has no
/// kernels for, it is [`reference::attention`].
///
/// # Shapes
/// - `q`, result: `[batch, heads, seq, head_dim]`
/// - `k`, `v`: `[batch, kv_heads, seq, head_dim]`, `heads` a multiple of `kv_heads`
///
/// # Panics
/// If a shape does not fit the others or the segments, or the scale is not a positive number.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use longlora_attention::{AttentionPattern, Layout, attention};
///
/// let device = Device::flex();
/// let [batch, heads, kv_heads, seq, head_dim] = [1, 4, 2, 32, 8];
/// let q = Tensor::<4>::random([batch, heads, seq, head_dim], Distribution::Default, &device);
/// let k = Tensor::<4>::random([batch, kv_heads, seq, head_dim], Distribution::Default, &device);
/// let plan = AttentionPattern::LONGLORA.plan(&Layout::dense(batch, seq));
///
/// let out = attention(q.clone(), k.clone(), k, plan.layer(0), 1.0 / (head_dim as f32).sqrt());
/// assert_eq!(out.dims(), q.dims());
/// ```
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    segments: &Arc<Segments>,
    softmax_scale: f32,
) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = q.dims();
    let kv_heads = k.dims()[1];
    assert_shape!(k, [batch, kv_heads, seq, head_dim]);
    assert_shape!(v, [batch, kv_heads, seq, head_dim]);
    assert_whole_groups(heads, kv_heads);
    assert!(
        segments.rows.len() == batch && segments.seq == seq,
        "needs segments of {batch} rows of {seq} tokens, got {} of {}",
        segments.rows.len(),
        segments.seq
    );
    on_any_device(q, k, v, segments.clone(), softmax_scale)
}

/// Causal attention of the last `seq` positions of a text over the keys and values of all of it: for a text that is read
/// in chunks, or written token by token. Inference only.
///
/// The query at position `past + i` sees the keys at positions `j <= past + i` and, with a window `w`,
/// `j > past + i - w`: the last rows of [`attention`] over everything. Keys and values may be views of larger tensors
/// along their positions; they are read where they are.
///
/// # Shapes
/// - `q`, result: `[batch, heads, seq, head_dim]`
/// - `k`, `v`: `[batch, kv_heads, past + seq, head_dim]`, `heads` a multiple of `kv_heads`
///
/// # Panics
/// If a shape does not fit the others, the window is empty, the scale is not a positive number, or gradients are tracked:
/// there is no backward.
pub fn attention_over_cache(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    window: Option<usize>,
    softmax_scale: f32,
) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = q.dims();
    let [_, kv_heads, length, _] = k.dims();
    assert_shape!(k, [batch, kv_heads, length, head_dim]);
    assert_shape!(v, [batch, kv_heads, length, head_dim]);
    assert_whole_groups(heads, kv_heads);
    assert!(seq <= length, "needs a key for each query, got {seq} queries over {length} keys");
    assert!(
        ![&q, &k, &v].iter().any(|x| x.is_tracked()),
        "attention over a cache has no gradient, but a tensor is tracked"
    );
    let segments = Segments::full(&Layout::dense(batch, length));
    let segments = match window {
        None => segments,
        Some(window) => segments.with_window(window),
    };
    on_any_device(q, k, v, Arc::new(segments), softmax_scale)
}

/// By the operation that the device's backend has; else by the slow twin.
fn on_any_device(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    segments: Arc<Segments>,
    softmax_scale: f32,
) -> Tensor<4> {
    // Kernels find the largest score before they scale it.
    assert!(
        softmax_scale > 0.0 && softmax_scale.is_finite(),
        "needs a positive scale, got {softmax_scale}"
    );
    if !has_kernels(&q.device()) {
        return reference::attention(q, k, v, &segments, softmax_scale);
    }
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    let (out, _lse) = Dispatch::segment_attention(q, k, v, segments, softmax_scale);
    Tensor::from_dispatch(out)
}

fn assert_whole_groups(heads: usize, kv_heads: usize) {
    assert!(
        kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "needs whole groups of query heads, got {heads} heads for {kv_heads} kv heads"
    );
}
