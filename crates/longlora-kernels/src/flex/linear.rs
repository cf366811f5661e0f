//! Linear layers: rows in chunks, each chunk through the weight and the update on one core.

use std::borrow::Cow;

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, bf16};
use rayon::prelude::*;

use super::floats;
use super::matrix::{Matrix, add_product, fill_with_product, product, wide_product};
use super::narrow;
use crate::chunks::{Unwritten, both_filled, filled, filled_in_rounds};

/// Rows of a chunk, where there are many. The `gemm` crate packs the weight for each chunk anew: at 512 rows that is a
/// thirtieth of the work, and there are still enough chunks for many cores.
const ROWS: usize = 512;
/// Rows below which all cores share one product.
const FEW_ROWS: usize = 64;

/// A matrix of weights in f32, widened if it is kept in bf16.
pub(super) struct Weight<'a> {
    data: Cow<'a, [f32]>,
    shape: [usize; 2],
    strides: [usize; 2],
}

impl<'a> Weight<'a> {
    /// # Panics
    /// If it is of neither type, or lies backwards.
    pub(super) fn of(weight: &'a FloatTensor<Flex>) -> Self {
        let layout = weight.layout();
        let strides = <[isize; 2]>::try_from(layout.strides()).expect("a weight is a matrix");
        let strides = strides.map(|stride| usize::try_from(stride).expect("it is not flipped"));
        let (start, shape): (usize, [usize; 2]) = (layout.start_offset(), weight.shape().dims());
        let last: usize =
            shape.iter().zip(strides).map(|(size, by)| size.saturating_sub(1) * by).sum();
        // It may be a part of a larger one.
        let part = start..start + if shape.contains(&0) { 0 } else { last + 1 };
        let data = match weight.dtype() {
            DType::F32 => Cow::Borrowed(&weight.storage::<f32>()[part]),
            DType::BF16 => Cow::Owned(widened(&weight.storage::<bf16>()[part])),
            other => unreachable!("a weight of type {other:?} takes the plain path"),
        };
        Self { data, shape, strides }
    }

    pub(super) fn matrix(&self) -> Matrix<'_> {
        Matrix::new(&self.data, self.shape, self.strides)
    }
}

fn widened(narrow: &[bf16]) -> Vec<f32> {
    let mut wide = vec![0.0; narrow.len()];
    wide.par_chunks_mut(super::CHUNK)
        .zip(narrow.par_chunks(super::CHUNK))
        .for_each(|(wide, narrow)| narrow::widen(narrow, wide));
    wide
}

/// The factors of a low-rank update and its scale.
pub(super) struct Update<'a> {
    /// `[d_input, rank]`
    pub(super) a: Matrix<'a>,
    /// `[rank, d_output]`
    pub(super) b: Matrix<'a>,
    pub(super) scale: f32,
}

/// `x·W`: `[rows, d_output]`
pub(super) fn forward(x: &[f32], weight: &FloatTensor<Flex>) -> Vec<f32> {
    let [d_input, d_output] = weight.shape().dims();
    let rows = x.len().checked_div(d_input).unwrap_or(0);
    if rows < FEW_ROWS {
        return forward_few(x, weight, rows);
    }
    let (weight, x) = (Weight::of(weight), Matrix::of_rows(x, d_input));
    let chunk = rows_per_chunk(rows);
    let (out, _) = filled(rows * d_output, (chunk * d_output).max(1), |index, out| {
        let x = x.rows(index * chunk, out.len() / d_output);
        (fill_with_product(out, x, weight.matrix(), 1.0), ())
    });
    out
}

/// The same of rows too few to be cut.
fn forward_few(x: &[f32], weight: &FloatTensor<Flex>, rows: usize) -> Vec<f32> {
    let [d_input, d_output] = weight.shape().dims();
    let mut out = vec![0.0; rows * d_output];
    if rows <= narrow::MOST_ROWS && weight.dtype() == DType::BF16 {
        narrow::product(&mut out, x, weight);
    } else {
        let x = Matrix::of_rows(x, d_input);
        wide_product(&mut out, x, Weight::of(weight).matrix(), 1.0);
    }
    out
}

/// `(x·W + low·B, low)` with `low = scale · x·A`
pub(super) fn forward_with_update(
    x: &[f32],
    weight: &FloatTensor<Flex>,
    update: &Update<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let ([d_input, d_output], [rank, _]) = (weight.shape().dims(), update.b.shape());
    let rows = x.len().checked_div(d_input).unwrap_or(0);
    if rows < FEW_ROWS {
        return with_update(forward(x, weight), x, rows, update);
    }
    let (weight, x) = (Weight::of(weight), Matrix::of_rows(x, d_input));
    let chunk = rows_per_chunk(rows);
    let [out, low] = both_filled(
        [rows * d_output, rows * rank],
        [chunk * d_output, chunk * rank],
        |index, [out, low]| {
            let x = x.rows(index * chunk, low.len() / rank);
            let out = fill_with_product(out, x, weight.matrix(), 1.0);
            let low = fill_with_product(low, x, update.a, update.scale);
            add_product(out, Matrix::of_rows(low, rank), update.b, 1.0);
            [out, low]
        },
    );
    (out, low)
}

/// `(out + low·B, low)` of few rows.
pub(super) fn with_update(
    mut out: Vec<f32>,
    x: &[f32],
    rows: usize,
    update: &Update<'_>,
) -> (Vec<f32>, Vec<f32>) {
    let [d_input, rank] = update.a.shape();
    let mut low = vec![0.0; rows * rank];
    product(&mut low, Matrix::of_rows(x, d_input), update.a, update.scale);
    add_product(&mut out, Matrix::of_rows(&low, rank), update.b, 1.0);
    (out, low)
}

