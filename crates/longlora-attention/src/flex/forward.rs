//! Output and log-sum-exp.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{
    Aligned, Columns, Right, Rows, multiply, multiply_add, stride_of, transpose, zeros,
};
use super::problem::{Heads, Piece, Problem, tiles};
use longlora_kernels::chunks::written;
use longlora_kernels::rows::exp;

/// Queries and keys per tile: scores, transposed queries, and a tile of keys or values share the first-level cache.
const TILE: usize = 64;
/// Between rows of a tile.
const STRIDE: usize = stride_of(TILE);

/// Positions whose output one task puts together.
const POSITIONS: usize = 256;

/// `(out, lse)`, `out` in the rows of [`Problem::out_row`], `lse` in the layout of [`Problem::lse_shape`].
pub(super) fn forward(
    problem: &Problem<'_>,
    q: &[f32],
    k: Heads<'_>,
    v: Heads<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let arch = pulp::Arch::new();
    let pieces = problem.pieces();
    let query_tiles: Vec<(&Piece, Range<usize>)> = pieces
        .iter()
        .flat_map(|piece| tiles(problem.queries(piece), TILE).map(move |queries| (piece, queries)))
        .collect();
    let results: Vec<(Vec<f32>, Vec<f32>)> = query_tiles
        .par_iter()
        .with_max_len(1)
        .map(|(piece, queries)| {
            arch.dispatch(QueryTile { problem, piece, queries: queries.clone(), q, k, v })
        })
        .collect();

    let mut lse = vec![0.0; problem.batch * problem.heads * problem.seq];
    for ((piece, queries), (_, of_tile)) in query_tiles.iter().zip(&results) {
        lse[problem.lse_range(piece, queries)].copy_from_slice(of_tile);
    }
    (joined(problem, &query_tiles, &results), lse)
}

/// The outputs of all tiles, put where they belong.
fn joined(
    problem: &Problem<'_>,
    query_tiles: &[(&Piece, Range<usize>)],
    results: &[(Vec<f32>, Vec<f32>)],
) -> Vec<f32> {
    let (width, positions) = (problem.head_dim, problem.batch * problem.seq);
    let first_row = |tile: usize| problem.out_row(query_tiles[tile].0, query_tiles[tile].1.start);
    let mut tiles_of: Vec<Vec<usize>> = vec![vec![]; positions.div_ceil(POSITIONS)];
    for (tile, (_, queries)) in query_tiles.iter().enumerate() {
        let first = first_row(tile);
        let last = first + queries.len() - 1;
        tiles_of[first / POSITIONS..=last / POSITIONS].iter_mut().for_each(|of| of.push(tile));
    }
    let of_heads = problem.heads * width;
    let (out, _) = written(positions * of_heads, POSITIONS * of_heads, |index, out| {
        let chunk = index * POSITIONS..index * POSITIONS + out.len() / of_heads;
        for &tile in &tiles_of[index] {
            let ((piece, queries), (of_tile, _)) = (&query_tiles[tile], &results[tile]);
            let first = first_row(tile);
            for row in chunk.start.max(first)..chunk.end.min(first + queries.len()) {
                let into = ((row - chunk.start) * problem.heads + piece.head) * width;
                let from = (row - first) * width;
                out[into..into + width].copy_from_slice(&of_tile[from..from + width]);
            }
        }
    });
    out
}

struct QueryTile<'a> {
    problem: &'a Problem<'a>,
    piece: &'a Piece,
    queries: Range<usize>,
    q: &'a [f32],
    k: Heads<'a>,
    v: Heads<'a>,
}

impl WithSimd for QueryTile<'_> {
    type Output = (Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { problem, piece, queries, q, k, v } = self;
        let (width, rows) = (problem.head_dim, queries.len());
        let kv_head = piece.head / problem.queries_per_kv();
        let mut softmax = Softmax::new(problem, &q[problem.query_range(piece, &queries)], rows);
        let first_key = problem.segments.first_visible(queries.start, piece.span.start);
        for keys in tiles(first_key..queries.end, TILE) {
            softmax.scores(simd, k.run(piece.row, kv_head, &keys), keys.len());
            let edge = problem.has_hidden(piece, &queries, &keys);
            if edge {
                softmax.hide(problem, piece, [&queries, &keys], f32::NEG_INFINITY);
            }
            softmax.raise_maxima(keys.len());
            softmax.exponentiate(keys.len());
            if edge {
                softmax.hide(problem, piece, [&queries, &keys], 0.0);
            }
            softmax.add(simd, v.run(piece.row, kv_head, &keys), keys.len());
        }
        softmax.finish(width)
    }
}

/// The running softmax of a tile of queries. Scores lie by keys, so that what belongs to one query is one lane of SIMD.
struct Softmax {
    /// Queries with the softmax scale, transposed: `[head_dim, STRIDE]`
    q: Aligned,
    /// `[keys, STRIDE]`: scores, then their exponentials relative to `max`.
    scores: Aligned,
    /// `[queries, stride_of(head_dim)]`, relative to `max`.
    out: Aligned,
    /// The largest score of each query so far.
    max: [f32; TILE],
    /// `Σ exp(score - max)`
    sum: [f32; TILE],
    /// `exp(old maximum - new maximum)`
    shrink: [f32; TILE],
    width: usize,
    rows: usize,
}

