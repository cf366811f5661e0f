//! The slow, obvious twin: plain tensor operations, every score held at once.
//!
//! It is never optimised. The fast paths mean what this file says.

use burn::tensor::{Bool, Device, Tensor, TensorData, activation::softmax};

use crate::segments::Segments;

/// Finite, so that no gradient becomes NaN; its exponential is exactly zero in f32.
const HIDDEN_SCORE: f32 = -1e30;

/// Attention inside `segments`, as [`crate::attention`] means it and, where there are fewer queries than keys, as
/// [`crate::attention_over_cache`] does: the queries are those of the last positions.
///
/// `out = softmax(softmax_scale · q·kᵀ, hidden scores removed) · v`
///
/// # Shapes
/// - `q`, result: `[batch, heads, seq, head_dim]`
/// - `k`, `v`: `[batch, kv_heads, past + seq, head_dim]`, the segments' length
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    segments: &Segments,
    softmax_scale: f32,
) -> Tensor<4> {
    let [_, heads, seq, _] = q.dims();
    let masked_out = masked_out(segments, heads, &q.device());
    let masked_out = masked_out.narrow(2, segments.seq - seq, seq);
    let scores = q.matmul(repeat_kv(k, heads).swap_dims(2, 3)).mul_scalar(softmax_scale);
    softmax(scores.mask_fill(masked_out, HIDDEN_SCORE), 3).matmul(repeat_kv(v, heads))
}

/// Which key positions are hidden from which query positions: `true` may not be seen.
///
/// # Shapes
/// - result: `[batch, heads, seq, seq]`, queries before keys
pub fn masked_out(segments: &Segments, heads: usize, device: &Device) -> Tensor<4, Bool> {
    let (batch, seq) = (segments.rows.len(), segments.seq);
    let mut hidden = vec![true; batch * heads * seq * seq];
    for row in 0..batch {
        for head in 0..heads {
            for span in segments.spans(row, head, heads) {
                for query in span.clone() {
                    let start = ((row * heads + head) * seq + query) * seq;
                    for key in segments.first_visible(query, span.start)..=query {
                        hidden[start + key] = false;
                    }
                }
            }
        }
    }
    Tensor::from_data(TensorData::new(hidden, [batch, heads, seq, seq]), device)
}

/// Gives each query head a copy of its key or value head.
fn repeat_kv(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, kv_heads, seq, head_dim] = x.dims();
    let queries_per_kv = heads / kv_heads;
    x.unsqueeze_dim::<5>(2)
        .expand([batch, kv_heads, queries_per_kv, seq, head_dim])
        .reshape([batch, heads, seq, head_dim])
}
