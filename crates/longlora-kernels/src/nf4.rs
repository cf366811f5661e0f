//! NF4: frozen weights in 4 bits, as QLoRA keeps them (arXiv:2305.14314, sec. 3).
//!
//! A row of a checkpoint's matrix is cut into blocks of 64 numbers. A block is its largest magnitude, `absmax`, and for each
//! number the nearest of 16 [levels](LEVELS), which are the quantiles of a normal distribution: `absmax · level`. That is 36
//! bytes for 64 numbers, 4.5 bits each.
//!
//! ```text
//! word   0        1 … 8
//!        absmax   8 codes each; code i in bits 4·(i xor 1) and up, so that bytes are those of bitsandbytes
//! ```
//!
//! Numbers are those of bitsandbytes' `quantize_4bit` with blocks of 64 and without its second quantisation, of `absmax`.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::backend::RowBackend;
use crate::fused::takes;
use crate::reference;

/// Numbers that share an `absmax`.
pub const BLOCK: usize = 64;
/// 32-bit words of a block.
pub const WORDS: usize = 1 + BLOCK / CODES_PER_WORD;
/// Codes in a word.
pub(crate) const CODES_PER_WORD: usize = 8;

/// Blocks that a task quantises: enough to be worth one.
const BLOCKS_PER_TASK: usize = 512;

/// What codes stand for (QLoRA, appendix E).
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A frozen matrix `[d_input, d_output]` in NF4.
#[derive(Debug, Clone)]
pub struct Nf4 {
    /// As a checkpoint lies, so that blocks run along what is summed up: `[d_output, d_input / 64 · 9]`, i32
    blocks: Tensor<2, Int>,
}

impl Nf4 {
    /// A matrix of [quantised](quantize) blocks.
    ///
    /// # Shapes
    /// - `blocks`: `[d_output, d_input / 64 · 9]`, i32
    ///
    /// # Panics
    /// If a row is not of whole blocks, or the words are of another type.
    pub fn of(blocks: Tensor<2, Int>) -> Self {
        assert_eq!(blocks.dtype(), DType::I32, "blocks of NF4 are words of 32 bits");
        let words = blocks.dims()[1];
        assert!(words.is_multiple_of(WORDS), "{words} words are not of whole blocks of NF4");
        Self { blocks }
    }

    /// Reads [quantised](quantize) blocks into a tensor `[d_output, d_input / 64 · 9]`. By way of one dimension: CUDA would begin
    /// each row of a matrix at a multiple of 512 bytes, and rows of blocks seldom end at one.
    ///
    /// # Panics
    /// If the data are no matrix of i32.
    pub fn read(blocks: TensorData, device: &Device) -> Tensor<2, Int> {
        let shape = blocks.shape().clone();
        let words = blocks.try_into_vec::<i32>().expect("blocks are words of 32 bits");
        let words = Tensor::<1, Int>::from_data(words.as_slice(), (device, DType::I32));
        words.reshape(shape)
    }

    /// `[d_input, d_output]`
    pub fn dims(&self) -> [usize; 2] {
        let [d_output, words] = self.blocks.dims();
        [width(words), d_output]
    }

    /// Its numbers in a type of floats: `[d_input, d_output]`. They take that type's memory.
    pub fn dequantize(self, dtype: DType) -> Tensor<2> {
        if !takes(&self.blocks.device(), dtype) {
            return reference::dequantize(&self, dtype);
        }
        Tensor::from_dispatch(Dispatch::expand_nf4(self.blocks.into_dispatch(), dtype))
    }

    /// `W` with its columns times `factors`, which go into `absmax`.
    ///
    /// # Panics
    /// If there is not one factor for each of the `d_output` columns.
    pub fn scaled(self, factors: &[f32]) -> Self {
        let [_, d_output] = self.dims();
        assert_eq!(factors.len(), d_output, "there is one factor per column");
        let (device, mut blocks) = (self.blocks.device(), self.blocks.into_data());
        let [_, of_row] = blocks.shape().dims();
        let words = blocks.as_mut_slice::<i32>().expect("blocks are words of 32 bits");
        for (row, factor) in words.chunks_mut(of_row.max(1)).zip(factors) {
            for absmax in row.iter_mut().step_by(WORDS) {
                let scaled = f32::from_bits(absmax.cast_unsigned()) * factor;
                *absmax = scaled.to_bits().cast_signed();
            }
        }
        Self::of(Self::read(blocks, &device))
    }

    /// The blocks: `[d_output, d_input / 64 · 9]`, i32
    pub fn into_blocks(self) -> Tensor<2, Int> {
        self.blocks
    }

    pub(crate) fn blocks(&self) -> &Tensor<2, Int> {
        &self.blocks
    }
}

/// Numbers of a row of so many words.
pub fn width(words: usize) -> usize {
    words / WORDS * BLOCK
}

/// The blocks of a matrix as a checkpoint holds it, `[d_output, d_input]`: `[d_output, d_input / 64 · 9]`, i32. `None` if its
/// rows are not of whole blocks.
///
/// # Panics
/// If the data are not f32, or no matrix.
pub fn quantize(weight: &TensorData) -> Option<TensorData> {
    let [d_output, d_input] = <[usize; 2]>::try_from(weight.shape().as_slice()).expect("a matrix");
    if !d_input.is_multiple_of(BLOCK) {
        return None;
    }
    let numbers = weight.as_slice::<f32>().expect("numbers in f32");
    let mut words = vec![0; numbers.len() / BLOCK * WORDS];
    let blocks = words.as_chunks_mut::<WORDS>().0.par_iter_mut().zip(numbers.par_chunks(BLOCK));
    blocks
        .with_min_len(BLOCKS_PER_TASK)
        .for_each(|(words, numbers)| quantize_block(numbers, words));
    Some(TensorData::new(words, [d_output, d_input / BLOCK * WORDS]))
}

