//! Attention by plain tensor operations, one tile of queries at a time: the path of every backend without a kernel.
//!
//! A tile is a run of queries of one span, in those heads of one half that share a key and value head. Its scores are
//! all that is held: `[queries of the heads, visible keys]`.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape, Slice, TensorData};

use crate::qkv::{Qkv, Saved};
use crate::segments::Segments;

/// Queries per tile and head.
const TILE: usize = 128;

/// `(out, lse)`; the scores are `s = softmax_scale · q·kᵀ`, `lse = log Σ exp(s)`, `out = exp(s - lse)·v`.
pub(crate) fn forward<B: Backend>(
    qkv: &Qkv<B>,
    segments: &Segments,
    softmax_scale: f32,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [batch, heads, seq, _] = qkv.q.shape().dims::<4>();
    let past = segments.seq - seq;
    let device = qkv.q.device();
    let mut out = B::float_zeros(qkv.q.shape(), &device, qkv.q.dtype().into());
    let mut lse = B::float_zeros(Shape::new([batch, heads, seq, 1]), &device, of_sums(&qkv.q));
    for tile in tiles(segments, past, heads, qkv.k.shape().dims::<4>()[1]) {
        let scores = tile.scores::<B>(qkv, segments, softmax_scale);
        let max = B::float_max_dim(scores.clone(), 3);
        let weights = B::float_exp(B::float_sub(scores, max.clone()));
        let sum = B::float_sum_dim(weights.clone(), 3);
        let out_tile = B::float_matmul(weights, tile.keys_of::<B>(&qkv.v));
        out = tile.write::<B>(out, B::float_div(out_tile, sum.clone()));
        lse = tile.write::<B>(lse, B::float_add(max, B::float_log(sum)));
    }
    (out, lse)
}

/// `dq`, `dk`, `dv`.
///
/// With `p = exp(s - lse)`, `delta = rowsum(d_out ⊙ out)` and `ds = p ⊙ (d_out·vᵀ - delta)`:
/// `dv = pᵀ·d_out`, `dq = softmax_scale · ds·k`, `dk = softmax_scale · dsᵀ·q` (arXiv:2307.08691, alg. 2).
pub(crate) fn backward<B: Backend>(
    qkv: &Qkv<B>,
    saved: &Saved<B>,
    d_out: FloatTensor<B>,
    segments: &Segments,
    softmax_scale: f32,
) -> Qkv<B> {
    let heads = qkv.q.shape().dims::<4>()[1];
    let zeros = |x: &FloatTensor<B>| B::float_zeros(x.shape(), &x.device(), of_sums(x));
    let mut gradient = Qkv::<B> { q: zeros(&qkv.q), k: zeros(&qkv.k), v: zeros(&qkv.v) };
    for tile in tiles(segments, 0, heads, qkv.k.shape().dims::<4>()[1]) {
        let scores = tile.scores::<B>(qkv, segments, softmax_scale);
        let weights = B::float_exp(B::float_sub(scores, tile.queries_of::<B>(&saved.lse)));
        let d_out = tile.queries_of::<B>(&d_out);
        let delta = B::float_mul(d_out.clone(), tile.queries_of::<B>(&saved.out));
        let delta = B::float_sum_dim(delta, 3);

        let dv = B::float_matmul(B::float_transpose(weights.clone()), d_out.clone());
        gradient.v = tile.add_to_keys::<B>(gradient.v, dv);

        let d_weights = B::float_matmul(d_out, B::float_transpose(tile.keys_of::<B>(&qkv.v)));
        let d_scores = B::float_mul(weights, B::float_sub(d_weights, delta));
        let d_scores = B::float_mul_scalar(d_scores, softmax_scale.into());
        let dk =
            B::float_matmul(B::float_transpose(d_scores.clone()), tile.queries_of::<B>(&qkv.q));
        gradient.k = tile.add_to_keys::<B>(gradient.k, dk);
        let dq = B::float_matmul(d_scores, tile.keys_of::<B>(&qkv.k));
        gradient.q = tile.write::<B>(gradient.q, dq);
    }
    let like = |gradient, x: &FloatTensor<B>| B::float_cast(gradient, x.dtype().into());
    Qkv { q: like(gradient.q, &qkv.q), k: like(gradient.k, &qkv.k), v: like(gradient.v, &qkv.v) }
}

/// The type of what is summed up: f32, or f64 where the numbers are.
fn of_sums(x: &impl TensorMetadata) -> FloatDType {
    if x.dtype() == DType::F64 { FloatDType::F64 } else { FloatDType::F32 }
}

/// A run of queries, and everything they may see.
struct Tile {
    row: usize,
    heads: Range<usize>,
    kv_head: usize,
    span_start: usize,
    queries: Range<usize>,
    keys: Range<usize>,
    /// Positions before the first query.
    past: usize,
}

