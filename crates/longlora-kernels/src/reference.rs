//! The same operations, spelled out: what the fused ones mean.

mod cross_entropy;

use burn::tensor::activation::silu;
use burn::tensor::{DType, Tensor, TensorData};

use crate::nf4::{BLOCK, Nf4, WORDS, dequantize_block, width};
use crate::weight::Weight;

pub use cross_entropy::{loss_and_gradient, nll};

/// See [`rms_norm`](crate::rms_norm).
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (dtype, wide) = (x.dtype(), of_sums(x.dtype()));
    let (x, gamma) = (in_type(x, wide), in_type(gamma, wide));
    let mean_square = x.clone().square().mean_dim(D - 1);
    in_type(x / (mean_square + epsilon).sqrt() * gamma.unsqueeze(), dtype)
}

/// See [`rotate`](crate::rotate).
pub fn rotate(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = x.dims();
    let [table_heads, _, pairs] = cos.dims();
    // [1, table_heads, 1, seq, pairs]
    let wide = |table: Tensor<3>| table.unsqueeze_dim::<4>(1).unsqueeze::<5>();
    let dtype = x.dtype();
    let (cos, sin) = (wide(in_type(cos, of_sums(dtype))), wide(in_type(sin, of_sums(dtype))));
    let x = in_type(x, of_sums(dtype));
    let x = x.reshape([batch, table_heads, heads / table_heads, seq, head_dim]);
    let low = x.clone().narrow(4, 0, pairs);
    let high = x.narrow(4, pairs, pairs);
    let y_low = low.clone() * cos.clone() - high.clone() * sin.clone();
    let y_high = high * cos + low * sin;
    in_type(Tensor::cat(vec![y_low, y_high], 4).reshape([batch, heads, seq, head_dim]), dtype)
}

/// See [`swiglu`](crate::swiglu).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate) * up
}

/// See [`linear`](crate::linear()).
pub fn linear(x: Tensor<2>, weight: impl Into<Weight>) -> Tensor<2> {
    let dtype = x.dtype();
    let weight = match weight.into() {
        Weight::Dense(weight) => in_type(weight, dtype),
        Weight::Nf4(weight) => dequantize(&weight, dtype),
    };
    x.matmul(weight)
}

/// See [`linear_with_update`](crate::linear_with_update).
pub fn linear_with_update(
    x: Tensor<2>,
    weight: impl Into<Weight>,
    [a, b]: [Tensor<2>; 2],
    scale: f64,
) -> Tensor<2> {
    let [a, b] = [a, b].map(|factor| in_type(factor, x.dtype()));
    linear(x.clone(), weight) + x.matmul(a).mul_scalar(scale).matmul(b)
}

/// See [`Nf4::dequantize`]: block by block, on the processor.
pub fn dequantize(weight: &Nf4, dtype: DType) -> Tensor<2> {
    let blocks = weight.blocks();
    let (device, words) = (blocks.device(), blocks.to_data());
    let words: &[i32] = words.as_slice().expect("blocks are words of 32 bits");
    let mut numbers = vec![0.0; width(words.len())];
    for (words, numbers) in words.chunks(WORDS).zip(numbers.chunks_mut(BLOCK)) {
        dequantize_block(words, numbers);
    }
    let [d_input, d_output] = weight.dims();
    let numbers = TensorData::new(numbers, [d_output, d_input]);
    Tensor::from_data(numbers, (&device, dtype)).transpose()
}

/// The type in which numbers of a type are summed up: f32, or f64 where they are.
fn of_sums(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The same numbers in another type, without an operation where they have it.
fn in_type<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
