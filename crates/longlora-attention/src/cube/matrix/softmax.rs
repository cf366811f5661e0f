//! Scores to weights, in the registers of a plane.
//!
//! A lane holds two rows of each block of 16: `row` and `row + 8`. What belongs to a row is kept by each of the four lanes that
//! share it, and sums of a row are of the lane's own columns until the end.

use cubecl::prelude::*;

use super::fragment::{COLUMNS, Pair, ROWS, Sums};
use super::stage::exp2;
use super::tiles::MatrixTiles;

/// Lower than any score, and finite: a row that has seen nothing yet is scaled by one.
pub(super) const LOW: f32 = -1e30;

/// Hides what the queries of this lane do not see: those from `query` on see the keys from their first one to their own.
/// `key` is the first of this lane's columns.
#[cube]
pub(super) fn hide(
    scores: &mut Sequence<Sums>,
    query: usize,
    key: usize,
    first_seen: &Array<u32>,
    #[comptime] tiles: MatrixTiles,
) {
    let across = comptime!(tiles.columns / COLUMNS);
    #[unroll]
    for block in 0..comptime!(tiles.blocks) {
        #[unroll]
        for n in 0..across {
            let sums = scores.index_mut(comptime!(block * across + n));
            #[unroll]
            for half in 0..2usize {
                let query = query + comptime!(block * ROWS + half * 8);
                let seen_from = first_seen[comptime!(block * 2 + half)] as usize;
                let mut pair = sums[half];
                #[unroll]
                for side in 0..2usize {
                    let at = key + comptime!(n * COLUMNS + side);
                    let visible = at <= query && at >= seen_from;
                    let score = select(visible, pair.extract(side), f32::NEG_INFINITY);
                    pair.insert(side, score);
                }
                sums[half] = pair;
            }
        }
    }
}

/// Scores to weights relative to the largest score so far, by which what was summed before shrinks
/// (FlashAttention-2, arXiv:2307.08691, alg. 1, lines 9 and 10). `scale` holds log₂ e.
#[cube]
pub(super) fn weigh(
    scores: &mut Sequence<Sums>,
    maximum: &mut Array<f32>,
    sum: &mut Array<f32>,
    acc: &mut Sequence<Sums>,
    scale: f32,
    #[comptime] tiles: MatrixTiles,
) {
    let across = comptime!(tiles.columns / COLUMNS);
    let entries = comptime!(tiles.head_dim / COLUMNS);
    #[unroll]
    for block in 0..comptime!(tiles.blocks) {
        #[unroll]
        for half in 0..2usize {
            let at = comptime!(block * 2 + half);
            let mut highest = maximum[at];
            #[unroll]
            for n in 0..across {
                let pair = scores.index(comptime!(block * across + n))[half];
                highest = max(highest, max(pair.extract(0usize), pair.extract(1usize)));
            }
            highest = max(highest, plane_shuffle_xor(highest, 1u32));
            highest = max(highest, plane_shuffle_xor(highest, 2u32));
            let shrunk = exp2((maximum[at] - highest) * scale);
            maximum[at] = highest;
            let origin = highest * scale;
            let mut weights = 0.0f32;
            #[unroll]
            for n in 0..across {
                let sums = scores.index_mut(comptime!(block * across + n));
                let mut pair = sums[half];
                #[unroll]
                for side in 0..2usize {
                    let weight = exp2(pair.extract(side) * scale - origin);
                    weights += weight;
                    pair.insert(side, weight);
                }
                sums[half] = pair;
            }
            sum[at] = sum[at] * shrunk + weights;
            #[unroll]
            for d in 0..entries {
                let sums = acc.index_mut(comptime!(block * entries + d));
                sums[half] *= Pair::<f32>::new(shrunk);
            }
        }
    }
}
