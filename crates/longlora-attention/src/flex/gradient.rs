//! Gradients of queries, keys and values, scores recomputed from the log-sum-exp.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{
    Aligned, Columns, Right, Rows, multiply, multiply_add, spread, stride_of, transpose, zeros,
};
use super::problem::{Heads, Piece, Problem, tiles};
use longlora_kernels::chunks::written;
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
    pub(super) out: Heads<'a>,
    pub(super) lse: &'a [f32],
    pub(super) d_out: Heads<'a>,
}

/// Keys that one task takes at least.
const KEYS: usize = 1024;
/// Keys that lie ready for all queries before the next are taken: with values and gradients some 400 KiB at heads of 64,
/// which stay in the second-level cache while queries pass once.
const KEYS_IN_CACHE: usize = 256;
/// Tasks that a span is cut into at most: each has gradients of its queries of its own.
const PARTS: usize = 8;

/// Tasks that are computed before their results are added up: enough for many cores, few enough that the results of all do
/// not take several times the memory of the gradients.
const TASKS: usize = 64;

/// `[dq, dk, dv]`.
///
/// Each part of the keys of each span of each query head is computed apart; those that share queries or a key head are
/// added up in a fixed order, so the result does not depend on the number of threads.
pub(super) fn gradient(problem: &Problem<'_>, inputs: &Inputs<'_>) -> [Vec<f32>; 3] {
    let arch = pulp::Arch::new();
    let pieces = problem.pieces();
    let parts: Vec<Part<'_>> =
        pieces.iter().flat_map(|piece| Part::all(problem, piece, inputs)).collect();
    let (width, of_head) = (problem.head_dim, (problem.seq * problem.head_dim).max(1));
    let cleared = |x: &[f32]| written(x.len(), of_head, |_, _| ()).0;
    let [mut dq, mut dk, mut dv] = [inputs.q, inputs.k, inputs.v].map(cleared);
    for round in rounds(&parts) {
        let results: Vec<(&Part<'_>, PartGradient)> =
            round.par_iter().with_max_len(1).map(|part| (part, arch.dispatch(part))).collect();
        let kv_head = round[0].kv_head();
        let head = kv_head * problem.queries_per_kv();
        let of_queries = results.chunk_by(|(a, _), (b, _)| a.query_head() == b.query_head());
        let of_queries: Vec<_> = of_queries.collect();
        let of_keys: Vec<_> =
            results.chunk_by(|(a, _), (b, _)| a.kv_head() == b.kv_head()).collect();
        dq[head * of_head..].par_chunks_mut(of_head).zip(of_queries).for_each(|(dq, results)| {
            for (part, result) in results {
                add(&mut dq[part.queries.start * width..], &result.dq, width);
            }
        });
        let [dk, dv] =
            [&mut dk, &mut dv].map(|sum| sum[kv_head * of_head..].par_chunks_mut(of_head));
        dk.zip(dv).zip(of_keys).for_each(|((dk, dv), results)| {
            for (part, result) in results {
                let start = part.keys.start * width;
                add(&mut dk[start..], &result.dk, width);
                add(&mut dv[start..], &result.dv, width);
            }
        });
    }
    [dq, dk, dv]
}

/// All parts of some key heads at a time.
fn rounds<'a, 'b>(parts: &'b [Part<'a>]) -> Vec<&'b [Part<'a>]> {
    let least = TASKS.max(4 * rayon::current_num_threads());
    let (mut rounds, mut start, mut end) = (vec![], 0, 0);
    for of_head in parts.chunk_by(|a, b| a.kv_head() == b.kv_head()) {
        end += of_head.len();
        if end - start >= least {
            rounds.push(&parts[start..end]);
            start = end;
        }
    }
    if start < end {
        rounds.push(&parts[start..end]);
    }
    rounds
}

