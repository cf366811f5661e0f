//! Gradients of queries, keys and values, scores recomputed from the log-sum-exp.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Columns, Right, Rows, multiply, multiply_add, transpose};
use super::problem::{Piece, Problem, Queries, tiles};
use longlora_kernels::rows::{dot, exp_and_sum};

/// Queries and keys per tile.
const TILE: usize = 64;

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
    let results: Vec<PartGradient> = parts.par_iter().map(|part| arch.dispatch(part)).collect();

    let mut dq = vec![0.0; inputs.q.len()];
    let mut dk = vec![0.0; inputs.k.len()];
    let mut dv = vec![0.0; inputs.v.len()];
    for (part, result) in parts.iter().zip(results) {
        add(&mut dq[problem.query_range(part.piece, &part.queries)], &result.dq);
        let range = problem.key_range(part.piece, &part.keys);
        add(&mut dk[range.clone()], &result.dk);
        add(&mut dv[range], &result.dv);
    }
    (dq, dk, dv)
}

fn add(sum: &mut [f32], terms: &[f32]) {
    sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

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
        let queries_at = problem.query_range(piece, &self.queries);
        let mut q = inputs.q[queries_at].to_vec();
        for entry in &mut q {
            *entry *= problem.softmax_scale;
        }
        let (d_out, d_out_stride) = inputs.d_out.from(piece, self.queries.start);
        let (out, out_stride) = inputs.out.from(piece, self.queries.start);
        let mut delta = vec![0.0; self.queries.len()];
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = dot(&d_out[i * d_out_stride..][..width], &out[i * out_stride..][..width]);
        }
        let lse = &inputs.lse[problem.lse_range(piece, &self.queries)];

        let mut gradient = PartGradient {
            dq: vec![0.0; self.queries.len() * width],
            dk: vec![0.0; self.keys.len() * width],
            dv: vec![0.0; self.keys.len() * width],
        };
        let mut scratch = Scratch::new(width);
        for keys in tiles(self.keys.clone(), TILE) {
            let range = problem.key_range(piece, &keys);
            let (k, v) = (&inputs.k[range.clone()], &inputs.v[range]);
            transpose(k, width, &mut scratch.k_transposed, TILE);
            transpose(v, width, &mut scratch.v_transposed, TILE);
            let keys_at =
                (keys.start - self.keys.start) * width..(keys.end - self.keys.start) * width;
            for queries in tiles(keys.start..problem.last_seeing(piece, &keys), TILE) {
                let local = queries.start - self.queries.start..queries.end - self.queries.start;
                let tile = local.start * width..local.end * width;
                let (rows, columns) = (queries.len(), keys.len());
                scratch.scores(simd, &q[tile.clone()], rows, columns);
                scratch.normalise(problem, piece, [&queries, &keys], &lse[local.clone()]);

                let data = &d_out[local.start * d_out_stride..];
                let d_out = Right { data, columns: width, stride: d_out_stride };
                let weights =
                    Columns { data: &scratch.weights, rows: columns, depth: rows, stride: TILE };
                multiply_add(simd, &mut gradient.dv[keys_at.clone()], width, weights, d_out);

                scratch.d_scores(simd, d_out, &delta[local], rows, columns);
                let data = &scratch.d_scores;
                let by_key = Columns { data, rows: columns, depth: rows, stride: TILE };
                let q = Right { data: &q[tile.clone()], columns: width, stride: width };
                multiply_add(simd, &mut gradient.dk[keys_at.clone()], width, by_key, q);
                let by_query = Rows { data, rows, depth: columns, stride: TILE };
                let k = Right { data: k, columns: width, stride: width };
                multiply_add(simd, &mut gradient.dq[tile], width, by_query, k);
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
        let right = Right { data: &self.k_transposed, columns, stride: TILE };
        let left = Rows { data: q, rows, depth: self.width, stride: self.width };
        multiply(simd, &mut self.weights, TILE, left, right);
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
        d_out: Right<'_>,
        delta: &[f32],
        rows: usize,
        columns: usize,
    ) {
        let right = Right { data: &self.v_transposed, columns, stride: TILE };
        let left = Rows { data: d_out.data, rows, depth: self.width, stride: d_out.stride };
        multiply(simd, &mut self.d_scores, TILE, left, right);
        for (i, &delta) in delta.iter().enumerate() {
            let row = i * TILE..i * TILE + columns;
            let weights = &self.weights[row.clone()];
            for (d_score, weight) in self.d_scores[row].iter_mut().zip(weights) {
                *d_score = weight * (*d_score - delta);
            }
        }
    }
}
