//! Rows of a tensor in shared memory, copied while something else is computed.

use cubecl::prelude::barrier::copy_async;
use cubecl::prelude::*;

use super::fragment::VECTOR;

/// Vectors from one row of a stage to the next: one more than a row has, so that eight rows lie in different banks.
pub(super) const fn stride(head_dim: usize) -> usize {
    head_dim / VECTOR + 1
}

/// Begins to copy `rows` rows from `from` on into a stage; of rows from `limit` on, the last one again.
///
/// `head` and `row_stride` are counted in vectors.
#[cube]
pub(super) fn copy_rows<E: Float, N: Size>(
    source: &Tensor<Vector<E, N>>,
    head: usize,
    row_stride: usize,
    from: usize,
    limit: usize,
    stage: &mut [Vector<E, N>],
    #[comptime] rows: usize,
    #[comptime] head_dim: usize,
    #[comptime] units: usize,
) {
    let width = comptime!(head_dim / VECTOR);
    let total = comptime!(rows * width);
    #[unroll]
    for step in 0..comptime!(total.div_ceil(units)) {
        let index = UNIT_POS as usize + comptime!(step * units);
        if comptime!((step + 1) * units > total) {
            if index < total {
                copy_vector::<E, N>(source, head, row_stride, from, limit, stage, index, width);
            }
        } else {
            copy_vector::<E, N>(source, head, row_stride, from, limit, stage, index, width);
        }
    }
}

#[cube]
fn copy_vector<E: Float, N: Size>(
    source: &Tensor<Vector<E, N>>,
    head: usize,
    row_stride: usize,
    from: usize,
    limit: usize,
    stage: &mut [Vector<E, N>],
    index: usize,
    #[comptime] width: usize,
) {
    let (row, column) = (index / width, index % width);
    let at = head + min(from + row, limit - 1) * row_stride + column;
    let to = row * comptime!(width + 1) + column;
    copy_async(&source[at..at + 1], &mut stage[to..to + 1], 8u32);
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