/// Adds rows of `width` that are `stride_of(width)` apart.
fn add(sum: &mut [f32], terms: &[f32], width: usize) {
    for (sum, terms) in sum.chunks_exact_mut(width).zip(terms.chunks_exact(stride_of(width))) {
        sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
}

/// Rows of `head_dim` entries, `stride_of(head_dim)` apart.
struct PartGradient {
    dq: Aligned,
    dk: Aligned,
    dv: Aligned,
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
    /// Which query head of all rows it is of.
    fn query_head(&self) -> usize {
        self.piece.row * self.problem.heads + self.piece.head
    }

    /// Which key head of all rows it is of.
    fn kv_head(&self) -> usize {
        self.query_head() / self.problem.queries_per_kv()
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
        let (d_out_rows, d_out_stride) =
            inputs.d_out.from(piece.row, piece.head, self.queries.start);
        let (out, out_stride) = inputs.out.from(piece.row, piece.head, self.queries.start);
        let mut delta = vec![0.0; self.queries.len()];
        for (i, delta) in delta.iter_mut().enumerate() {
            *delta = dot(&d_out_rows[i * d_out_stride..][..width], &out[i * out_stride..][..width]);
        }
        let mut d_out = zeros(self.queries.len() * stride);
        spread(d_out_rows, d_out_stride, width, &mut d_out, stride);
        let mut q = zeros(self.queries.len() * stride);
        spread(&inputs.q[problem.query_range(piece, &self.queries)], width, width, &mut q, stride);
        for entry in q.iter_mut() {
            *entry *= problem.softmax_scale;
        }
        let lse = &inputs.lse[problem.lse_range(piece, &self.queries)];

        let mut gradient = PartGradient {
            dq: zeros(self.queries.len() * stride),
            dk: zeros(self.keys.len() * stride),
            dv: zeros(self.keys.len() * stride),
        };
        let mut scratch = Scratch::new(width);
        for block in tiles(self.keys.clone(), KEYS_IN_CACHE) {
            let key_tiles: Vec<KeyTile> = tiles(block.clone(), TILE)
                .map(|keys| {
                    let range = problem.key_range(piece, &keys);
                    KeyTile::new(keys, &inputs.k[range.clone()], &inputs.v[range], width)
                })
                .collect();
            for queries in tiles(block.start..problem.last_seeing(piece, &block), TILE) {
                let local = queries.start - self.queries.start..queries.end - self.queries.start;
                let tile = local.start * stride..local.end * stride;
                let rows = queries.len();
                for key_tile in &key_tiles {
                    let keys = &key_tile.keys;
                    let seen_from = problem.segments.first_visible(queries.start, keys.start);
                    if keys.start >= queries.end || seen_from >= keys.end {
                        continue;
                    }
                    let columns = keys.len();
                    scratch.scores(simd, key_tile, &q[tile.clone()], rows);
                    scratch.normalise(problem, piece, [&queries, keys], &lse[local.clone()]);

                    let at = (keys.start - self.keys.start) * stride
                        ..(keys.end - self.keys.start) * stride;
                    let d_out = Right { data: &d_out[tile.clone()], columns: width, stride };
                    let data = &scratch.weights;
                    let weights = Columns { data, rows: columns, depth: rows, stride: STRIDE };
                    multiply_add(simd, &mut gradient.dv[at.clone()], stride, weights, d_out);

                    scratch.d_scores(simd, key_tile, d_out, &delta[local.clone()]);
                    let data = &scratch.d_scores;
                    let by_key = Columns { data, rows: columns, depth: rows, stride: STRIDE };
                    let q = Right { data: &q[tile.clone()], columns: width, stride };
                    multiply_add(simd, &mut gradient.dk[at], stride, by_key, q);
                    let by_query = Rows { data, rows, depth: columns, stride: STRIDE };
                    let k = Right { data: &key_tile.k, columns: width, stride };
                    multiply_add(simd, &mut gradient.dq[tile.clone()], stride, by_query, k);
                }
            }
        }
        for entry in gradient.dq.iter_mut() {
            *entry *= problem.softmax_scale;
        }
        gradient
    }
}

/// A tile of keys and values, laid out for the products that read it.
struct KeyTile {
    keys: Range<usize>,
    /// `[keys, stride_of(head_dim)]`
    k: Aligned,
    /// `[head_dim, STRIDE]`
    k_transposed: Aligned,
    /// `[head_dim, STRIDE]`
    v_transposed: Aligned,
}

impl KeyTile {
    #[inline(always)]
    fn new(keys: Range<usize>, k: &[f32], v: &[f32], width: usize) -> Self {
        let mut tile = Self {
            k: zeros(keys.len() * stride_of(width)),
            k_transposed: zeros(width * STRIDE),
            v_transposed: zeros(width * STRIDE),
            keys,
        };
        spread(k, width, width, &mut tile.k, stride_of(width));
        transpose(k, width, &mut tile.k_transposed, STRIDE);
        transpose(v, width, &mut tile.v_transposed, STRIDE);
        tile
    }
}

/// One tile of scores and of their gradient: `[queries, STRIDE]`.
struct Scratch {
    width: usize,
    weights: Aligned,
    d_scores: Aligned,
}

impl Scratch {
    fn new(width: usize) -> Self {
        Self { width, weights: zeros(TILE * STRIDE), d_scores: zeros(TILE * STRIDE) }
    }

    /// `q·kᵀ`; `q` carries the softmax scale.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, tile: &KeyTile, q: &[f32], rows: usize) {
        let right = Right { data: &tile.k_transposed, columns: tile.keys.len(), stride: STRIDE };
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
    fn d_scores<S: Simd>(&mut self, simd: S, tile: &KeyTile, d_out: Right<'_>, delta: &[f32]) {
        let (rows, columns) = (delta.len(), tile.keys.len());
        let right = Right { data: &tile.v_transposed, columns, stride: STRIDE };
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
