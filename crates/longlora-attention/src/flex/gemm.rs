//! Products of tiles: `c = a·b` and `c += a·b`, `b` and `c` with contiguous rows.

use aligned_vec::{AVec, avec};
use pulp::Simd;

/// Numbers of which the first begins a cache line. Of others, every load of a register as wide as a line reads two lines.
pub(super) type Aligned = AVec<f32>;

pub(super) fn zeros(len: usize) -> Aligned {
    avec![0.0; len]
}

/// The left factor: `rows × depth`, its rows or its columns contiguous and `stride` apart. Which of both is a type, so that
/// the inner loop steps by a constant.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, const BY_COLUMNS: bool> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) stride: usize,
}

/// Rows that follow one another.
pub(super) type Rows<'a> = Left<'a, false>;
/// Columns that follow one another: the transpose of such a matrix.
pub(super) type Columns<'a> = Left<'a, true>;

impl<const BY_COLUMNS: bool> Left<'_, BY_COLUMNS> {
    /// Where entry `(row, p)` lies.
    #[inline(always)]
    fn index(&self, row: usize, p: usize) -> usize {
        if BY_COLUMNS { p * self.stride + row } else { row * self.stride + p }
    }
}

/// The right factor: `depth × columns`, rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
    pub(super) columns: usize,
    pub(super) stride: usize,
}

/// `c = a·b`; row `i` of `c` starts at `i · c_stride`.
///
/// # Panics
/// If a slice is too short for its sizes.
#[inline(always)]
pub(super) fn multiply<S: Simd, const T: bool>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_, T>,
    b: Right<'_>,
) {
    run::<S, Replace, T>(simd, c, c_stride, a, b);
}

/// `c += a·b`; row `i` of `c` starts at `i · c_stride`.
///
/// # Panics
/// If a slice is too short for its sizes.
#[inline(always)]
pub(super) fn multiply_add<S: Simd, const T: bool>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_, T>,
    b: Right<'_>,
) {
    run::<S, Add, T>(simd, c, c_stride, a, b);
}

/// What becomes of an entry of `c`.
trait Store {
    fn store<S: Simd>(simd: S, before: S::f32s, sum: S::f32s) -> S::f32s;
    fn store_one(before: f32, sum: f32) -> f32;
}

struct Replace;
struct Add;

impl Store for Replace {
    #[inline(always)]
    fn store<S: Simd>(_: S, _: S::f32s, sum: S::f32s) -> S::f32s {
        sum
    }

    #[inline(always)]
    fn store_one(_: f32, sum: f32) -> f32 {
        sum
    }
}

impl Store for Add {
    #[inline(always)]
    fn store<S: Simd>(simd: S, before: S::f32s, sum: S::f32s) -> S::f32s {
        simd.add_f32s(before, sum)
    }

    #[inline(always)]
    fn store_one(before: f32, sum: f32) -> f32 {
        before + sum
    }
}

#[inline(always)]
fn run<S: Simd, K: Store, const T: bool>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_, T>,
    b: Right<'_>,
) {
    if a.rows == 0 || a.depth == 0 || b.columns == 0 {
        return;
    }
    assert!(a.data.len() > a.index(a.rows - 1, a.depth - 1));
    assert!(b.data.len() >= (a.depth - 1) * b.stride + b.columns);
    assert!(c.len() >= (a.rows - 1) * c_stride + b.columns);
    let lanes = S::F32_LANES;
    let mut column = 0;
    while S::REGISTER_COUNT >= 32 && column + 4 * lanes <= b.columns {
        columns::<S, K, T, 4>(simd, c, c_stride, a, b, column);
        column += 4 * lanes;
    }
    while column + 2 * lanes <= b.columns {
        columns::<S, K, T, 2>(simd, c, c_stride, a, b, column);
        column += 2 * lanes;
    }
    while column + lanes <= b.columns {
        columns::<S, K, T, 1>(simd, c, c_stride, a, b, column);
        column += lanes;
    }
    for column in column..b.columns {
        for row in 0..a.rows {
            let mut sum = 0.0;
            for p in 0..a.depth {
                sum += a.data[a.index(row, p)] * b.data[p * b.stride + column];
            }
            let c = &mut c[row * c_stride + column];
            *c = K::store_one(*c, sum);
        }
    }
}

/// All rows of `VECTORS` SIMD columns: six at a time, which with two vectors makes twelve sums, enough to hide the latency
/// of a fused multiply-add and few enough for sixteen registers; with four, of thirty-two, it makes twenty-four.
#[inline(always)]
fn columns<S: Simd, K: Store, const T: bool, const VECTORS: usize>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_, T>,
    b: Right<'_>,
    column: usize,
) {
    let mut row = 0;
    while row + 6 <= a.rows {
        block::<S, K, T, 6, VECTORS>(simd, c, c_stride, a, b, [row, column]);
        row += 6;
    }
    if row + 4 <= a.rows {
        block::<S, K, T, 4, VECTORS>(simd, c, c_stride, a, b, [row, column]);
        row += 4;
    }
    while row < a.rows {
        block::<S, K, T, 1, VECTORS>(simd, c, c_stride, a, b, [row, column]);
        row += 1;
    }
}

