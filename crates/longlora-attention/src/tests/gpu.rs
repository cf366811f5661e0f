//! The kernels of GPUs, on the default device, which `BURN_DEVICE` names: a GPU, or Mesa's software renderer.

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Tensor, TensorData};
use longlora_kernels::room::guarded;
use std::io::Write as _;

use super::agreement::log_sum_exp;
use super::answer::{Answer, Inputs, error, numbers};
use super::catalogue::{catalogue, half_heads};
use super::precision::{check_precision, check_precision_over_a_cache, problems, rounded};
use crate::backend::AttentionBackend;
use crate::{Layout, Segments, attention, attention_over_cache};

/// Three times the largest error measured, 2.8e-6 on Mesa's software renderer, of `dk` over 2,100 queries: a unit adds up one
/// term after another, where the CPU's kernels add up lanes and parts, and are 8e-7 off.
const TOLERANCE: f64 = 8.5e-6;

#[test]
fn single_precision_means_what_the_reference_says() {
    let device = Device::default();
    for (seed, problem) in catalogue().iter().enumerate() {
        let inputs = Inputs::of(problem, seed as u64);
        check_single(&device, problem.name, &inputs);
    }
}

#[test]
fn heads_of_every_width_that_models_have() {
    let device = Device::default();
    for (seed, head_dim) in [64, 80, 96, 128, 256].into_iter().enumerate() {
        let plan = half_heads(24).plan(&Layout::dense(1, 75));
        let inputs = Inputs::random(plan.layer(0), [4, 2], head_dim, seed as u64);
        check_single(&device, &format!("heads of {head_dim}"), &inputs);
    }
}

#[track_caller]
fn check_single(device: &Device, name: &str, inputs: &Inputs) {
    let (ours, exact) = (on(device, inputs, DType::F32), inputs.by_reference(DType::F64));
    for (part, ours, exact) in ours.beside(&exact) {
        let error = error(ours, exact);
        assert!(error <= TOLERANCE, "{name}, {part}: off by {error:e}");
    }
}

/// Queries of the last positions alone, over keys and values that are views of larger tensors.
#[test]
fn over_a_cache_it_is_the_last_rows_of_everything() {
    let device = Device::default();
    for (past, new, window) in [(0, 5, None), (70, 1, None), (70, 9, Some(20)), (131, 67, None)] {
        let all = Segments::full(&Layout::dense(2, past + new));
        let all = match window {
            Some(window) => all.with_window(window),
            None => all,
        };
        let inputs = Inputs::random(&all.into(), [4, 2], 24, past as u64);
        let exact = inputs.by_reference(DType::F64).out;
        let length = past + new;
        let tensor = |data: &TensorData| Tensor::<4>::from_data(data.clone(), &device);
        let q = tensor(&inputs.q).narrow(2, past, new);
        let [k, v] = [&inputs.k, &inputs.v].map(|data| {
            let room = Tensor::cat(vec![tensor(data), tensor(data)], 2);
            room.narrow(2, 0, length)
        });
        let ours = attention_over_cache(q, k, v, window, inputs.softmax_scale);
        let last = exact.chunks(length * 24).flat_map(|head| head[past * 24..].to_vec());
        let error = error(&numbers(ours.into_data()), &last.collect::<Vec<_>>());
        assert!(error <= TOLERANCE, "{past} and {new}: off by {error:e}");
    }
}

#[test]
fn over_a_cache_in_half_precision() {
    for device in [DType::BF16, DType::F16].map(|dtype| (device(dtype), dtype)) {
        let (Some(device), dtype) = device else { continue };
        check_precision_over_a_cache(
            dtype,
            64,
            |Inputs { q, k, v, segments, softmax_scale, .. }| {
                let [q, k, v] =
                    [q, k, v].map(|data| Tensor::<4>::from_data(data.clone(), (&device, dtype)));
                let out = attention_over_cache(q, k, v, segments.window, *softmax_scale);
                numbers(out.into_data())
            },
        );
    }
}

/// Where queries, keys and values lie does not matter: here as projections leave them, and rotated.
#[test]
fn views_are_read_where_they_lie() {
    let device = Device::default().autodiff();
    let plan = half_heads(16).plan(&Layout::dense(2, 40));
    let inputs = Inputs::random(plan.layer(0), [4, 2], 8, 3);
    let exact = inputs.by_reference(DType::F64);
    // [batch, seq, heads, head_dim] in memory.
    let turned = |data: &TensorData| {
        let x = Tensor::<4>::from_data(data.clone(), &device).swap_dims(1, 2);
        (x * 1.0).require_grad()
    };
    let [q, k, v, cotangent] = [&inputs.q, &inputs.k, &inputs.v, &inputs.cotangent].map(turned);
    let [q4, k4, v4] = [&q, &k, &v].map(|x| x.clone().swap_dims(1, 2));
    let out = attention(q4, k4, v4, &inputs.segments, inputs.softmax_scale);
    let gradients = (out.clone() * cotangent.swap_dims(1, 2)).sum().backward();
    let [dq, dk, dv] = [q, k, v].map(|x| {
        let gradient = x.grad(&gradients).expect("the output depends on the input");
        numbers(gradient.swap_dims(1, 2).into_data())
    });
    let ours = Answer { out: numbers(out.into_data()), dq, dk, dv };
    for (part, ours, exact) in ours.beside(&exact) {
        assert!(error(ours, exact) <= TOLERANCE, "{part}: off by {:e}", error(ours, exact));
    }
}

