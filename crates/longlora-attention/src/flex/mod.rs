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

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, TensorData};

use crate::backend::{AttentionBackend, AttentionGradient};
use crate::qkv::{Qkv, Saved};
use crate::segments::Segments;
use crate::tiled;

use problem::{Heads, Problem};

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
        let [k, v] = [&k, &v]
            .map(|x| Heads::in_runs(x).expect("the positions of a head were put in one run"));
        // Of a single query, both layouts are one.
        let (out, lse) = if decode::applies(&problem) {
            decode::decode(&problem, floats(&q), k, v)
        } else {
            forward::forward(&problem, floats(&q), k, v)
        };
        let [batch, heads, seq, head_dim] = problem.q_shape();
        let out = tensor(out, [batch, seq, heads, head_dim]).transpose(1, 2);
        (out, tensor(lse, problem.lse_shape()))
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
        let inputs = [&qkv.q, &qkv.k, &qkv.v, &saved.lse].map(FloatTensor::<Self>::to_contiguous);
        let [q, k, v, lse] = inputs.each_ref().map(floats);
        let of_queries = [&saved.out, &d_out].map(entries_side_by_side);
        let [out, d_out] = of_queries
            .each_ref()
            .map(|x| Heads::of(x).expect("the entries of a head were put side by side"));
        let inputs = gradient::Inputs { q, k, v, out, lse, d_out };
        let [dq, dk, dv] = gradient::gradient(&problem, &inputs);
        Qkv {
            q: tensor(dq, problem.q_shape()),
            k: tensor(dk, problem.k_shape()),
            v: tensor(dv, problem.k_shape()),
        }
    }
}

/// The same keys, copied only if they cannot be read as they lie.
fn in_runs(x: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    if Heads::in_runs(x).is_some() { x.clone() } else { x.to_contiguous() }
}

/// The same, copied only if it cannot be read as it lies, as where one position stands for all.
fn entries_side_by_side(x: &FloatTensor<Flex>) -> FloatTensor<Flex> {
    let [_, _, positions, _]: [usize; 4] = x.shape().dims();
    let stands_for_all = positions > 1 && x.layout().strides()[2] == 0;
    if Heads::of(x).is_some() && !stands_for_all { x.clone() } else { x.to_contiguous() }
}

fn floats(x: &FloatTensor<Flex>) -> &[f32] {
    x.as_slice().expect("the tensor was made contiguous and is f32")
}

fn tensor(data: Vec<f32>, shape: [usize; 4]) -> FloatTensor<Flex> {
    Flex::float_from_data(TensorData::new(data, shape), &Default::default())
}
