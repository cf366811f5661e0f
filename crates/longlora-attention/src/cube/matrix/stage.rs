//! Rows of a tensor in shared memory, copied while something else is computed.

use cubecl::prelude::barrier::copy_async;
use cubecl::prelude::*;

use super::fragment::VECTOR;
use super::tiles::{MatrixTiles, stride};

/// Room for `rows` rows in shared memory.
#[cube]
pub(super) fn stage<E: Float, N: Size>(
    #[comptime] rows: usize,
    #[comptime] tiles: MatrixTiles,
) -> Shared<[Vector<E, N>]> {
    Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(rows * stride(tiles.head_dim)), 16usize)
}

/// The rows of one head, and where they lie in a tensor; counted in vectors.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Rows {
    head: usize,
    stride: usize,
    /// How many there are.
    limit: usize,
}

/// The rows of a head of a row of the batch.
#[cube]
pub(super) fn rows_of<E: Float, N: Size>(
    x: &Tensor<Vector<E, N>>,
    row_of_batch: usize,
    head: usize,
) -> Rows {
    Rows {
        head: (row_of_batch * x.stride(0) + head * x.stride(1)) / VECTOR,
        stride: x.stride(2) / VECTOR,
        limit: x.shape(2),
    }
}

/// Begins to copy `count` rows from `from` on into a stage; instead of rows that are not there, the last one again.
#[cube]
pub(super) fn copy_rows<E: Float, N: Size>(
    x: &Tensor<Vector<E, N>>,
    rows: &Rows,
    from: usize,
    stage: &mut [Vector<E, N>],
    #[comptime] count: usize,
    #[comptime] tiles: MatrixTiles,
) {
    let units = comptime!(tiles.units());
    let total = comptime!(count * tiles.head_dim / VECTOR);
    #[unroll]
    for step in 0..comptime!(total.div_ceil(units)) {
        let index = UNIT_POS as usize + comptime!(step * units);
        if comptime!((step + 1) * units > total) {
            if index < total {
                copy_vector::<E, N>(x, rows, from, stage, index, tiles);
            }
        } else {
            copy_vector::<E, N>(x, rows, from, stage, index, tiles);
        }
    }
}

#[cube]
fn copy_vector<E: Float, N: Size>(
    x: &Tensor<Vector<E, N>>,
    rows: &Rows,
    from: usize,
    stage: &mut [Vector<E, N>],
    index: usize,
    #[comptime] tiles: MatrixTiles,
) {
    let width = comptime!(tiles.head_dim / VECTOR);
    let (row, column) = (index / width, index % width);
    let at = rows.head + min(from + row, rows.limit - 1) * rows.stride + column;
    let to = row * comptime!(stride(tiles.head_dim)) + column;
    copy_async(&x[at..at + 1], &mut stage[to..to + 1], 8u32);
}

/// Ends a group of copies.
#[cube]
pub(super) fn commit() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until at most `groups` groups of copies of this unit are under way.
#[cube]
pub(super) fn wait_for_all_but(#[comptime] groups: usize) {
    gpu_asm!("cp.async.wait_group {groups};", groups = const groups);
}

/// `2^x` to two units in the last place.
#[cube]
pub(super) fn exp2(x: f32) -> f32 {
    let y: f32;
    gpu_asm!("ex2.approx.ftz.f32 {}, {};", out(_) y, in(_) x, options(pure, nomem));
    y
}