/// The log-sum-exps that the backward reads, against f64.
#[test]
fn log_sum_exps_are_of_the_visible_scores() {
    let device = Device::default();
    for (seed, problem) in catalogue().iter().enumerate().step_by(5) {
        let inputs = Inputs::of(problem, seed as u64);
        let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v]
            .map(|data| Tensor::<4>::from_data(data.clone(), &device).into_dispatch());
        let segments = inputs.segments.clone();
        let (_, lse) = Dispatch::segment_attention(q, k, v, segments, inputs.softmax_scale);
        let lse = numbers(Tensor::<4>::from_dispatch(lse).into_data());
        let error = error(&lse, &log_sum_exp(problem, &inputs));
        assert!(error <= 5e-7, "{}: off by {error:e}", problem.name);
    }
}

/// Around queries, keys, values and the gradient lies what is not a number; whoever read it would compute none. Every tensor
/// that a kernel writes is full of it as well, and stands between guards.
#[test]
fn nothing_beyond_the_inputs_is_read_and_nothing_but_the_outputs_written() {
    for (seed, problem) in catalogue().iter().enumerate() {
        let inputs = Inputs::of(problem, seed as u64);
        let exact = inputs.by_reference(DType::F64);
        let ours = surrounded(&Device::default(), &inputs, DType::F32);
        for (part, ours, exact) in ours.beside(&exact) {
            let error = error(ours, exact);
            assert!(error <= TOLERANCE, "{}, {part}: off by {error:e}", problem.name);
        }
    }
}

/// The same bits as without guards, in the types that kernels for matrix units take.
#[test]
fn guards_stand_in_half_precision() {
    for device in [DType::BF16, DType::F16].map(|dtype| (device(dtype), dtype)) {
        let (Some(device), dtype) = device else { continue };
        for (seed, problem) in problems().into_iter().enumerate() {
            let (name, inputs) = (problem.name, rounded(problem.inputs(seed), dtype));
            let alone = on(&device, &inputs, dtype);
            assert!(surrounded(&device, &inputs, dtype) == alone, "{name} in {dtype:?}");
        }
    }
}

/// The answer to inputs that lie within larger tensors of what is not a number.
fn surrounded(device: &Device, inputs: &Inputs, dtype: DType) -> Answer {
    let device = device.clone().autodiff();
    let options = (&device, dtype);
    let inside = |data: &TensorData| {
        let [batch, heads, seq, width] = data.shape().dims();
        let around = Tensor::<4>::full([batch, heads + 2, seq + 50, width], f32::NAN, options);
        let x = Tensor::<4>::from_data(data.clone(), options);
        around.slice_assign([0..batch, 1..heads + 1, 25..25 + seq, 0..width], x)
    };
    let view = |x: &Tensor<4>| {
        let [batch, heads, seq, width] = x.dims();
        x.clone().slice([0..batch, 1..heads - 1, 25..seq - 25, 0..width])
    };
    let leaves = [&inputs.q, &inputs.k, &inputs.v].map(|data| inside(data).detach().require_grad());
    let cotangent = view(&inside(&inputs.cotangent));
    let [q, k, v] = leaves.each_ref().map(view);
    let ((out, gradients), rooms) = guarded(|| {
        let out = attention(q, k, v, &inputs.segments, inputs.softmax_scale);
        let gradients = (out.clone() * cotangent).sum().backward();
        (out, gradients)
    });
    assert!(rooms >= 5, "the kernels of this device wrote {rooms} tensors between guards");
    let [dq, dk, dv] = leaves.map(|x| {
        let gradient = x.grad(&gradients).expect("the output depends on the input");
        numbers(view(&gradient).into_data())
    });
    Answer { out: numbers(out.into_data()), dq, dk, dv }
}

/// The same bits each time: nothing is added in an order that chance decides.
#[test]
fn gradients_are_the_same_each_time() {
    let plan = half_heads(50).plan(&Layout::dense(1, 170));
    let inputs = Inputs::random(plan.layer(0), [9, 3], 16, 1);
    let device = Device::default();
    assert_eq!(on(&device, &inputs, DType::F32), on(&device, &inputs, DType::F32));
}

/// The device that tests run on, if it computes in `dtype`.
fn device(dtype: DType) -> Option<Device> {
    let device = Device::default();
    let fits = device.supports_dtype(dtype);
    if !fits {
        writeln!(std::io::stderr(), "skipped: {device:?} does not compute in {dtype:?}").unwrap();
    }
    fits.then_some(device)
}

#[track_caller]
fn check(dtype: DType) {
    let Some(device) = device(dtype) else { return };
    check_precision(dtype, problems(), |inputs| on(&device, inputs, dtype));
}

#[test]
fn bf16_is_as_exact_as_plain_operations() {
    check(DType::BF16);
}

#[test]
fn f16_is_as_exact_as_plain_operations() {
    check(DType::F16);
}

fn on(device: &Device, inputs: &Inputs, dtype: DType) -> Answer {
    let device = device.clone().autodiff();
    let tensor = |data: &TensorData| Tensor::<4>::from_data(data.clone(), (&device, dtype));
    let qkv = [&inputs.q, &inputs.k, &inputs.v].map(|data| tensor(data).require_grad());
    let [q, k, v] = qkv.clone();
    let out = attention(q, k, v, &inputs.segments, inputs.softmax_scale);
    let gradients = (out.clone() * tensor(&inputs.cotangent)).sum().backward();
    let [dq, dk, dv] = qkv
        .map(|x| numbers(x.grad(&gradients).expect("the output depends on the input").into_data()));
    Answer { out: numbers(out.into_data()), dq, dk, dv }
}
