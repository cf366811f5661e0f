//! Tiles of every size: a device takes the largest that it has room for, and no other would ever be run on it.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData};
use burn_cubecl::CubeDevice;

use crate::tests::answer::{Answer, Inputs, error, numbers};
use crate::{AttentionPattern, GroupSize, Layout, Shift};

use super::super::{first_keys, list, of_gradient};
use super::*;
use crate::qkv::Saved;

/// As in the tests of the whole operation on a GPU.
const TOLERANCE: f64 = 8.5e-6;

#[test]
fn tiles_of_every_size_mean_what_the_reference_says() {
    let pattern =
        AttentionPattern::Shifted { group_size: GroupSize::Tokens(50), shift: Shift::HalfHeads };
    let plan = pattern.plan(&Layout::dense(2, 131));
    for (block, head_dim) in [(1, 24), (2, 24), (4, 24), (1, 64), (2, 80)] {
        let inputs = Inputs::random(plan.layer(0), [4, 2], head_dim, block as u64);
        let (ours, exact) = (answer(&inputs, block), inputs.by_reference(DType::F64));
        for (part, ours, exact) in ours.beside(&exact) {
            let error = error(ours, exact);
            assert!(error <= TOLERANCE, "{block} and {head_dim}, {part}: off by {error:e}");
        }
    }
}

fn answer(inputs: &Inputs, block: usize) -> Answer {
    let devices = CubeDevice::enumerate_all();
    let device = devices.into_iter().next().expect("the tests run on a device");
    let tensor = |data: &TensorData| CubeBackend::float_from_data(data.clone(), &device);
    let [q, k, v, d_out] = [&inputs.q, &inputs.k, &inputs.v, &inputs.cotangent].map(tensor);
    let qkv = Qkv { q, k, v };
    let problem = Problem::new(&qkv, inputs.softmax_scale);
    let tiles = UnitTiles { head_dim: problem.head_dim, block };
    let first = list(&qkv.q, first_keys(&inputs.segments, problem.queries));
    let (out, lse) = forward(&problem, tiles, &qkv, first);
    let saved = Saved { out: out.clone(), lse };
    let (read, lists) = of_gradient(&Arc::unwrap_or_clone(inputs.segments.clone()), &saved, d_out);
    let gradient = backward(&problem, tiles, &qkv, read, lists);
    let [out, dq, dk, dv] = [out, gradient.q, gradient.k, gradient.v].map(|x| {
        assert_eq!(x.dtype(), DType::F32);
        let data = burn::tensor::read_sync(CubeBackend::float_into_data(x));
        numbers(data.expect("the device is there"))
    });
    Answer { out, dq, dk, dv }
}