fn tiles(segments: &Segments, past: usize, heads: usize, kv_heads: usize) -> Vec<Tile> {
    let queries_per_kv = heads / kv_heads;
    let mut tiles = Vec::new();
    for row in 0..segments.rows.len() {
        for kv_head in 0..kv_heads {
            for heads_of_half in halves(heads, kv_head * queries_per_kv, queries_per_kv) {
                for span in segments.spans(row, heads_of_half.start, heads) {
                    for start in (span.start.max(past)..span.end).step_by(TILE) {
                        let end = span.end.min(start + TILE);
                        tiles.push(Tile {
                            row,
                            heads: heads_of_half.clone(),
                            kv_head,
                            span_start: span.start,
                            queries: start..end,
                            keys: segments.first_visible(start, span.start)..end,
                            past,
                        });
                    }
                }
            }
        }
    }
    tiles
}

/// The query heads of one kv head, cut where the second half of all heads begins.
fn halves(heads: usize, first: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let middle = (heads / 2).clamp(first, first + count);
    [first..middle, middle..first + count].into_iter().filter(|range| !range.is_empty())
}

impl Tile {
    fn query_slices(&self) -> [Slice; 4] {
        [
            Slice::from(self.row..self.row + 1),
            Slice::from(self.heads.clone()),
            Slice::from(self.queries.start - self.past..self.queries.end - self.past),
            Slice::full(),
        ]
    }

    fn key_slices(&self) -> [Slice; 4] {
        [
            Slice::from(self.row..self.row + 1),
            Slice::from(self.kv_head..self.kv_head + 1),
            Slice::from(self.keys.clone()),
            Slice::full(),
        ]
    }

    /// The tile's part of a query-shaped tensor, in the type of sums: `[1, 1, heads · queries, width]`.
    fn queries_of<B: Backend>(&self, x: &FloatTensor<B>) -> FloatTensor<B> {
        let part = B::float_slice(x.clone(), &self.query_slices());
        let [_, heads, queries, width] = part.shape().dims::<4>();
        let part = B::float_reshape(part, Shape::new([1, 1, heads * queries, width]));
        B::float_cast(part, of_sums(x))
    }

    /// The tile's part of a key-shaped tensor, in the type of sums: `[1, 1, keys, width]`.
    fn keys_of<B: Backend>(&self, x: &FloatTensor<B>) -> FloatTensor<B> {
        B::float_cast(B::float_slice(x.clone(), &self.key_slices()), of_sums(x))
    }

    /// Puts the tile's result where its queries are.
    fn write<B: Backend>(&self, into: FloatTensor<B>, tile: FloatTensor<B>) -> FloatTensor<B> {
        let width = tile.shape().dims::<4>()[3];
        let shape = Shape::new([1, self.heads.len(), self.queries.len(), width]);
        let tile = B::float_cast(B::float_reshape(tile, shape), into.dtype().into());
        B::float_slice_assign(into, &self.query_slices(), tile)
    }

    fn add_to_keys<B: Backend>(
        &self,
        into: FloatTensor<B>,
        tile: FloatTensor<B>,
    ) -> FloatTensor<B> {
        let sum = B::float_add(B::float_slice(into.clone(), &self.key_slices()), tile);
        B::float_slice_assign(into, &self.key_slices(), sum)
    }

    /// `softmax_scale · q·kᵀ`, hidden scores at minus infinity: `[1, 1, heads · queries, keys]`.
    fn scores<B: Backend>(
        &self,
        qkv: &Qkv<B>,
        segments: &Segments,
        softmax_scale: f32,
    ) -> FloatTensor<B> {
        let keys = B::float_transpose(self.keys_of::<B>(&qkv.k));
        let scores = B::float_matmul(self.queries_of::<B>(&qkv.q), keys);
        let scores = B::float_mul_scalar(scores, softmax_scale.into());
        let bias = B::float_from_data(self.bias(segments), &qkv.q.device());
        B::float_add(scores, B::float_cast(bias, of_sums(&qkv.q)))
    }

    /// Zero where a query sees a key, minus infinity where not.
    fn bias(&self, segments: &Segments) -> TensorData {
        let one_head = self.queries.clone().flat_map(|query| {
            let first = segments.first_visible(query, self.span_start);
            self.keys.clone().map(move |key| {
                if (first..=query).contains(&key) { 0.0 } else { f32::NEG_INFINITY }
            })
        });
        let one_head: Vec<f32> = one_head.collect();
        let shape = [1, 1, self.heads.len() * self.queries.len(), self.keys.len()];
        TensorData::new(one_head.repeat(self.heads.len()), shape)
    }
}
