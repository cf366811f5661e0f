//! Weights in bf16, read as they are: widening is a shift.
//!
//! A step of decoding multiplies one row by every weight of the model. Then the time is that of reading the weights, and
//! half the bytes are half the time; with many rows they are widened once and multiplied as f32.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::bf16;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::CHUNK;

/// Rows up to which weights are read in bf16 for each of them.
pub(super) const MOST_ROWS: usize = 4;

/// `out = x·W`, `W` in bf16: `[d_input, d_output]`, its rows or its columns contiguous.
pub(super) fn product(out: &mut [f32], x: &[f32], weight: &FloatTensor<Flex>) {
    let [d_input, d_output] = weight.shape().dims();
    if d_input == 0 || d_output == 0 {
        return;
    }
    let turned = weight.layout().strides()[0] == 1 && d_input > 1;
    let weight = if turned { weight.transpose(0, 1) } else { weight.clone() }.to_contiguous();
    let data: &[bf16] = weight.as_slice().expect("it was made contiguous and is bf16");
    let arch = Arch::new();
    for (out, x) in out.chunks_exact_mut(d_output).zip(x.chunks_exact(d_input)) {
        let tasks = if data.len() < CHUNK { 1 } else { 2 * rayon::current_num_threads() };
        let columns = d_output.div_ceil(tasks).next_multiple_of(16);
        out.par_chunks_mut(columns).enumerate().for_each(|(index, out)| {
            let first = index * columns;
            if turned {
                let rows = &data[first * d_input..(first + out.len()) * d_input];
                arch.dispatch(Dots { x, rows, out });
            } else {
                arch.dispatch(Columns { x, data, first, d_output, out });
            }
        });
    }
}

/// The same numbers in f32, exactly.
pub(super) fn widen(narrow: &[bf16], wide: &mut [f32]) {
    for (wide, narrow) in wide.iter_mut().zip(narrow) {
        *wide = widened(*narrow);
    }
}

/// Also of NaN and infinity; `bf16::to_f32` branches for the first and is not vectorised.
#[inline(always)]
fn widened(narrow: bf16) -> f32 {
    f32::from_bits(u32::from(narrow.to_bits()) << 16)
}

/// One output for each row of `rows`.
struct Dots<'a> {
    x: &'a [f32],
    rows: &'a [bf16],
    out: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (out, row) in self.out.iter_mut().zip(self.rows.chunks_exact(self.x.len())) {
            let mut lanes = [0.0_f32; 16];
            let ((x, x_rest), (row, row_rest)) = (self.x.as_chunks::<16>(), row.as_chunks::<16>());
            for (x, row) in x.iter().zip(row) {
                for ((lane, &x), &entry) in lanes.iter_mut().zip(x).zip(row) {
                    *lane = x.mul_add(widened(entry), *lane);
                }
            }
            let rest = x_rest.iter().zip(row_rest);
            *out = rest.fold(lanes.iter().sum(), |sum, (&x, &y)| x.mul_add(widened(y), sum));
        }
    }
}

/// Some columns of a matrix in rows of `d_output`.
struct Columns<'a> {
    x: &'a [f32],
    data: &'a [bf16],
    first: usize,
    d_output: usize,
    out: &'a mut [f32],
}

impl WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        self.out.fill(0.0);
        for (&x, row) in self.x.iter().zip(self.data.chunks_exact(self.d_output)) {
            let row = &row[self.first..self.first + self.out.len()];
            for (out, &entry) in self.out.iter_mut().zip(row) {
                *out = x.mul_add(widened(entry), *out);
            }
        }
    }
}
