//! GPUs: one source in CubeCL for CUDA, Vulkan, Metal and WebGPU.
//!
//! What is asked is a [`Problem`], what the device can do a [`Machine`], how it will be done a [`Blueprint`]; only then is
//! something launched. One launch covers all spans of all heads: where attention may look is two lists ([`visible`]).

mod problem;
mod visible;
mod statistics;
mod blueprint;
mod units;
mod matrix;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::CubeElement;

use crate::backend::{AttentionBackend, AttentionGradient};
use crate::qkv::{Qkv, Saved};
use crate::segments::Segments;
use crate::tiled;

use blueprint::{Blueprint, Machine};
#[cfg(all(test, feature = "emulated"))]
pub(crate) use matrix::emulated::Emulated;
use problem::Problem;
use statistics::statistics;
use visible::{first_keys, last_queries};

impl AttentionBackend for CubeBackend {
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Arc<Segments>,
        softmax_scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let qkv = Qkv::<Self> { q, k, v };
        let problem = Problem::new(&qkv, softmax_scale);
        match blueprint(&problem, &qkv) {
            Blueprint::Matrix { forward, .. } => {
                let first = list(&qkv.q, first_keys(&segments, problem.queries));
                matrix::forward(&problem, forward, &qkv, first)
            }
            Blueprint::Units(tiles) => {
                let first = list(&qkv.q, first_keys(&segments, problem.queries));
                units::forward(&problem, tiles, &qkv, first)
            }
            Blueprint::Plain(reason) => {
                tell(reason);
                tiled::forward::<Self>(&qkv, &segments, softmax_scale)
            }
        }
    }
}

impl AttentionGradient for CubeBackend {
    fn segment_attention_backward(
        qkv: &Qkv<Self>,
        saved: &Saved<Self>,
        d_out: FloatTensor<Self>,
        segments: &Segments,
        softmax_scale: f32,
    ) -> Qkv<Self> {
        let problem = Problem::new(qkv, softmax_scale);
        match blueprint(&problem, qkv) {
            Blueprint::Matrix { backward, .. } => {
                let (inputs, lists) = of_gradient(segments, saved, d_out);
                matrix::backward(&problem, &backward, qkv, inputs, lists)
            }
            Blueprint::Units(tiles) => {
                let (inputs, lists) = of_gradient(segments, saved, d_out);
                units::backward(&problem, tiles, qkv, inputs, lists)
            }
            Blueprint::Plain(reason) => {
                tell(reason);
                tiled::backward::<Self>(qkv, saved, d_out, segments, softmax_scale)
            }
        }
    }
}

fn blueprint(problem: &Problem, qkv: &Qkv<CubeBackend>) -> Blueprint {
    Blueprint::of(problem, &Machine::of(&qkv.q, problem.dtype))
}

/// Names the slow path in the log, the first time that it is taken for a reason.
fn tell(reason: &'static str) {
    static TOLD: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(reason) {
        tracing::warn!("attention takes plain tensor operations: {reason}");
    }
}

/// What the backward reads beside q, k and v: the gradient of the output with the statistics of the queries, and the two
/// lists of who sees whom.
fn of_gradient(
    segments: &Segments,
    saved: &Saved<CubeBackend>,
    d_out: CubeTensor,
) -> ([CubeTensor; 2], [CubeTensor; 2]) {
    let lists = [first_keys(segments, segments.seq), last_queries(segments)];
    let lists = lists.map(|numbers| list(&d_out, numbers));
    let statistics = statistics(saved.out.clone(), d_out.clone(), saved.lse.clone());
    ([d_out, statistics], lists)
}

/// Numbers on the device of `beside`.
fn list(beside: &CubeTensor, numbers: Vec<u32>) -> CubeTensor {
    let handle = beside.client.create_from_slice(u32::as_bytes(&numbers));
    let shape = Shape::new([numbers.len()]);
    let (client, device) = (beside.client.clone(), beside.device.clone());
    CubeTensor::new_contiguous(client, device, shape, handle, DType::U32)
}
