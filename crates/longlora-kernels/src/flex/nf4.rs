//! NF4 on the CPU: blocks become f32, or are multiplied as they are where rows are few.
//!
//! A byte holds two codes, so it is looked up in a table of pairs.

use std::sync::LazyLock;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::Shape;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{CHUNK, tensor};
use crate::nf4::{BLOCK, LEVELS, WORDS, width};

/// What the two codes of a byte stand for.
static PAIRS: LazyLock<[[f32; 2]; 256]> =
    LazyLock::new(|| std::array::from_fn(|byte| [LEVELS[byte >> 4], LEVELS[byte & 15]]));

/// The matrix `[d_input, d_output]`, its columns contiguous.
pub(super) fn dequantize(blocks: &IntTensor<Flex>) -> FloatTensor<Flex> {
    let blocks = blocks.to_contiguous();
    let words = words(&blocks);
    let [d_output, of_row] = blocks.shape().dims();
    let mut numbers = vec![0.0; width(words.len())];
    numbers.par_chunks_mut(CHUNK).zip(words.par_chunks(CHUNK / BLOCK * WORDS)).for_each(
        |(numbers, words)| {
            let (numbers, _) = numbers.as_chunks_mut::<BLOCK>();
            for (numbers, words) in numbers.iter_mut().zip(words.as_chunks::<WORDS>().0) {
                expand(words, numbers);
            }
        },
    );
    tensor(numbers, Shape::new([d_output, width(of_row)])).transpose(0, 1)
}

/// `out = x·W` of few rows: each block is expanded once, in cache, and multiplied by all of them.
pub(super) fn product(x: &[f32], blocks: &IntTensor<Flex>) -> Vec<f32> {
    let blocks = blocks.to_contiguous();
    let [d_output, of_row] = blocks.shape().dims();
    let (words, d_input) = (words(&blocks), width(of_row));
    let rows = x.len().checked_div(d_input).unwrap_or(0);
    // By columns, so that what a task writes lies together; turned at the end.
    let mut columns = vec![0.0; rows * d_output];
    if columns.is_empty() {
        return columns;
    }
    let (arch, of_task) = (Arch::new(), (CHUNK / d_input).max(1));
    columns
        .par_chunks_mut(of_task * rows)
        .zip(words.par_chunks(of_task * of_row))
        .for_each(|(out, words)| arch.dispatch(Dots { x, words, d_input, out }));
    let entry = |(row, column): (usize, usize)| columns[column * rows + row];
    (0..rows).flat_map(|row| (0..d_output).map(move |column| (row, column))).map(entry).collect()
}

/// The outputs of some columns for every row of `x`: `[columns, rows]`.
struct Dots<'a> {
    x: &'a [f32],
    words: &'a [i32],
    d_input: usize,
    out: &'a mut [f32],
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { x, words, d_input, out } = self;
        let rows = x.len() / d_input;
        let of_column = words.chunks_exact(d_input / BLOCK * WORDS);
        for (out, words) in out.chunks_exact_mut(rows).zip(of_column) {
            for (index, words) in words.as_chunks::<WORDS>().0.iter().enumerate() {
                let mut numbers = [0.0; BLOCK];
                expand(words, &mut numbers);
                for (out, x) in out.iter_mut().zip(x.chunks_exact(d_input)) {
                    *out += dot(&x[index * BLOCK..][..BLOCK], &numbers);
                }
            }
        }
    }
}

#[inline(always)]
fn dot(x: &[f32], numbers: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for (x, numbers) in x.as_chunks::<16>().0.iter().zip(numbers.as_chunks::<16>().0) {
        for ((lane, &x), &number) in lanes.iter_mut().zip(x).zip(numbers) {
            *lane = x.mul_add(number, *lane);
        }
    }
    lanes.iter().sum()
}

/// The numbers of a block.
#[inline(always)]
fn expand(words: &[i32; WORDS], numbers: &mut [f32; BLOCK]) {
    let pairs = &*PAIRS;
    let absmax = f32::from_bits(words[0].cast_unsigned());
    for (word, numbers) in words[1..].iter().zip(numbers.as_chunks_mut::<8>().0) {
        for (byte, numbers) in word.to_le_bytes().into_iter().zip(numbers.as_chunks_mut::<2>().0) {
            *numbers = pairs[usize::from(byte)].map(|level| absmax * level);
        }
    }
}

fn words(blocks: &IntTensor<Flex>) -> &[i32] {
    blocks.as_slice().expect("the tensor was made contiguous and is i32")
}
