//! One new query per row over many keys: a step of decoding.
//!
//! Here the time goes into reading keys and values. They are read once for all query heads that share them, without the
//! transposed tiles that pay only for many queries, and in spans that several cores can read at once (Flash-Decoding).

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Right, Rows, multiply_add};
use super::problem::{Heads, Problem, tiles};
use longlora_kernels::rows::{dot, exp_and_sum, max};

/// Keys that one thread reads at a time. Fixed, so that the result does not depend on the number of threads.
const SPAN: usize = 512;
/// Values per tile: they stay in the first-level cache while every query head uses them.
const TILE: usize = 64;
/// Products of queries and keys from which on a second thread is worth waking.
const PARALLEL_FROM: usize = 1 << 18;

/// Whether each row asks with one query of which all heads see the same keys.
pub(super) fn applies(problem: &Problem<'_>) -> bool {
    let rows = &problem.segments.rows;
    let last_spans_agree = rows.iter().all(|row| row.first_half.last() == row.second_half.last());
    problem.seq == 1 && problem.past > 0 && last_spans_agree
}

/// `(out, lse)` in the layout of [`Problem::q_shape`] and [`Problem::lse_shape`].
pub(super) fn decode(
    problem: &Problem<'_>,
    q: &[f32],
    k: Heads<'_>,
    v: Heads<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let arch = pulp::Arch::new();
    let parts: Vec<Part<'_>> = parts(problem, q, k, v);
    let products: usize = parts
        .iter()
        .map(|part| part.keys.len() * problem.queries_per_kv() * problem.head_dim)
        .sum();
    let sums: Vec<Sums> = if products < PARALLEL_FROM {
        parts.iter().map(|part| arch.dispatch(part)).collect()
    } else {
        parts.par_iter().map(|part| arch.dispatch(part)).collect()
    };
    let mut groups: Vec<Option<Sums>> = vec![None; problem.batch * problem.kv_heads];
    for (part, sums) in parts.iter().zip(sums) {
        let group = &mut groups[part.row * problem.kv_heads + part.kv_head];
        *group = Some(match group.take() {
            None => sums,
            Some(before) => before.join(sums, problem.head_dim),
        });
    }
    let (mut out, mut lse) = (Vec::with_capacity(q.len()), vec![]);
    for sums in groups.into_iter().flatten() {
        for (i, (max, sum)) in sums.max.iter().zip(&sums.sum).enumerate() {
            let row = &sums.out[i * problem.head_dim..(i + 1) * problem.head_dim];
            out.extend(row.iter().map(|x| x / sum));
            lse.push(max + sum.ln());
        }
    }
    (out, lse)
}

/// A span of the keys that the query heads of one kv head see.
struct Part<'a> {
    row: usize,
    kv_head: usize,
    keys: Range<usize>,
    softmax_scale: f32,
    head_dim: usize,
    /// `[queries_per_kv, head_dim]`
    q: &'a [f32],
    k: Heads<'a>,
    v: Heads<'a>,
}

fn parts<'a>(problem: &Problem<'_>, q: &'a [f32], k: Heads<'a>, v: Heads<'a>) -> Vec<Part<'a>> {
    let width = problem.queries_per_kv() * problem.head_dim;
    let mut parts = vec![];
    for (group, q) in q.chunks_exact(width).enumerate() {
        let (row, kv_head) = (group / problem.kv_heads, group % problem.kv_heads);
        let start = problem.segments.rows[row].first_half.last().map_or(0, |span| span.start);
        let first = problem.segments.first_visible(problem.past, start);
        let (softmax_scale, head_dim) = (problem.softmax_scale, problem.head_dim);
        parts.extend(tiles(first..problem.past + 1, SPAN).map(|keys| Part {
            row,
            kv_head,
            keys,
            softmax_scale,
            head_dim,
            q,
            k,
            v,
        }));
    }
    parts
}

/// What a span adds to the softmax of each of its query heads.
#[derive(Clone)]
struct Sums {
    /// The largest score.
    max: Vec<f32>,
    /// `Σ exp(score - max)`
    sum: Vec<f32>,
    /// `Σ exp(score - max) · v`: `[queries_per_kv, head_dim]`
    out: Vec<f32>,
}

impl Sums {
    /// Those of two spans together.
    fn join(mut self, other: Self, head_dim: usize) -> Self {
        for i in 0..self.max.len() {
            let max = self.max[i].max(other.max[i]);
            let (ours, theirs) = ((self.max[i] - max).exp(), (other.max[i] - max).exp());
            self.max[i] = max;
            self.sum[i] = self.sum[i] * ours + other.sum[i] * theirs;
            let row = i * head_dim..(i + 1) * head_dim;
            for (x, y) in self.out[row.clone()].iter_mut().zip(&other.out[row]) {
                *x = *x * ours + y * theirs;
            }
        }
        self
    }
}

impl WithSimd for &Part<'_> {
    type Output = Sums;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Sums {
        let (width, columns) = (self.head_dim, self.keys.len());
        let rows = self.q.len() / width;
        let q: Vec<f32> = self.q.iter().map(|x| x * self.softmax_scale).collect();
        let mut scores = vec![0.0; rows * columns];
        let keys = self.k.run(self.row, self.kv_head, &self.keys);
        for (j, key) in keys.chunks_exact(width).enumerate() {
            for (i, query) in q.chunks_exact(width).enumerate() {
                scores[i * columns + j] = dot(query, key);
            }
        }
        let (mut row_max, mut row_sum) = (vec![], vec![]);
        for row in scores.chunks_exact_mut(columns) {
            let largest = max(row);
            row_sum.push(exp_and_sum(row, largest));
            row_max.push(largest);
        }
        let mut out = vec![0.0; rows * width];
        let values = self.v.run(self.row, self.kv_head, &self.keys);
        for tile in tiles(0..columns, TILE) {
            let weights =
                Rows { data: &scores[tile.start..], rows, depth: tile.len(), stride: columns };
            let data = &values[tile.start * width..tile.end * width];
            multiply_add(
                simd,
                &mut out,
                width,
                weights,
                Right { data, columns: width, stride: width },
            );
        }
        Sums { max: row_max, sum: row_sum, out }
    }
}
