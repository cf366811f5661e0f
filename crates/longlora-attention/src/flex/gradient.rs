//! Gradients of queries, keys and values, scores recomputed from the log-sum-exp.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Columns, Right, Rows, multiply, multiply_add, spread, stride_of, transpose};
use super::problem::{Piece, Problem, Queries, tiles};
use longlora_kernels::rows::{dot, exp_and_sum};

/// Queries and keys per tile.
const TILE: usize = 64;
/// Between rows of a tile.
const STRIDE: usize = stride_of(TILE);

/// What the backward reads, each in the layout of [`Problem`]'s shapes.
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: Queries<'a>,
    pub(super) lse: &'a [f32],
    pub(super) d_out: Queries<'a>,
}

/// Keys that one task takes at least.
const KEYS: usize = 1024;
/// Tasks that a span is cut into at most: each has gradients of its queries of its own.
const PARTS: usize = 8;

/// `(dq, dk, dv)`.
///
/// Each part of the keys of each span of each query head is computed apart; those that share queries or a key head are
/// added up in a fixed order, so the result does not depend on the number of threads.
pub(super) fn gradient(
    problem: &Problem<'_>,
    inputs: &Inputs<'_>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let arch = pulp::Arch::new();
    let pieces = problem.pieces();
    let parts: Vec<Part<'_>> =
        pieces.iter().flat_map(|piece| Part::all(problem, piece, inputs)).collect();
    let results: Vec<(&Part<'_>, PartGradient)> =
        parts.par_iter().map(|part| (part, arch.dispatch(part))).collect();

    let heads: Vec<_> =
        results.chunk_by(|(a, _), (b, _)| a.query_head() == b.query_head()).collect();
    let kv_heads: Vec<_> = results.chunk_by(|(a, _), (b, _)| a.kv_head() == b.kv_head()).collect();
    let mut dq = vec![0.0; inputs.q.len()];
    dq.par_chunks_mut(problem.seq * problem.head_dim).zip(heads).for_each(|(dq, results)| {
        for (part, result) in results {
            add(&mut dq[part.queries.start * problem.head_dim..], &result.dq, problem.head_dim);
        }
    });
    let sum_of_keys = |of: fn(&PartGradient) -> &[f32], sum: &mut [f32]| {
        sum.par_chunks_mut(problem.seq * problem.head_dim).zip(&kv_heads).for_each(
            |(sum, results)| {
                for (part, result) in *results {
                    let sum = &mut sum[part.keys.start * problem.head_dim..];
                    add(sum, of(result), problem.head_dim);
                }
            },
        );
    };
    let mut dk = vec![0.0; inputs.k.len()];
    sum_of_keys(|result| &result.dk, &mut dk);
    let mut dv = vec![0.0; inputs.v.len()];
    sum_of_keys(|result| &result.dv, &mut dv);
    (dq, dk, dv)
}

/// Adds rows of `width` that are `stride_of(width)` apart.
fn add(sum: &mut [f32], terms: &[f32], width: usize) {
    for (sum, terms) in sum.chunks_exact_mut(width).zip(terms.chunks_exact(stride_of(width))) {
        sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
}

/// Rows of `head_dim` entries, `stride_of(head_dim)` apart.
struct PartGradient {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Some keys of a span, and the queries that see one of them.
struct Part<'a> {
    problem: &'a Problem<'a>,
    piece: &'a Piece,
    inputs: &'a Inputs<'a>,
    keys: Range<usize>,
    queries: Range<usize>,
}

impl<'a> Part<'a> {
    /// Row and query head.
    fn query_head(&self) -> (usize, usize) {
        (self.piece.row, self.piece.head)
    }

    /// Row and key head.
    fn kv_head(&self) -> (usize, usize) {
        (self.piece.row, self.piece.head / self.problem.queries_per_kv())
    }

    fn all(
        problem: &'a Problem<'a>,
        piece: &'a Piece,
        inputs: &'a Inputs<'a>,
    ) -> impl Iterator<Item = Self> {
        let span = piece.span.clone();
        let size = span.len().div_ceil(PARTS).max(KEYS).next_multiple_of(TILE);
        tiles(span, size).map(move |keys| {
            let queries = keys.start..problem.last_seeing(piece, &keys);
            Self { problem, piece, inputs, keys, queries }
        })
    }
}

impl WithSimd for &Part<'_> {
    type Output = PartGradient;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> PartGradient {
        let Part { problem, piece, inputs, .. } = self;
        let width = problem.head_dim;
        let stride = stride_of(width);
        let (d_out_rows, d_out_stride) = inputs.d_out.from(piece, self.queries.start);
        let (out, out_stride) = inputs.out.from(piece, self.queries.start);
        let mut delta = vec![0.0; self.queries.len()];
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = dot(&d_out_rows[i * d_out_stride..][..width], &out[i * out_stride..][..width]);
        }
        let mut d_out = vec![0.0; self.queries.len() * stride];
        spread(d_out_rows, d_out_stride, width, &mut d_out, stride);
        let mut q = vec![0.0; self.queries.len() * stride];
        spread(&inputs.q[problem.query_range(piece, &self.queries)], width, width, &mut q, stride);
        for entry in &mut q {
            *entry *= problem.softmax_scale;
        }
        let lse = &inputs.lse[problem.lse_range(piece, &self.queries)];

        let mut gradient = PartGradient {
            dq: vec![0.0; self.queries.len() * stride],
            dk: vec![0.0; self.keys.len() * stride],
            dv: vec![0.0; self.keys.len() * stride],
        };
        let mut scratch = Scratch::new(width);
        for keys in tiles(self.keys.clone(), TILE) {
            let range = problem.key_range(piece, &keys);
            let (k, v) = (&inputs.k[range.clone()], &inputs.v[range]);
            transpose(k, width, &mut scratch.k_transposed, STRIDE);
            transpose(v, width, &mut scratch.v_transposed, STRIDE);
            spread(k, width, width, &mut scratch.k, stride);
            let keys_at =
                (keys.start - self.keys.start) * stride..(keys.end - self.keys.start) * stride;
            for queries in tiles(keys.start..problem.last_seeing(piece, &keys), TILE) {
                let local = queries.start - self.queries.start..queries.end - self.queries.start;
                let tile = local.start * stride..local.end * stride;
                let (rows, columns) = (queries.len(), keys.len());
                scratch.scores(simd, &q[tile.clone()], rows, columns);
                scratch.normalise(problem, piece, [&queries, &keys], &lse[local.clone()]);

                let d_out = Right { data: &d_out[tile.clone()], columns: width, stride };
                let weights =
                    Columns { data: &scratch.weights, rows: columns, depth: rows, stride: STRIDE };
                multiply_add(simd, &mut gradient.dv[keys_at.clone()], stride, weights, d_out);

                scratch.d_scores(simd, d_out, &delta[local], rows, columns);
                let data = &scratch.d_scores;
                let by_key = Columns { data, rows: columns, depth: rows, stride: STRIDE };
                let q = Right { data: &q[tile.clone()], columns: width, stride };
                multiply_add(simd, &mut gradient.dk[keys_at.clone()], stride, by_key, q);
                let by_query = Rows { data, rows, depth: columns, stride: STRIDE };
                let k = Right { data: &scratch.k, columns: width, stride };
                multiply_add(simd, &mut gradient.dq[tile], stride, by_query, k);
            }
        }
        for entry in &mut gradient.dq {
            *entry *= problem.softmax_scale;
        }
        gradient
    }
}

