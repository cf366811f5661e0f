//! Output and log-sum-exp.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Left, Right, multiply_add, transpose};
use super::problem::{Keys, Piece, Problem, tiles};
use longlora_kernels::rows::{exp_and_sum, max};

/// Queries and keys per tile: scores, a transposed key tile and a value tile share the first-level cache.
const TILE: usize = 64;

/// `(out, lse)` in the layout of [`Problem::q_shape`] and [`Problem::lse_shape`].
pub(super) fn forward(
    problem: &Problem<'_>,
    q: &[f32],
    k: Keys<'_>,
    v: Keys<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let arch = pulp::Arch::new();
    let pieces = problem.pieces();
    let query_tiles: Vec<(&Piece, Range<usize>)> = pieces
        .iter()
        .flat_map(|piece| tiles(problem.queries(piece), TILE).map(move |queries| (piece, queries)))
        .collect();
    let results: Vec<(Vec<f32>, Vec<f32>)> = query_tiles
        .par_iter()
        .map(|(piece, queries)| {
            arch.dispatch(QueryTile { problem, piece, queries: queries.clone(), q, k, v })
        })
        .collect();

    let mut out = vec![0.0; q.len()];
    let mut lse = vec![0.0; problem.batch * problem.heads * problem.seq];
    for ((piece, queries), (out_tile, lse_tile)) in query_tiles.into_iter().zip(results) {
        out[problem.query_range(piece, &queries)].copy_from_slice(&out_tile);
        lse[problem.lse_range(piece, &queries)].copy_from_slice(&lse_tile);
    }
    (out, lse)
}

struct QueryTile<'a> {
    problem: &'a Problem<'a>,
    piece: &'a Piece,
    queries: Range<usize>,
    q: &'a [f32],
    k: Keys<'a>,
    v: Keys<'a>,
}

impl WithSimd for QueryTile<'_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { problem, piece, queries, q, k, v } = self;
        let (width, rows) = (problem.head_dim, queries.len());
        let q: Vec<f32> = q[problem.query_range(piece, &queries)]
            .iter()
            .map(|x| x * problem.softmax_scale)
            .collect();
        let mut out = vec![0.0; rows * width];
        let mut row_max = vec![f32::NEG_INFINITY; rows];
        let mut row_sum = vec![0.0; rows];
        let mut scores = vec![0.0; rows * TILE];
        let mut k_transposed = vec![0.0; width * TILE];

        let first_key = problem.segments.first_visible(queries.start, piece.span.start);
        for keys in tiles(first_key..queries.end, TILE) {
            let kv_head = piece.head / problem.queries_per_kv();
            let columns = keys.len();
            transpose(k.at(piece.row, kv_head, &keys), width, &mut k_transposed, TILE);
            scores.fill(0.0);
            let right = Right { data: &k_transposed, columns, stride: TILE };
            multiply_add(simd, &mut scores, TILE, Left::rows(&q, rows, width, width), right);

            for (i, query) in queries.clone().enumerate() {
                let row = &mut scores[i * TILE..i * TILE + columns];
                let visible = problem.visible(piece, query, &keys);
                row[..visible.start].fill(0.0);
                row[visible.end..].fill(0.0);
                let row = &mut row[visible];
                if row.is_empty() {
                    continue;
                }
                let new_max = row_max[i].max(max(row));
                let shrink = (row_max[i] - new_max).exp();
                row_sum[i] = row_sum[i] * shrink + exp_and_sum(row, new_max);
                row_max[i] = new_max;
                out[i * width..(i + 1) * width].iter_mut().for_each(|x| *x *= shrink);
            }
            let weights = Left::rows(&scores, rows, columns, TILE);
            let values = v.at(piece.row, kv_head, &keys);
            let values = Right { data: values, columns: width, stride: width };
            multiply_add(simd, &mut out, width, weights, values);
        }
        for (out, sum) in out.chunks_exact_mut(width).zip(&row_sum) {
            out.iter_mut().for_each(|x| *x /= sum);
        }
        let lse = row_max.iter().zip(&row_sum).map(|(max, sum)| max + sum.ln()).collect();
        (out, lse)
    }
}
