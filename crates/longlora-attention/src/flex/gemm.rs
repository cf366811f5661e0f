//! Products of tiles: `c += a·b`, `a` of any strides, `b` and `c` with contiguous rows.

use pulp::Simd;

/// The left factor: `rows × depth`, entry `(i, p)` at `i · row_stride + p · column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Left<'a> {
    /// A matrix whose rows follow one another.
    #[inline(always)]
    pub(super) fn rows(data: &'a [f32], rows: usize, depth: usize, row_stride: usize) -> Self {
        Self { data, rows, depth, row_stride, column_stride: 1 }
    }

    /// The transpose of a matrix whose rows follow one another.
    #[inline(always)]
    pub(super) fn transposed(data: &'a [f32], rows: usize, depth: usize, stride: usize) -> Self {
        Self { data, rows, depth, row_stride: 1, column_stride: stride }
    }
}

/// The right factor: `depth × columns`, rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
    pub(super) columns: usize,
    pub(super) stride: usize,
}

/// `c += a·b`; row `i` of `c` starts at `i · c_stride`.
///
/// # Panics
/// If a slice is too short for its sizes.
#[inline(always)]
pub(super) fn multiply_add<S: Simd>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_>,
    b: Right<'_>,
) {
    if a.rows == 0 || a.depth == 0 || b.columns == 0 {
        return;
    }
    assert!(a.data.len() > (a.rows - 1) * a.row_stride + (a.depth - 1) * a.column_stride);
    assert!(b.data.len() >= (a.depth - 1) * b.stride + b.columns);
    assert!(c.len() >= (a.rows - 1) * c_stride + b.columns);
    let lanes = S::F32_LANES;
    let mut column = 0;
    while column + 2 * lanes <= b.columns {
        columns::<S, 4, 2>(simd, c, c_stride, a, b, column);
        column += 2 * lanes;
    }
    while column + lanes <= b.columns {
        columns::<S, 8, 1>(simd, c, c_stride, a, b, column);
        column += lanes;
    }
    for column in column..b.columns {
        for row in 0..a.rows {
            for p in 0..a.depth {
                c[row * c_stride + column] += a.data[row * a.row_stride + p * a.column_stride]
                    * b.data[p * b.stride + column];
            }
        }
    }
}

/// All rows of `VECTORS` SIMD columns, `ROWS` at a time.
#[inline(always)]
fn columns<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_>,
    b: Right<'_>,
    column: usize,
) {
    let mut row = 0;
    while row + ROWS <= a.rows {
        block::<S, ROWS, VECTORS>(simd, c, c_stride, a, b, [row, column]);
        row += ROWS;
    }
    while row < a.rows {
        block::<S, 1, VECTORS>(simd, c, c_stride, a, b, [row, column]);
        row += 1;
    }
}

/// One block of `c`, held in registers over the whole depth.
#[inline(always)]
fn block<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    c: &mut [f32],
    c_stride: usize,
    a: Left<'_>,
    b: Right<'_>,
    [row, column]: [usize; 2],
) {
    let lanes = S::F32_LANES;
    debug_assert!(row + ROWS <= a.rows && column + VECTORS * lanes <= b.columns);
    // SAFETY: `multiply_add` has checked that the three slices hold all rows, the whole depth and all columns, and its
    // loops keep `row + ROWS` and `column + VECTORS · lanes` inside them. Loads and stores are unaligned.
    #[expect(unsafe_code, reason = "bounds checks in this loop halve its speed")]
    unsafe {
        let c = c.as_mut_ptr().add(row * c_stride + column);
        let a_data = a.data.as_ptr().add(row * a.row_stride);
        let b_data = b.data.as_ptr().add(column);
        let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = c.add(i * c_stride + j * lanes).cast::<S::f32s>().read_unaligned();
            }
        }
        for p in 0..a.depth {
            let mut b_row = [simd.splat_f32s(0.0); VECTORS];
            for (j, vector) in b_row.iter_mut().enumerate() {
                *vector = b_data.add(p * b.stride + j * lanes).cast::<S::f32s>().read_unaligned();
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = simd.splat_f32s(*a_data.add(i * a.row_stride + p * a.column_stride));
                for (sum, &vector) in sums.iter_mut().zip(&b_row) {
                    *sum = simd.mul_add_f32s(factor, vector, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                c.add(i * c_stride + j * lanes).cast::<S::f32s>().write_unaligned(sum);
            }
        }
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
    use super::*;

    struct Multiply<'a>(&'a mut [f32], usize, Left<'a>, Right<'a>);

    impl pulp::WithSimd for Multiply<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            multiply_add(simd, self.0, self.1, self.2, self.3);
        }
    }

    #[track_caller]
    fn check(rows: usize, depth: usize, columns: usize, transposed: bool) {
        let a: Vec<f32> = (0..rows * depth).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..depth * columns).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
        let left = if transposed {
            Left::transposed(&a, rows, depth, rows)
        } else {
            Left::rows(&a, rows, depth, depth)
        };
        let right = Right { data: &b, columns, stride: columns };
        let mut ours = vec![1.0; rows * columns];
        pulp::Arch::new().dispatch(Multiply(&mut ours, columns, left, right));
        for i in 0..rows {
            for j in 0..columns {
                let product = (0..depth)
                    .map(|p| a[i * left.row_stride + p * left.column_stride] * b[p * columns + j]);
                assert_eq!(ours[i * columns + j], 1.0 + product.sum::<f32>(), "({i}, {j})");
            }
        }
    }

    #[test]
    fn products_are_exact_on_small_integers_whatever_the_tails() {
        for (rows, depth, columns) in [(1, 1, 1), (4, 3, 16), (9, 8, 24), (5, 7, 31), (64, 6, 48)] {
            check(rows, depth, columns, false);
            check(rows, depth, columns, true);
        }
    }
}