/// One tile of scores and of their gradient, and the key tile they come from.
struct Scratch {
    width: usize,
    weights: Vec<f32>,
    d_scores: Vec<f32>,
    k: Vec<f32>,
    k_transposed: Vec<f32>,
    v_transposed: Vec<f32>,
}

impl Scratch {
    fn new(width: usize) -> Self {
        Self {
            width,
            weights: vec![0.0; TILE * STRIDE],
            d_scores: vec![0.0; TILE * STRIDE],
            k: vec![0.0; TILE * stride_of(width)],
            k_transposed: vec![0.0; width * STRIDE],
            v_transposed: vec![0.0; width * STRIDE],
        }
    }

    /// `q·kᵀ`; `q` carries the softmax scale.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, q: &[f32], rows: usize, columns: usize) {
        let right = Right { data: &self.k_transposed, columns, stride: STRIDE };
        let left = Rows { data: q, rows, depth: self.width, stride: stride_of(self.width) };
        multiply(simd, &mut self.weights, STRIDE, left, right);
    }

    /// Scores to weights: `p = exp(s - lse)`, zero where hidden.
    #[inline(always)]
    fn normalise(
        &mut self,
        problem: &Problem<'_>,
        piece: &Piece,
        [queries, keys]: [&Range<usize>; 2],
        lse: &[f32],
    ) {
        for (i, (query, &lse)) in queries.clone().zip(lse).enumerate() {
            let row = &mut self.weights[i * STRIDE..i * STRIDE + keys.len()];
            let visible = problem.visible(piece, query, keys);
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
            exp_and_sum(&mut row[visible], lse);
        }
    }

    /// `ds = p ⊙ (d_out·vᵀ - delta)`.
    #[inline(always)]
    fn d_scores<S: Simd>(
        &mut self,
        simd: S,
        d_out: Right<'_>,
        delta: &[f32],
        rows: usize,
        columns: usize,
    ) {
        let right = Right { data: &self.v_transposed, columns, stride: STRIDE };
        let left = Rows { data: d_out.data, rows, depth: self.width, stride: d_out.stride };
        multiply(simd, &mut self.d_scores, STRIDE, left, right);
        for (i, &delta) in delta.iter().enumerate() {
            let row = i * STRIDE..i * STRIDE + columns;
            let weights = &self.weights[row.clone()];
            for (d_score, weight) in self.d_scores[row].iter_mut().zip(weights) {
                *d_score = weight * (*d_score - delta);
            }
        }
    }
}
