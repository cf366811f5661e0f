//! The CPU: rows in chunks on all cores, SIMD chosen at run time.

mod cross_entropy;
mod linear;
mod matrix;
mod narrow;
mod nf4;
mod rms_norm;
mod rotate;
mod swiglu;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};

use crate::backend::{HeadBackend, RowBackend, RowGradient};
use crate::updated::Updated;

use cross_entropy::Problem;
use linear::UpdateGradient;

/// Numbers that one task computes: enough to be worth a task, few enough to stay in cache.
const CHUNK: usize = 1 << 15;

impl RowBackend for Flex {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        let (shape, x, gamma) = (x.shape(), x.to_contiguous(), gamma.to_contiguous());
        tensor(rms_norm::forward(floats(&x), floats(&gamma), epsilon as f32), shape)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotate::rotate(&x, &cos, &sin, 1.0)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (shape, gate, up) = (gate.shape(), gate.to_contiguous(), up.to_contiguous());
        tensor(swiglu::forward(floats(&gate), floats(&up)), shape)
    }

    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, shape) = (x.to_contiguous(), Shape::new([x.shape()[0], weight.shape()[1]]));
        tensor(linear::forward(floats(&x), &weight), shape)
    }

    fn begin(_output: FloatTensor<Self>, _d_output: FloatTensor<Self>) -> FloatTensor<Self> {
        tensor(vec![0.0], Shape::new([1]))
    }

    fn project_with_update(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, a, b] = [x, a, b].map(|tensor| tensor.to_contiguous());
        let rows = x.shape()[0];
        let update = linear::update(&a, &b, scale);
        let (out, low) = linear::forward_with_update(floats(&x), &weight, &update);
        let [rank, d_output] = b.shape().dims();
        (tensor(out, Shape::new([rows, d_output])), tensor(low, Shape::new([rows, rank])))
    }

    /// The kernels of this device compute in f32.
    fn expand_nf4(blocks: IntTensor<Self>, _dtype: DType) -> FloatTensor<Self> {
        nf4::dequantize(&blocks)
    }

    fn project_nf4(x: FloatTensor<Self>, blocks: IntTensor<Self>) -> FloatTensor<Self> {
        let (x, rows) = (x.to_contiguous(), x.shape()[0]);
        if rows > narrow::MOST_ROWS {
            return Self::project(x, nf4::dequantize(&blocks));
        }
        tensor(nf4::product(floats(&x), &blocks), Shape::new([rows, blocks.shape()[0]]))
    }

    fn project_nf4_with_update(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, a, b] = [x, a, b].map(|tensor| tensor.to_contiguous());
        if x.shape()[0] > narrow::MOST_ROWS {
            return Self::project_with_update(x, nf4::dequantize(&blocks), a, b, scale);
        }
        let [rows, rank, d_output] = [x.shape()[0], a.shape()[1], blocks.shape()[0]];
        let out = nf4::product(floats(&x), &blocks);
        let update = linear::update(&a, &b, scale);
        let (out, low) = linear::with_update(out, floats(&x), rows, &update);
        (tensor(out, Shape::new([rows, d_output])), tensor(low, Shape::new([rows, rank])))
    }
}

