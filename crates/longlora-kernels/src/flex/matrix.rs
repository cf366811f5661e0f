//! Products of matrices as they lie, on the calling thread.
//!
//! The `gemm` crate does the work, which burn's own products use, too. One core of it runs at some nine tenths of what
//! the machine can do; its split over threads does not, because all of them pack and wait together. So callers here cut
//! the rows themselves and multiply each part on one thread.

use gemm::Parallelism;

use crate::chunks::Unwritten;

/// A matrix in a slice: entry `(i, j)` is `data[i · row_stride + j · column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// # Panics
    /// If the slice ends before the last entry.
    pub(crate) fn new(
        data: &'a [f32],
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> Self {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * row_stride + (columns - 1) * column_stride;
            assert!(last < data.len(), "a matrix ends at {last}, its slice at {}", data.len());
        }
        Self { data, rows, columns, row_stride, column_stride }
    }

    /// Rows of `columns` entries, one after the other.
    pub(crate) fn of_rows(data: &'a [f32], columns: usize) -> Self {
        let rows = data.len().checked_div(columns).unwrap_or(0);
        Self::new(data, [rows, columns], [columns, 1])
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Some of the rows.
    pub(crate) fn rows(self, first: usize, count: usize) -> Self {
        let data = &self.data[(first * self.row_stride).min(self.data.len())..];
        Self::new(data, [count, self.columns], [self.row_stride, self.column_stride])
    }

    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }
}

/// `out = factor · a·b`, `out` in rows.
pub(crate) fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    fill_with_product(as_unwritten(out), a, b, factor);
}

/// The same in place of what is not there yet.
pub(crate) fn fill_with_product<'a>(
    out: &'a mut Unwritten,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
) -> &'a mut [f32] {
    multiply(out, a, b, factor, false, Parallelism::None);
    // SAFETY: every number was written, and none that was there before was read: the tests show it with NaN.
    #[expect(unsafe_code, reason = "only this shows that every number was written")]
    unsafe {
        out.assume_init_mut()
    }
}

/// `out += factor · a·b`, `out` in rows.
pub(crate) fn add_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    multiply(as_unwritten(out), a, b, factor, true, Parallelism::None);
}

/// `out = factor · a·b` on all cores, for a product with too few rows to be cut: the crate's own split.
pub(crate) fn wide_product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    multiply(as_unwritten(out), a, b, factor, false, Parallelism::Rayon(0));
}

/// Numbers as if they were not there yet.
fn as_unwritten(numbers: &mut [f32]) -> &mut Unwritten {
    // SAFETY: the layout is the same, and `multiply` writes nothing but numbers.
    #[expect(unsafe_code, reason = "safe code cannot say that only numbers will be written")]
    unsafe {
        &mut *(std::ptr::from_mut(numbers) as *mut Unwritten)
    }
}

/// `out = factor · a·b`, or `out += factor · a·b`
fn multiply(
    out: &mut Unwritten,
    a: Matrix<'_>,
    b: Matrix<'_>,
    factor: f32,
    adds: bool,
    parallelism: Parallelism,
) {
    let ([m, k], [depth, n]) = (a.shape(), b.shape());
    assert_eq!(k, depth, "a product of {m}×{k} and {depth}×{n}");
    assert_eq!(out.len(), m * n, "a product of {m}×{k} and {k}×{n} has another size");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: `Matrix::new` has checked that both factors lie inside their slices, the assertions above that the sizes
    // fit and that `out` holds `m` rows of `n`; `out` is borrowed for writing, so it overlaps neither. It is read only to be
    // added to, and who asks for that holds numbers.
    #[expect(unsafe_code, reason = "the crate takes pointers")]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().cast(),
            1,
            n as isize,
            adds,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            if adds { 1.0 } else { 0.0 },
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_hand(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
        let ([m, k], [_, n]) = (a.shape(), b.shape());
        let entry = |x: Matrix<'_>, i, j| x.data[i * x.row_stride + j * x.column_stride];
        let row = |i| (0..n).map(move |j| (0..k).map(|p| entry(a, i, p) * entry(b, p, j)).sum());
        (0..m).flat_map(row).collect()
    }

    /// Whole numbers, so that every order of summation gives the same.
    fn counted(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i * i % 7) as f32 - 3.0).collect()
    }

    /// Rows, depth and columns: every way of the crate, one number, a depth of 1 and 2, one row, one column, no depth.
    const SHAPES: [[usize; 3]; 10] = [
        [1, 1, 1],
        [3, 5, 7],
        [70, 33, 40],
        [1, 600, 5],
        [9, 600, 1],
        [64, 0, 3],
        [30, 1, 20],
        [30, 2, 20],
        [100, 1100, 100],
        [17, 576, 80],
    ];

    #[test]
    fn products_are_those_of_the_definition() {
        for [m, k, n] in SHAPES {
            let (a, b) = (counted(m * k), counted(k * n));
            let plain = [Matrix::new(&a, [m, k], [k, 1]), Matrix::new(&b, [k, n], [n, 1])];
            let turned = [
                Matrix::new(&a, [k, m], [m, 1]).transposed(),
                Matrix::new(&b, [n, k], [k, 1]).transposed(),
            ];
            for [a, b] in [plain, turned, [plain[0], turned[1]], [turned[0], plain[1]]] {
                let expected = by_hand(a, b);
                let mut out = vec![f32::NAN; m * n];
                product(&mut out, a, b, 1.0);
                assert_eq!(out, expected);
                add_product(&mut out, a, b, 2.0);
                assert_eq!(out, expected.iter().map(|x| 3.0 * x).collect::<Vec<_>>());
                wide_product(&mut out, a, b, -1.0);
                assert_eq!(out, expected.iter().map(|x| -x).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn rows_of_a_matrix_are_a_matrix() {
        let data = counted(30);
        let part = Matrix::of_rows(&data, 6).rows(2, 3);
        assert_eq!(by_hand(part, Matrix::new(&[1.0; 6], [6, 1], [1, 1])).len(), 3);
        assert_eq!(part.shape(), [3, 6]);
        assert_eq!(part.data[0], data[12]);
    }

    #[test]
    #[should_panic(expected = "a matrix ends at 6, its slice at 6")]
    fn a_matrix_beyond_its_slice_is_refused() {
        Matrix::new(&[0.0; 6], [2, 4], [3, 1]);
    }
}
