//! The CPU kernel: tiles that stay in cache, SIMD chosen at run time, work split over rows, heads and spans.
//!
//! FlashAttention-2 (arXiv:2307.08691): a tile of queries walks over the tiles of its visible keys with a running
//! maximum and sum. Key tiles that are fully hidden are never computed; keys and values are not copied per query head.

mod gemm;
mod forward;
mod decode;
mod gradient;
mod problem;

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, TensorData};

use crate::backend::{AttentionBackend, AttentionGradient};
use crate::qkv::{Qkv, Saved};
use crate::segments::Segments;
use crate::tiled;

use problem::{Keys, Problem};

impl AttentionBackend for Flex {
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Arc<Segments>,
        softmax_scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let qkv = Qkv::<Self> { q, k, v };
        if qkv.q.dtype() != DType::F32 {
            return tiled::forward::<Self>(&qkv, &segments, softmax_scale);
        }
        let problem = Problem::new(&qkv, &segments, softmax_scale);
        let (q, k, v) = (qkv.q.to_contiguous(), in_runs(&qkv.k), in_runs(&qkv.v));
        let [k, v] =
            [&k, &v].map(|x| Keys::of(x).expect("the positions of a head were put in one run"));
        let (out, lse) = if decode::applies(&problem) {
            decode::decode(&problem, floats(&q), k, v)
        } else {
            forward::forward(&problem, floats(&q), k, v)
        };
        (tensor(out, problem.q_shape()), tensor(lse, problem.lse_shape()))
    }
}

impl AttentionGradient for Flex {
    fn segment_attention_backward(
        qkv: &Qkv<Self>,
        saved: &Saved<Self>,
        d_out: FloatTensor<Self>,
        segments: &Segments,
        softmax_scale: f32,
    ) -> Qkv<Self> {
        if qkv.q.dtype() != DType::F32 {
            return tiled::backward::<Self>(qkv, saved, d_out, segments, softmax_scale);
        }
        let problem = Problem::new(qkv, segments, softmax_scale);
        let inputs = [&qkv.q, &qkv.k, &qkv.v, &saved.out, &saved.lse, &d_out];
        let inputs = inputs.map(FloatTensor::<Self>::to_contiguous);
        let [q, k, v, out, lse, d_out] = inputs.each_ref().map(floats);
        let inputs = gradient::Inputs { q, k, v, out, lse, d_out };
        let (dq, dk, dv) = gradient::gradient(&problem, &inputs);
        Qkv {
            q: tensor(dq, problem.q_shape()),
            k: tensor(dk, problem.k_shape()),
            v: tensor(dv, problem.k_shape()),
        }
    }
}

/// The same keys, copied only if they cannot be read as they lie.
fn in_runs(x: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    if Keys::of(x).is_some() { x.clone() } else { x.to_contiguous() }
}

fn floats(x: &FloatTensor<Flex>) -> &[f32] {
    x.as_slice().expect("the tensor was made contiguous and is f32")
}

fn tensor(data: Vec<f32>, shape: [usize; 4]) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(data, shape), &Default::default())
}
