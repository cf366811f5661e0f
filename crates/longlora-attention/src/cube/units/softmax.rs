//! Scores to weights, row by row of a tile in shared memory.
//!
//! The units of a cube share the rows: each looks at one part of one row, and what it found goes to the others through
//! `statistics`, which holds, one after the other, of each row the largest score so far, the sum of its weights, the factor by
//! which the last step shrank what was summed before, and of each unit what it found.

use cubecl::prelude::*;

use super::tiles::UnitTiles;

/// Lower than any score, and finite: a row that has seen nothing yet is scaled by one.
pub(super) const LOW: f32 = -1e30;

/// The statistics before the first step.
#[cube]
pub(super) fn reset(statistics: &mut [f32], #[comptime] tiles: UnitTiles) {
    let (side, parts) = comptime!((tiles.side(), tiles.parts()));
    let (row, part) = (UNIT_POS as usize / parts, UNIT_POS as usize % parts);
    if part == 0 {
        statistics[row] = LOW;
        statistics[side + row] = 0.0;
    }
}

/// Scores to weights relative to the largest score so far, by which what was summed before shrinks
/// (FlashAttention-2, arXiv:2307.08691, alg. 1, lines 9 and 10). Hidden scores are `LOW`.
#[cube]
pub(super) fn weigh(weights: &mut [f32], statistics: &mut [f32], #[comptime] tiles: UnitTiles) {
    let (side, parts) = comptime!((tiles.side(), tiles.parts()));
    let columns = comptime!(side / parts);
    let of_parts = comptime!(3 * side);
    let (row, part) = (UNIT_POS as usize / parts, UNIT_POS as usize % parts);
    let first = row * comptime!(tiles.weight_stride()) + part;

    let mut highest = f32::new(LOW);
    for column in 0..columns {
        highest = max(highest, weights[first + column * parts]);
    }
    statistics[of_parts + row * parts + part] = highest;
    sync_cube();
    let before = statistics[row];
    highest = before;
    for other in 0..parts {
        highest = max(highest, statistics[of_parts + row * parts + other]);
    }
    sync_cube();
    let mut total = 0.0f32;
    for column in 0..columns {
        let at = first + column * parts;
        // Hidden scores stay hidden where a row has seen none: its maximum is as low as they are.
        let weight = select(weights[at] > LOW, (weights[at] - highest).exp(), 0.0f32);
        weights[at] = weight;
        total += weight;
    }
    statistics[of_parts + row * parts + part] = total;
    sync_cube();
    if part == 0 {
        let factor = (before - highest).exp();
        let mut all = statistics[side + row] * factor;
        for other in 0..parts {
            all += statistics[of_parts + row * parts + other];
        }
        statistics[row] = highest;
        statistics[side + row] = all;
        statistics[2 * side + row] = factor;
    }
    sync_cube();
}

/// What was summed before the last step, shrunk: `block` rows of this unit by its entries of a head.
#[cube]
pub(super) fn shrink(sums: &mut Array<f32>, statistics: &[f32], #[comptime] tiles: UnitTiles) {
    let (block, side, entries) = comptime!((tiles.block, tiles.side(), tiles.entries()));
    #[unroll]
    for i in 0..block {
        let factor = statistics[2 * side + UNIT_POS_Y as usize * block + i];
        #[unroll]
        for e in 0..entries {
            sums[comptime!(i * entries + e)] *= factor;
        }
    }
}