impl RowGradient for Flex {
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        d_out: FloatTensor<Self>,
        gamma_is_trained: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let (shape, width) = (x.shape(), gamma.shape());
        let [x, gamma, d_out] = [x, gamma, d_out].map(|tensor| tensor.to_contiguous());
        let (x, gamma, d_out) = (floats(&x), floats(&gamma), floats(&d_out));
        let (dx, d_gamma) = rms_norm::backward(x, gamma, epsilon as f32, d_out, gamma_is_trained);
        (tensor(dx, shape), d_gamma.map(|d_gamma| tensor(d_gamma, width)))
    }

    fn rotate_backward(
        d_out: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        rotate::rotate(&d_out, &cos, &sin, -1.0)
    }

    fn rotate_tables_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        table_heads: usize,
    ) -> [FloatTensor<Self>; 2] {
        rotate::tables_backward(&x, &d_out, table_heads)
    }

    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        let shape = gate.shape();
        let [gate, up, d_out] = [gate, up, d_out].map(|tensor| tensor.to_contiguous());
        let gradients = swiglu::backward(floats(&gate), floats(&up), floats(&d_out));
        gradients.map(|gradient| tensor(gradient, shape.clone()))
    }

    fn project_input_backward(
        d_out: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let d_out = d_out.to_contiguous();
        let shape = Shape::new([d_out.shape()[0], weight.shape()[0]]);
        tensor(linear::d_input(floats(&d_out), &weight), shape)
    }

    fn project_weight_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [x, d_out] = [x, d_out].map(|tensor| tensor.to_contiguous());
        let shape = [x.shape()[1], d_out.shape()[1]];
        tensor(linear::d_weight(floats(&x), floats(&d_out), shape), Shape::new(shape))
    }

    fn project_with_update_backward(
        updated: Updated<Self>,
        d_out: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        let Updated { x, weight, a, b, scale, low } = updated;
        let [x, a, b, low, d_out] = [x, a, b, low, d_out].map(|tensor| tensor.to_contiguous());
        let update = linear::update(&a, &b, scale);
        let gradient = linear::backward_with_update(
            floats(&x),
            floats(&low),
            floats(&d_out),
            &weight,
            &update,
        );
        let UpdateGradient { dx, da, db } = gradient;
        [tensor(dx, x.shape()), tensor(da, a.shape()), tensor(db, b.shape())]
    }
}

impl HeadBackend for Flex {
    fn nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
    ) -> FloatTensor<Self> {
        let hidden = hidden.to_contiguous();
        let problem = Problem { hidden: floats(&hidden), head: &head, targets: &targets };
        tensor(cross_entropy::nll(&problem), Shape::new([targets.len()]))
    }

    fn nll_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let hidden = hidden.to_contiguous();
        let problem = Problem { hidden: floats(&hidden), head: &head, targets: &targets };
        let gradient = cross_entropy::gradient(&problem, scale as f32);
        let nll = tensor(gradient.nll, Shape::new([targets.len()]));
        (nll, tensor(gradient.d_hidden, hidden.shape()))
    }

    fn nll_gradient_with_head(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let hidden = hidden.to_contiguous();
        let problem = Problem { hidden: floats(&hidden), head: &head, targets: &targets };
        let gradient = cross_entropy::gradient_with_head(&problem, scale as f32);
        let nll = tensor(gradient.nll, Shape::new([targets.len()]));
        let (d_hidden, d_head) = (gradient.d_hidden, gradient.d_head);
        (nll, tensor(d_hidden, hidden.shape()), tensor(d_head, head.shape()))
    }
}

impl<B: RowGradient, C: CheckpointStrategy> RowBackend for Autodiff<B, C> {
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self> {
        crate::rms_norm::tracked::<B, C>(x, gamma, epsilon)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        crate::rotate::tracked::<B, C>(x, cos, sin)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        crate::swiglu::tracked::<B, C>(gate, up)
    }

    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        crate::linear::tracked::<B, C>(x, weight)
    }

    fn begin(output: FloatTensor<Self>, d_output: FloatTensor<Self>) -> FloatTensor<Self> {
        crate::pull_back::tracked::<B, C>(output, d_output)
    }

    fn project_with_update(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        crate::linear::tracked_with_update::<B, C>(x, weight, a, b, scale)
    }

    fn expand_nf4(blocks: IntTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::expand_nf4(blocks, dtype))
    }

    fn project_nf4(x: FloatTensor<Self>, blocks: IntTensor<Self>) -> FloatTensor<Self> {
        crate::linear_nf4::tracked::<B, C>(x, blocks)
    }

    fn project_nf4_with_update(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        crate::linear_nf4::tracked_with_update::<B, C>(x, blocks, a, b, scale)
    }
}

fn floats(x: &FloatTensor<Flex>) -> &[f32] {
    x.as_slice().expect("the tensor was made contiguous and is f32")
}

fn tensor(data: Vec<f32>, shape: Shape) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(data, shape), &Default::default())
}