/// The words of a block.
fn quantize_block(numbers: &[f32], words: &mut [i32; WORDS]) {
    // Unlike `f32::max`, this keeps what is not a number.
    let largest = |largest: f32, x: &f32| match x.abs() {
        x if x > largest || x.is_nan() => x,
        _ => largest,
    };
    let absmax = numbers.iter().fold(0.0, largest);
    words[0] = absmax.to_bits().cast_signed();
    let inverse = if absmax > 0.0 { 1.0 / absmax } else { 0.0 };
    for (word, numbers) in words[1..].iter_mut().zip(numbers.chunks_exact(CODES_PER_WORD)) {
        let codes = numbers.iter().enumerate();
        let codes = codes.fold(0, |word, (i, x)| word | code_of(x * inverse) << (4 * (i ^ 1)));
        *word = codes.cast_signed();
    }
}

/// The nearest level's.
fn code_of(x: f32) -> u32 {
    LEVELS.windows(2).map(|pair| u32::from(x > f32::midpoint(pair[0], pair[1]))).sum()
}

/// The numbers of a block, the slow way.
pub(crate) fn dequantize_block(words: &[i32], numbers: &mut [f32]) {
    let absmax = f32::from_bits(words[0].cast_unsigned());
    for (word, numbers) in words[1..].iter().zip(numbers.chunks_exact_mut(CODES_PER_WORD)) {
        for (i, x) in numbers.iter_mut().enumerate() {
            let code = word.cast_unsigned() >> (4 * (i ^ 1)) & 15;
            *x = absmax * LEVELS[code as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of `tests/interop/nf4_golden.py`.
    fn numbers() -> Vec<f32> {
        let scales = [0.01, 0.1, 1.0, 10.0, 100.0, 0.0];
        let number = |i: u64| {
            let x = (i * 2_654_435_761 % 65_536) as f64 / 32_768.0 - 1.0;
            (x * x * x * scales[i as usize / BLOCK]) as f32
        };
        (0..384).map(number).collect()
    }

    /// By bitsandbytes 0.50.2 on a CPU.
    const CODES: &str = "07e7d7b7a695847372717f7e7c7b69685847271707e7d7c7a696857372717f7e7d7b7a695847371707f7e7c7b69685847271707e7d7c7a695847372717f7e7d7b6a695847371707f7e7c7b69685837271707e7d7c7a695847372717f7e7d7b6a685847371707f7d7c7a69685837271707e7d7b7a695847372717f7e7c7b69685847371707e7d7c7a69685837271707e7d7b7a695847372717f7e7c7b696858477777777777777777777777777777777777777777777777777777777777777777";
    const ABSMAX: [u32; 6] = [0x3c23_d70a, 0x3dc4_fd2d, 0x3f74_241f, 0x411b_9a39, 0x42c6_51f6, 0];
    const DECODED: [u32; 16] = [
        0xbc23_d70a,
        0x0000_0000,
        0x3bec_e603,
        0x0000_0000,
        0x3bb8_5bbc,
        0x0000_0000,
        0x3b5d_74c5,
        0x0000_0000,
        0x3b21_4acb,
        0xba6e_aea5,
        0x3ad2_ef37,
        0xbaf2_2fac,
        0x3a50_9d6f,
        0xbb3a_6958,
        0x0000_0000,
        0xbb81_6814,
    ];

    #[test]
    fn blocks_are_those_of_bitsandbytes() {
        let blocks = quantize(&TensorData::new(numbers(), [3, 128])).unwrap();
        assert_eq!(blocks.shape().to_vec(), [3, 18]);
        let words: Vec<i32> = blocks.as_slice::<i32>().unwrap().to_vec();
        let absmax: Vec<u32> = words.chunks(WORDS).map(|block| block[0].cast_unsigned()).collect();
        assert_eq!(absmax, ABSMAX);
        let bytes = words.chunks(WORDS).flat_map(|block| &block[1..]).flat_map(|w| w.to_le_bytes());
        let codes: String = bytes.map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(codes, CODES);
        let mut decoded = [f32::NAN; BLOCK];
        dequantize_block(&words[..WORDS], &mut decoded);
        assert_eq!(decoded.map(f32::to_bits)[..16], DECODED);
    }

    #[test]
    fn rows_that_are_not_of_whole_blocks_are_not_quantised() {
        assert!(quantize(&TensorData::new(vec![0.0_f32; 2 * 96], [2, 96])).is_none());
    }

    #[test]
    fn what_is_not_a_number_stays_none() {
        let mut numbers = numbers();
        numbers[3] = f32::NAN;
        let (mut words, mut decoded) = ([0; WORDS], [0.0; BLOCK]);
        quantize_block(&numbers[..BLOCK], &mut words);
        dequantize_block(&words, &mut decoded);
        assert!(decoded.iter().any(|x| x.is_nan()), "{decoded:?}");
    }
}
