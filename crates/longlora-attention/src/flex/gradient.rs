//! Gradients of queries, keys and values, scores recomputed from the log-sum-exp.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Left, Right, multiply_add, transpose};
use super::problem::{Piece, Problem, tiles};
use longlora_kernels::rows::{dot, exp_and_sum};

/// Queries and keys per tile.
const TILE: usize = 64;

/// What the backward reads, each in the layout of [`Problem`]'s shapes.
pub(super) struct Inputs<'a> {
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) out: &'a [f32],
    pub(super) lse: &'a [f32],
    pub(super) d_out: &'a [f32],
}

/// `(dq, dk, dv)`.
///
/// Each span of each query head is computed apart; those that share a key head are added up in a fixed order, so the
/// result does not depend on the number of threads.
pub(super) fn gradient(
    problem: &Problem<'_>,
    inputs: &Inputs<'_>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let arch = pulp::Arch::new();
    let pieces = problem.pieces();
    let results: Vec<PieceGradient> = pieces
        .par_iter()
        .map(|piece| arch.dispatch(SpanGradient { problem, piece, inputs }))
        .collect();

    let mut dq = vec![0.0; inputs.q.len()];
    let mut dk = vec![0.0; inputs.k.len()];
    let mut dv = vec![0.0; inputs.v.len()];
    for (piece, result) in pieces.iter().zip(results) {
        dq[problem.query_range(piece, &piece.span)].copy_from_slice(&result.dq);
        let range = problem.key_range(piece, &piece.span);
        add(&mut dk[range.clone()], &result.dk);
        add(&mut dv[range], &result.dv);
    }
    (dq, dk, dv)
}

fn add(sum: &mut [f32], terms: &[f32]) {
    sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

struct PieceGradient {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

struct SpanGradient<'a> {
    problem: &'a Problem<'a>,
    piece: &'a Piece,
    inputs: &'a Inputs<'a>,
}

impl WithSimd for SpanGradient<'_> {
    type Output = PieceGradient;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> PieceGradient {
        let Self { problem, piece, inputs } = self;
        let width = problem.head_dim;
        let span = piece.span.clone();
        let queries_at = problem.query_range(piece, &span);
        let q: Vec<f32> =
            inputs.q[queries_at.clone()].iter().map(|x| x * problem.softmax_scale).collect();
        let d_out = &inputs.d_out[queries_at.clone()];
        let delta: Vec<f32> = d_out
            .chunks_exact(width)
            .zip(inputs.out[queries_at].chunks_exact(width))
            .map(|(d_out, out)| dot(d_out, out))
            .collect();
        let lse = &inputs.lse[problem.lse_range(piece, &span)];

        let mut gradient = PieceGradient {
            dq: vec![0.0; span.len() * width],
            dk: vec![0.0; span.len() * width],
            dv: vec![0.0; span.len() * width],
        };
        let mut scratch = Scratch::new(width);
        for keys in tiles(span.clone(), TILE) {
            let range = problem.key_range(piece, &keys);
            let (k, v) = (&inputs.k[range.clone()], &inputs.v[range]);
            transpose(k, width, &mut scratch.k_transposed, TILE);
            transpose(v, width, &mut scratch.v_transposed, TILE);
            let last_query = problem
                .segments
                .window
                .map_or(span.end, |window| span.end.min((keys.end - 1).saturating_add(window)));
            for queries in tiles(keys.start..last_query, TILE) {
                let local = queries.start - span.start..queries.end - span.start;
                let tile = local.start * width..local.end * width;
                let (rows, columns) = (queries.len(), keys.len());
                scratch.scores(simd, &q[tile.clone()], rows, columns);
                scratch.normalise(problem, piece, [&queries, &keys], &lse[local.clone()]);

                let d_out = Right { data: &d_out[tile.clone()], columns: width, stride: width };
                let keys_at = (keys.start - span.start) * width..(keys.end - span.start) * width;
                let weights = Left::transposed(&scratch.weights, columns, rows, TILE);
                multiply_add(simd, &mut gradient.dv[keys_at.clone()], width, weights, d_out);

                scratch.d_scores(simd, d_out.data, &delta[local], rows, columns);
                let d_scores = Left::transposed(&scratch.d_scores, columns, rows, TILE);
                let q = Right { data: &q[tile.clone()], columns: width, stride: width };
                multiply_add(simd, &mut gradient.dk[keys_at], width, d_scores, q);
                let d_scores = Left::rows(&scratch.d_scores, rows, columns, TILE);
                let k = Right { data: k, columns: width, stride: width };
                multiply_add(simd, &mut gradient.dq[tile], width, d_scores, k);
            }
        }
        gradient.dq.iter_mut().for_each(|x| *x *= problem.softmax_scale);
        gradient
    }
}

/// One tile of scores and of their gradient, and the key tile they come from.
struct Scratch {
    width: usize,
    weights: Vec<f32>,
    d_scores: Vec<f32>,
    k_transposed: Vec<f32>,
    v_transposed: Vec<f32>,
}

impl Scratch {
    fn new(width: usize) -> Self {
        Self {
            width,
            weights: vec![0.0; TILE * TILE],
            d_scores: vec![0.0; TILE * TILE],
            k_transposed: vec![0.0; width * TILE],
            v_transposed: vec![0.0; width * TILE],
        }
    }

    /// `q·kᵀ`; `q` carries the softmax scale.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, q: &[f32], rows: usize, columns: usize) {
        self.weights.fill(0.0);
        let right = Right { data: &self.k_transposed, columns, stride: TILE };
        let left = Left::rows(q, rows, self.width, self.width);
        multiply_add(simd, &mut self.weights, TILE, left, right);
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
            let row = &mut self.weights[i * TILE..i * TILE + keys.len()];
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
        d_out: &[f32],
        delta: &[f32],
        rows: usize,
        columns: usize,
    ) {
        self.d_scores.fill(0.0);
        let right = Right { data: &self.v_transposed, columns, stride: TILE };
        let left = Left::rows(d_out, rows, self.width, self.width);
        multiply_add(simd, &mut self.d_scores, TILE, left, right);
        for (i, &delta) in delta.iter().enumerate() {
            let row = i * TILE..i * TILE + columns;
            let weights = &self.weights[row.clone()];
            for (d_score, weight) in self.d_scores[row].iter_mut().zip(weights) {
                *d_score = weight * (*d_score - delta);
            }
        }
    }
}
