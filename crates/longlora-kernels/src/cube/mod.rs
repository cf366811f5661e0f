//! GPUs: one source in CubeCL for CUDA, Vulkan, Metal and WebGPU.
//!
//! Activations are f32, f16 or bf16, and what is computed of them inside a kernel is f32. Products of matrices are burn's
//! own, which on CUDA take the tensor cores: bf16 with sums in f32, and f32 as tf32, with 10 bits of mantissa.

mod cross_entropy;
mod linear;
mod nf4;
mod reduce;
pub mod room;
mod rms_norm;
mod rotate;
mod swiglu;
mod tensors;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;

use crate::backend::{HeadBackend, RowBackend, RowGradient};
use crate::updated::Updated;

use cross_entropy::Problem;
use tensors::zeros;

impl RowBackend for CubeBackend {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        rms_norm::forward(x, gamma, epsilon as f32)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotate::rotate(x, cos, sin, 1.0)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        swiglu::forward(gate, up)
    }

    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        linear::forward(x, weight)
    }

    fn begin(output: FloatTensor<Self>, _d_output: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = output.dtype;
        zeros(&output, Shape::new([1]), dtype)
    }

    fn project_with_update(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        linear::forward_with_update(x, weight, a, b, scale)
    }

    fn expand_nf4(blocks: IntTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        nf4::dequantize(blocks, dtype)
    }

    fn project_nf4(x: FloatTensor<Self>, blocks: IntTensor<Self>) -> FloatTensor<Self> {
        let weight = nf4::dequantize(blocks, x.dtype);
        linear::forward(x, weight)
    }

    fn project_nf4_with_update(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let weight = nf4::dequantize(blocks, x.dtype);
        linear::forward_with_update(x, weight, a, b, scale)
    }
}

impl RowGradient for CubeBackend {
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        d_out: FloatTensor<Self>,
        gamma_is_trained: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        rms_norm::backward(x, gamma, epsilon as f32, d_out, gamma_is_trained)
    }

    fn rotate_backward(
        d_out: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotate::rotate(d_out, cos, sin, -1.0)
    }

    fn rotate_tables_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        table_heads: usize,
    ) -> [FloatTensor<Self>; 2] {
        rotate::tables_backward(x, d_out, table_heads)
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        swiglu::backward(gate, up, d_out)
    }

    fn project_input_backward(
        d_out: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::d_input(d_out, weight)
    }

    fn project_weight_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::d_weight(x, d_out)
    }

    fn project_with_update_backward(
        updated: Updated<Self>,
        d_out: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        linear::backward_with_update(updated, d_out)
    }
}

impl HeadBackend for CubeBackend {
    fn nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
    ) -> FloatTensor<Self> {
        cross_entropy::nll(&Problem::new(hidden, head, &targets))
    }

    fn nll_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (nll, d_hidden, _) =
            cross_entropy::gradient(&Problem::new(hidden, head, &targets), scale as f32, false);
        (nll, d_hidden)
    }

    fn nll_gradient_with_head(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let problem = Problem::new(hidden, head, &targets);
        let (nll, d_hidden, d_head) = cross_entropy::gradient(&problem, scale as f32, true);
        (nll, d_hidden, d_head.expect("it was asked for"))
    }
}