impl Softmax {
    #[inline(always)]
    fn new(problem: &Problem<'_>, queries: &[f32], rows: usize) -> Self {
        let width = problem.head_dim;
        let mut q = zeros(width * STRIDE);
        transpose(queries, width, &mut q, STRIDE);
        for entry in q.iter_mut() {
            *entry *= problem.softmax_scale;
        }
        Self {
            q,
            scores: zeros(TILE * STRIDE),
            out: zeros(rows * stride_of(width)),
            max: [f32::NEG_INFINITY; TILE],
            sum: [0.0; TILE],
            shrink: [0.0; TILE],
            width,
            rows,
        }
    }

    /// `k·qᵀ`
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, k: &[f32], columns: usize) {
        let left = Rows { data: k, rows: columns, depth: self.width, stride: self.width };
        let right = Right { data: &self.q, columns: TILE, stride: STRIDE };
        multiply(simd, &mut self.scores, STRIDE, left, right);
    }

    /// Puts `value` where a query does not see a key.
    #[inline(always)]
    fn hide(
        &mut self,
        problem: &Problem<'_>,
        piece: &Piece,
        [queries, keys]: [&Range<usize>; 2],
        value: f32,
    ) {
        for (key, row) in keys.clone().zip(self.scores.chunks_exact_mut(STRIDE)) {
            let seeing = problem.seeing(piece, key, queries);
            row[..seeing.start].fill(value);
            row[seeing.end..TILE].fill(value);
        }
    }

    /// Takes the new scores into the maxima, lane by lane.
    #[inline(always)]
    fn raise_maxima(&mut self, columns: usize) {
        let scores = &self.scores.as_chunks::<STRIDE>().0[..columns];
        for (lane, (max, shrink)) in lanes(&mut self.max).zip(lanes(&mut self.shrink)).enumerate() {
            let before = *max;
            let mut largest = before;
            for row in scores {
                for (largest, &score) in largest.iter_mut().zip(&row.as_chunks::<LANES>().0[lane]) {
                    *largest = if *largest > score { *largest } else { score };
                }
            }
            *max = largest;
            for ((shrink, &before), &after) in shrink.iter_mut().zip(&before).zip(&largest) {
                *shrink = exp(before - finite(after));
            }
        }
    }

    /// Turns scores into exponentials and adds them up.
    ///
    /// A hidden score leaves 1e-38 in a sum of at least 1, which is nothing; of a query that has seen no key yet, the next
    /// maximum makes it zero.
    #[inline(always)]
    fn exponentiate(&mut self, columns: usize) {
        let scores = &mut self.scores.as_chunks_mut::<STRIDE>().0[..columns];
        let sums = lanes(&mut self.sum).zip(lanes(&mut self.max).zip(lanes(&mut self.shrink)));
        for (lane, (total, (max, shrink))) in sums.enumerate() {
            let (mut sum, mut shift) = ([0.0; LANES], *max);
            for shift in &mut shift {
                *shift = finite(*shift);
            }
            for row in &mut *scores {
                let row = &mut row.as_chunks_mut::<LANES>().0[lane];
                for ((score, &shift), sum) in row.iter_mut().zip(&shift).zip(&mut sum) {
                    *score = exp(*score - shift);
                    *sum += *score;
                }
            }
            for ((total, &sum), &shrink) in total.iter_mut().zip(&sum).zip(&*shrink) {
                *total = *total * shrink + sum;
            }
        }
    }

    /// Adds the values of the tile's keys to the output.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, v: &[f32], columns: usize) {
        // After the first tiles a new maximum is rare.
        if self.shrink.iter().any(|&shrink| shrink != 1.0) {
            for (row, &shrink) in self.out.chunks_exact_mut(stride_of(self.width)).zip(&self.shrink)
            {
                for entry in row {
                    *entry *= shrink;
                }
            }
        }
        let left = Columns { data: &self.scores, rows: self.rows, depth: columns, stride: STRIDE };
        let right = Right { data: v, columns: self.width, stride: self.width };
        multiply_add(simd, &mut self.out, stride_of(self.width), left, right);
    }

    /// `(out, lse)`
    #[inline(always)]
    fn finish(self, width: usize) -> (Vec<f32>, Vec<f32>) {
        let mut out = vec![0.0; self.rows * width];
        let rows = out.chunks_exact_mut(width).zip(self.out.chunks_exact(stride_of(width)));
        for ((out, row), sum) in rows.zip(self.sum) {
            for (out, entry) in out.iter_mut().zip(row) {
                *out = entry / sum;
            }
        }
        let lse = self.max.iter().zip(&self.sum).take(self.rows);
        (out, lse.map(|(max, sum)| max + sum.ln()).collect())
    }
}

/// Queries whose numbers are held in registers at a time.
const LANES: usize = 16;

#[inline(always)]
fn lanes(x: &mut [f32; TILE]) -> std::slice::IterMut<'_, [f32; LANES]> {
    x.as_chunks_mut::<LANES>().0.iter_mut()
}

/// A query that has seen no key yet has no maximum; any number serves.
#[inline(always)]
fn finite(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}
