//! Results, from the registers of a plane to a tensor.

use cubecl::prelude::*;

use super::fragment::{COLUMNS, Pair, ROWS, Sums};
use super::tiles::MatrixTiles;

/// Where the results of a tile of rows go.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    /// This lane's first entry of the first row of the head.
    pub(super) head: usize,
    /// From one row to the next.
    pub(super) stride: usize,
    /// This lane's first row.
    pub(super) row: usize,
    /// The last row of the tile that is there.
    pub(super) last: usize,
}

/// Writes the sums of this lane, those of each row times its factor.
#[cube]
pub(super) fn write_rows<E: Float, P: Size>(
    sums: &Sequence<Sums>,
    factors: &Array<f32>,
    into: &mut Tensor<Vector<E, P>>,
    place: &Place,
    #[comptime] tiles: MatrixTiles,
) {
    let across = comptime!(tiles.head_dim / COLUMNS);
    #[unroll]
    for block in 0..comptime!(tiles.blocks) {
        #[unroll]
        for half in 0..2usize {
            let row = place.row + comptime!(block * ROWS + half * 8);
            if row <= place.last {
                let at = place.head + row * place.stride;
                let factor = Pair::<f32>::new(factors[comptime!(block * 2 + half)]);
                #[unroll]
                for d in 0..across {
                    let pair = sums.index(comptime!(block * across + d))[half] * factor;
                    into[(at + comptime!(d * COLUMNS)) / 2] = Vector::<E, P>::cast_from(pair);
                }
            }
        }
    }
}

/// The same factor for every row of this lane.
#[cube]
pub(super) fn equal(factor: f32, #[comptime] tiles: MatrixTiles) -> Array<f32> {
    let mut factors = Array::<f32>::new(comptime!(2 * tiles.blocks));
    #[unroll]
    for i in 0..comptime!(2 * tiles.blocks) {
        factors[i] = factor;
    }
    factors
}