/// One block of `c`, held in registers over the whole depth.
#[inline(always)]
fn block<S: Simd, K: Store, const T: bool, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_, T>,
    b: Right<'_>,
    [row, column]: [usize; 2],
) {
    let lanes = S::F32_LANES;
    debug_assert!(row + ROWS <= a.rows && column + VECTORS * lanes <= b.columns);
    // SAFETY: `run` has checked that the three slices hold all rows, the whole depth and all columns, and its
    // loops keep `row + ROWS` and `column + VECTORS · lanes` inside them. Loads and stores are unaligned.
    #[expect(unsafe_code, reason = "bounds checks in this loop halve its speed")]
    unsafe {
        let c = c.as_mut_ptr().add(row * c_stride + column);
        let a_data = a.data.as_ptr();
        let b_data = b.data.as_ptr().add(column);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for p in 0..a.depth {
            let mut b_row = [simd.splat_f32s(0.0); VECTORS];
            for (j, vector) in b_row.iter_mut().enumerate() {
                *vector = b_data.add(p * b.stride + j * lanes).cast::<S::f32s>().read_unaligned();
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = simd.splat_f32s(*a_data.add(a.index(row + i, p)));
                for (sum, &vector) in sums.iter_mut().zip(&b_row) {
                    *sum = simd.mul_add_f32s(factor, vector, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                let c = c.add(i * c_stride + j * lanes).cast::<S::f32s>();
                c.write_unaligned(K::store(simd, c.read_unaligned(), sum));
            }
        }
    }
}

/// How far apart rows are kept that a product walks down: an odd number of cache lines. At a power of two they would all
/// fall on the same few places of the first-level cache and drive each other out.
pub(super) const fn stride_of(columns: usize) -> usize {
    const LINE: usize = 64 / size_of::<f32>();
    (columns.div_ceil(LINE) | 1) * LINE
}

/// Copies rows that are `from_stride` apart to where they are `stride` apart.
#[inline(always)]
pub(super) fn spread(
    from: &[f32],
    from_stride: usize,
    columns: usize,
    into: &mut [f32],
    stride: usize,
) {
    for (from, into) in from.chunks(from_stride).zip(into.chunks_exact_mut(stride)) {
        into[..columns].copy_from_slice(&from[..columns]);
    }
}

/// Writes the transpose of `x`, `rows × columns`, as `columns` rows of `stride`.
#[inline(always)]
pub(super) fn transpose(x: &[f32], columns: usize, into: &mut [f32], stride: usize) {
    for (i, row) in x.chunks_exact(columns).enumerate() {
        for (j, &entry) in row.iter().enumerate() {
            into[j * stride + i] = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;

    struct Products<'a, const T: bool>([&'a mut [f32]; 2], Left<'a, T>, Right<'a>);

    impl<const T: bool> WithSimd for Products<'_, T> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self([replaced, added], a, b) = self;
            multiply(simd, replaced, b.stride, a, b);
            multiply_add(simd, added, b.stride, a, b);
        }
    }

    #[track_caller]
    fn check<const T: bool>(left: Left<'_, T>, columns: usize) {
        let (rows, depth) = (left.rows, left.depth);
        let b: Vec<f32> = (0..depth * columns).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
        let right = Right { data: &b, columns, stride: columns };
        for run in instruction_sets() {
            let (mut replaced, mut added) =
                (vec![f32::NAN; rows * columns], vec![1.0; rows * columns]);
            run(Products([&mut replaced, &mut added], left, right));
            for i in 0..rows {
                for j in 0..columns {
                    let product =
                        (0..depth).map(|p| left.data[left.index(i, p)] * b[p * columns + j]);
                    let product = product.sum::<f32>();
                    let [replaced, added] = [&replaced, &added].map(|c| c[i * columns + j]);
                    assert_eq!([replaced, added], [product, 1.0 + product], "({i}, {j})");
                }
            }
        }
    }

    /// What this machine has: one number at a time, and every width of SIMD that [`pulp::Arch`] may choose.
    fn instruction_sets<const T: bool>() -> Vec<fn(Products<'_, T>)> {
        let mut all: Vec<fn(Products<'_, T>)> =
            vec![|products| products.with_simd(pulp::Scalar::new()), |products| {
                pulp::Arch::new().dispatch(products)
            }];
        #[cfg(target_arch = "x86_64")]
        if pulp::x86::V3::is_available() {
            all.push(|products| {
                Simd::vectorize(pulp::x86::V3::try_new().expect("it is available"), products);
            });
        }
        all
    }

    #[test]
    fn products_are_exact_on_small_integers_whatever_the_tails() {
        for (rows, depth, columns) in
            [(1, 1, 1), (4, 3, 16), (9, 8, 24), (11, 7, 31), (64, 6, 48), (13, 5, 127)]
        {
            let data: Vec<f32> = (0..rows * depth).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            check(Rows { data: &data, rows, depth, stride: depth }, columns);
            check(Columns { data: &data, rows, depth, stride: rows }, columns);
        }
    }
}
