//! Operands of the matrix units, from shared memory to registers and from one product to the next.
//!
//! One instruction multiplies a 16 × 16 by a 16 × 8 matrix of 16-bit numbers and adds in f32 (PTX `mma.m16n8k16`). A lane
//! holds of each 16 × 8 sum the entries `(row, 2c)`, `(row, 2c + 1)` and the same of `row + 8`, with `row = lane / 4` and
//! `c = lane % 4`: two sums side by side, narrowed, are the left operand of the next product as they lie.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;

/// Rows of a left operand, and of a sum.
pub(super) const ROWS: usize = 16;
/// Columns of a sum.
pub(super) const COLUMNS: usize = 8;
/// What is summed over in one instruction.
pub(super) const DEPTH: usize = 16;
/// Numbers in 16 bytes: what is copied, and what a row of an operand is read by.
pub(super) const VECTOR: usize = 8;

/// A pair of neighbours, as the instruction takes them.
pub(super) type Pair<E> = Vector<E, Const<2>>;

/// 16 × 8 sums: the pairs of `row` and of `row + 8`.
pub(super) type Sums = Array<Pair<f32>>;

/// Which entries of its plane's sums this lane holds: of each 16 × 8 of them the pairs from `column` on in `row` and in
/// `row + 8`.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Lane {
    pub(super) row: usize,
    pub(super) column: usize,
}

/// This lane's.
#[cube]
pub(super) fn lane() -> Lane {
    let lane = UNIT_POS_PLANE as usize;
    Lane { row: lane / 4, column: lane % 4 * 2 }
}

/// The instruction.
#[cube]
pub(super) fn product<E: Float>() -> MmaDefinition<E, E, f32> {
    MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize)
}

/// `number` sums that are zero.
#[cube]
pub(super) fn zeros(#[comptime] number: usize) -> Sequence<Sums> {
    let mut sums = Sequence::<Sums>::new();
    #[unroll]
    for _ in 0..number {
        let mut sum = Array::<Pair<f32>>::new(2usize);
        sum[0] = Pair::<f32>::new(0.0);
        sum[1] = Pair::<f32>::new(0.0);
        sums.push(sum);
    }
    sums
}

/// The left operand of 16 rows of a stage from `row` on and 16 entries from `column` vectors on.
#[cube]
pub(super) fn left<E: Float, N: Size>(
    stage: &[Vector<E, N>],
    row: usize,
    column: usize,
    #[comptime] stride: usize,
) -> Array<Pair<E>> {
    let lane = UNIT_POS_PLANE as usize;
    let at = (row + lane % 16) * stride + column + lane / 16;
    product::<E>().load_matrix::<Vector<E, N>, Const<2>>(
        &stage[at..at + 1],
        MatrixIdent::A,
        4usize,
        false,
    )
}

/// Two right operands side by side, of a stage whose rows are their columns: the 16 rows from `row` on.
#[cube]
pub(super) fn right_of_columns<E: Float, N: Size>(
    stage: &[Vector<E, N>],
    row: usize,
    column: usize,
    #[comptime] stride: usize,
) -> Array<Pair<E>> {
    let lane = UNIT_POS_PLANE as usize;
    let at = (row + lane / 16 * 8 + lane % 8) * stride + column + lane / 8 % 2;
    product::<E>().load_matrix::<Vector<E, N>, Const<2>>(
        &stage[at..at + 1],
        MatrixIdent::B,
        4usize,
        false,
    )
}

/// Two right operands side by side, of a stage whose rows are their rows: the 16 rows from `row` on.
#[cube]
pub(super) fn right_of_rows<E: Float, N: Size>(
    stage: &[Vector<E, N>],
    row: usize,
    column: usize,
    #[comptime] stride: usize,
) -> Array<Pair<E>> {
    let lane = UNIT_POS_PLANE as usize;
    let at = (row + lane / 8 % 2 * 8 + lane % 8) * stride + column + lane / 16;
    product::<E>().load_matrix::<Vector<E, N>, Const<2>>(
        &stage[at..at + 1],
        MatrixIdent::B,
        4usize,
        true,
    )
}

/// `sums[at] += left · first`, `sums[at + 1] += left · second`, of two right operands side by side.
#[cube]
pub(super) fn add_products<E: Float>(
    sums: &mut Sequence<Sums>,
    #[comptime] at: usize,
    left: &Array<Pair<E>>,
    right: &Array<Pair<E>>,
) {
    let mut first = Array::<Pair<E>>::new(2usize);
    first[0] = right[0];
    first[1] = right[1];
    let mut second = Array::<Pair<E>>::new(2usize);
    second[0] = right[2];
    second[1] = right[3];
    product::<E>().execute_inplace(left, &first, sums.index_mut(at));
    product::<E>().execute_inplace(left, &second, sums.index_mut(comptime!(at + 1)));
}

/// Two sums side by side as the left operand of the next product.
#[cube]
pub(super) fn narrowed<E: Float>(sums: &Sequence<Sums>, #[comptime] at: usize) -> Array<Pair<E>> {
    let mut left = Array::<Pair<E>>::new(4usize);
    let (a, b) = (sums.index(at), sums.index(comptime!(at + 1)));
    left[0] = Pair::<E>::cast_from(a[0]);
    left[1] = Pair::<E>::cast_from(a[1]);
    left[2] = Pair::<E>::cast_from(b[0]);
    left[3] = Pair::<E>::cast_from(b[1]);
    left
}
