//! The CPU: rows in chunks on all cores, SIMD chosen at run time.

mod rms_norm;
mod rotate;
mod swiglu;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};

use crate::backend::{RowBackend, RowGradient};

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
        let (d_gate, d_up) = swiglu::backward(floats(&gate), floats(&up), floats(&d_out));
        [tensor(d_gate, shape.clone()), tensor(d_up, shape)]
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
}

fn floats(x: &FloatTensor<Flex>) -> &[f32] {
    x.as_slice().expect("the tensor was made contiguous and is f32")
}

fn tensor(data: Vec<f32>, shape: Shape) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(data, shape), &Default::default())
}