/// `dx = dy·Wᵀ`: `[rows, d_input]`
pub(super) fn d_input(d_out: &[f32], weight: &FloatTensor<Flex>) -> Vec<f32> {
    let [d_input, d_output] = weight.shape().dims();
    let (weight, d_out) = (Weight::of(weight), Matrix::of_rows(d_out, d_output));
    let rows = d_out.shape()[0];
    let chunk = rows_per_chunk(rows);
    let (dx, _) = filled(rows * d_input, (chunk * d_input).max(1), |index, dx| {
        let d_out = d_out.rows(index * chunk, dx.len() / d_input);
        (fill_with_product(dx, d_out, weight.matrix().transposed(), 1.0), ())
    });
    dx
}

/// `dW = xᵀ·dy`: `[d_input, d_output]`, its rows on all cores.
pub(super) fn d_weight(x: &[f32], d_out: &[f32], [d_input, d_output]: [usize; 2]) -> Vec<f32> {
    let (x, d_out) = (Matrix::of_rows(x, d_input), Matrix::of_rows(d_out, d_output));
    let chunk = rows_per_chunk(d_input);
    let (d_weight, _) = filled(d_input * d_output, (chunk * d_output).max(1), |index, d_weight| {
        let x = x.transposed().rows(index * chunk, d_weight.len() / d_output);
        (fill_with_product(d_weight, x, d_out, 1.0), ())
    });
    d_weight
}

/// The gradients of an updated layer by its input and by both factors.
pub(super) struct UpdateGradient {
    pub(super) dx: Vec<f32>,
    pub(super) da: Vec<f32>,
    pub(super) db: Vec<f32>,
}

/// With `d_low = scale · dy·Bᵀ`: `dx = dy·Wᵀ + d_low·Aᵀ`, `dA = xᵀ·d_low`, `dB = lowᵀ·dy`.
///
/// The gradients of the factors are summed chunk after chunk, so they do not depend on the number of threads.
pub(super) fn backward_with_update(
    x: &[f32],
    low: &[f32],
    d_out: &[f32],
    weight: &FloatTensor<Flex>,
    update: &Update<'_>,
) -> UpdateGradient {
    let ([d_input, d_output], [rank, _]) = (weight.shape().dims(), update.b.shape());
    let weight = Weight::of(weight);
    let inputs = [(x, d_input), (low, rank), (d_out, d_output)]
        .map(|(data, width)| Matrix::of_rows(data, width));
    let rows = inputs[0].shape()[0];
    let chunk = rows_per_chunk(rows);
    let (len, chunk_len) = (rows * d_input, (chunk * d_input).max(1));
    let (mut da, mut db) = (vec![0.0; d_input * rank], vec![0.0; rank * d_output]);
    // The shares of so many chunks wait to be added up: of rank 256 and a layer of 4,096, 8 MiB each.
    let at_once = 2 * rayon::current_num_threads().max(8);
    let dx = filled_in_rounds(
        len,
        chunk_len,
        at_once,
        |index, dx| {
            let count = dx.len() / d_input;
            let inputs = inputs.map(|all| all.rows(index * chunk, count));
            gradient_of_chunk(dx, inputs, weight.matrix(), update)
        },
        |(of_a, of_b)| {
            add(&mut da, &of_a);
            add(&mut db, &of_b);
        },
    );
    UpdateGradient { dx, da, db }
}

/// Fills in `dx` of some rows; their shares of `dA` and `dB`.
fn gradient_of_chunk<'a>(
    dx: &'a mut Unwritten,
    [x, low, d_out]: [Matrix<'_>; 3],
    weight: Matrix<'_>,
    update: &Update<'_>,
) -> (&'a mut [f32], (Vec<f32>, Vec<f32>)) {
    let ([d_input, d_output], [rank, _]) = (weight.shape(), update.b.shape());
    let mut d_low = vec![0.0; d_out.shape()[0] * rank];
    product(&mut d_low, d_out, update.b.transposed(), update.scale);
    let d_low = Matrix::of_rows(&d_low, rank);
    let dx = fill_with_product(dx, d_out, weight.transposed(), 1.0);
    add_product(dx, d_low, update.a.transposed(), 1.0);
    let (mut da, mut db) = (vec![0.0; d_input * rank], vec![0.0; rank * d_output]);
    product(&mut da, x.transposed(), d_low, 1.0);
    product(&mut db, low.transposed(), d_out, 1.0);
    (dx, (da, db))
}

fn add(sum: &mut [f32], terms: &[f32]) {
    sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
}

/// Fixed by the number of rows alone, so that results do not depend on the number of threads.
pub(super) fn rows_per_chunk(rows: usize) -> usize {
    rows.div_ceil(4).next_multiple_of(8).clamp(8, ROWS)
}

/// The factors of an update, as matrices.
pub(super) fn update<'a>(
    a: &'a FloatTensor<Flex>,
    b: &'a FloatTensor<Flex>,
    scale: f64,
) -> Update<'a> {
    let ([d_input, rank], [_, d_output]): ([usize; 2], [usize; 2]) =
        (a.shape().dims(), b.shape().dims());
    Update {
        a: Matrix::new(floats(a), [d_input, rank], [rank, 1]),
        b: Matrix::new(floats(b), [rank, d_output], [d_output, 1]),
        scale: scale as f32,
    }
}
