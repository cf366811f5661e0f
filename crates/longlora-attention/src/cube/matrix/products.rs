//! The two products of a step, over stages in shared memory.

use cubecl::prelude::*;

use super::fragment::{
    COLUMNS, DEPTH, Pair, ROWS, Sums, VECTOR, add_products, left, narrowed, right_of_columns,
    right_of_rows, zeros,
};
use super::tiles::{MatrixTiles, stride};

/// Of the rows of this plane with all columns: one sum over the entries of a head for each pair of a row of `rows` and a
/// row of `columns`, `blocks × columns / 8` tiles.
#[cube]
pub(super) fn rows_with_columns<E: Float, N: Size>(
    rows: &[Vector<E, N>],
    plane_row: usize,
    columns: &[Vector<E, N>],
    #[comptime] tiles: MatrixTiles,
) -> Sequence<Sums> {
    let row_len = comptime!(stride(tiles.head_dim));
    let across = comptime!(tiles.columns / COLUMNS);
    let mut sums = zeros(comptime!(tiles.blocks * across));
    #[unroll]
    for depth in 0..comptime!(tiles.head_dim / DEPTH) {
        let column = comptime!(depth * DEPTH / VECTOR).runtime();
        let mut lefts = Sequence::<Array<Pair<E>>>::new();
        #[unroll]
        for block in 0..comptime!(tiles.blocks) {
            let row = plane_row + comptime!(block * ROWS);
            lefts.push(left::<E, N>(rows, row, column, row_len));
        }
        #[unroll]
        for n in 0..comptime!(across / 2) {
            let row = comptime!(n * 2 * COLUMNS).runtime();
            let right = right_of_columns::<E, N>(columns, row, column, row_len);
            #[unroll]
            for block in 0..comptime!(tiles.blocks) {
                let at = comptime!(block * across + 2 * n);
                add_products::<E>(&mut sums, at, lefts.index(block), &right);
            }
        }
    }
    sums
}

/// `sums += weights · stage`: of each row of this plane, its weights of all columns times the columns' entries.
#[cube]
pub(super) fn add_weighted<E: Float, N: Size>(
    sums: &mut Sequence<Sums>,
    weights: &Sequence<Sums>,
    stage: &[Vector<E, N>],
    #[comptime] tiles: MatrixTiles,
) {
    let row_len = comptime!(stride(tiles.head_dim));
    let across = comptime!(tiles.columns / COLUMNS);
    let entries = comptime!(tiles.head_dim / COLUMNS);
    #[unroll]
    for depth in 0..comptime!(tiles.columns / DEPTH) {
        let row = comptime!(depth * DEPTH).runtime();
        let mut lefts = Sequence::<Array<Pair<E>>>::new();
        #[unroll]
        for block in 0..comptime!(tiles.blocks) {
            lefts.push(narrowed::<E>(weights, comptime!(block * across + 2 * depth)));
        }
        #[unroll]
        for d in 0..comptime!(entries / 2) {
            let right = right_of_rows::<E, N>(stage, row, comptime!(d * 2).runtime(), row_len);
            #[unroll]
            for block in 0..comptime!(tiles.blocks) {
                let at = comptime!(block * entries + 2 * d);
                add_products::<E>(sums, at, lefts.index(block), &right);
            }
        }
    }
}
