//! What the operation promises beyond its numbers.

use burn::tensor::{DType, Device, Tensor, TensorData};

use longlora_kernels::pull_back;

use super::answer::{Answer, Inputs, error, numbers};
use super::catalogue::{half_heads, rows};
use crate::{Layout, attention};

/// Grouped heads, documents and padding.
fn inputs() -> Inputs {
    let layout = rows(23, &[(23, &[0, 9]), (14, &[])]);
    Inputs::random(half_heads(6).plan(&layout).layer(0), [4, 2], 5, 3)
}

fn attend(inputs: &Inputs, [q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    attention(q, k, v, &inputs.segments, inputs.softmax_scale)
}

#[test]
fn inputs_may_be_views_of_any_strides() {
    let inputs = inputs();
    // A copy with the sequence before the heads, seen with the heads before the sequence, behind some padding.
    let strided = |x: Tensor<4>| {
        let [batch, heads, seq, head_dim] = x.dims();
        let padding = Tensor::<4>::full([batch, 1, heads, head_dim], f32::NAN, &x.device());
        Tensor::cat(vec![padding, x.swap_dims(1, 2)], 1).narrow(1, 1, seq).swap_dims(1, 2)
    };
    let ours = inputs.differentiate(DType::F32, |qkv| attend(&inputs, qkv.map(strided)));
    assert_eq!(ours, inputs.by_kernel());
}

#[test]
fn outputs_do_not_depend_on_whether_gradients_are_wanted() {
    let inputs = inputs();
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v];
    for device in [Device::flex(), Device::flex().autodiff()] {
        let qkv = [q, k, v].map(|data| Tensor::<4>::from_data(data.clone(), &device));
        let out = attend(&inputs, qkv);
        assert!(!out.is_tracked());
        assert_eq!(numbers(out.into_data()), inputs.by_kernel().out);
    }
}

/// A gradient that is one row, seen at every position.
#[test]
fn an_expanded_gradient_is_that_of_its_copies() {
    let inputs = inputs();
    let device = Device::flex().autodiff();
    let qkv = [&inputs.q, &inputs.k, &inputs.v]
        .map(|data| Tensor::<4>::from_data(data.clone(), &device).require_grad());
    let row = Tensor::<4>::from_data(inputs.cotangent.clone(), &Device::flex());
    let row = row.slice([0..1, 0..1, 0..1, 0..5]);
    let shape = attend(&inputs, qkv.clone()).dims();
    let copies =
        row.clone().repeat_dim(0, shape[0]).repeat_dim(1, shape[1]).repeat_dim(2, shape[2]);
    let [expanded, copied] = [row.expand(shape), copies].map(|cotangent| {
        let gradients = pull_back(attend(&inputs, qkv.clone()), cotangent);
        qkv.each_ref().map(|x| x.grad(&gradients).expect("it is tracked").into_data())
    });
    assert_eq!(expanded, copied);
}

/// One of the three at a time is trained.
#[test]
fn frozen_inputs_get_no_gradient_and_change_no_other() {
    let inputs = inputs();
    let Answer { dq, dk, dv, .. } = inputs.by_kernel();
    let device = Device::flex().autodiff();
    let tensor = |data: &TensorData| Tensor::<4>::from_data(data.clone(), &device);
    for (trained, expected) in [dq, dk, dv].into_iter().enumerate() {
        let mut qkv = [&inputs.q, &inputs.k, &inputs.v].map(tensor);
        qkv[trained] = qkv[trained].clone().require_grad();
        let out = attend(&inputs, qkv.clone());
        let gradients = (out * tensor(&inputs.cotangent)).sum().backward();
        let found = qkv.map(|x| x.grad(&gradients).map(|gradient| numbers(gradient.into_data())));
        for (i, found) in found.into_iter().enumerate() {
            assert_eq!(found, (i == trained).then(|| expected.clone()));
        }
    }
}

#[test]
fn the_gradients_of_one_tensor_in_three_roles_add_up() {
    let segments = half_heads(4).plan(&Layout::dense(2, 11)).layer(0).clone();
    let mut inputs = Inputs::random(&segments, [3, 3], 5, 4);
    inputs.k = inputs.q.clone();
    inputs.v = inputs.q.clone();
    let apart = inputs.by_kernel();
    let together = inputs.differentiate(DType::F32, |[q, k, v]| {
        // Zero times `k` and `v` keeps them in the graph.
        attend(&inputs, [q.clone(), q.clone(), q]) + (k + v).mul_scalar(0.0)
    });
    let sum: Vec<f64> =
        apart.dq.iter().zip(&apart.dk).zip(&apart.dv).map(|((dq, dk), dv)| dq + dk + dv).collect();
    let error = error(&together.dq, &sum);
    assert!(error <= 5e-7, "off by {error:e}");
}

/// Against the reference in f64, on inputs that were rounded to `dtype`.
#[track_caller]
fn check_half_precision(dtype: DType, tolerance: f64) {
    let mut inputs = inputs();
    for data in [&mut inputs.q, &mut inputs.k, &mut inputs.v, &mut inputs.cotangent] {
        *data = data.clone().convert_dtype(dtype).convert::<f32>();
    }
    let ours = inputs.differentiate(dtype, |qkv| {
        let out = attend(&inputs, qkv);
        assert_eq!(out.dtype(), dtype);
        out
    });
    let exact = inputs.by_reference(DType::F64);
    for (part, ours, exact) in ours.beside(&exact) {
        let error = error(ours, exact);
        assert!(error <= tolerance, "{part}: off by {error:e}");
    }
}

/// The tolerance is one step of the type. Half a step is the rounding of a result; the gradients also see `out` after
/// its rounding. Measured: 3.2e-4 and 3.2e-3.
#[test]
fn half_precision_is_computed_in_single_precision() {
    check_half_precision(DType::F16, 1.0 / 1024.0);
    check_half_precision(DType::BF16, 1.0 / 128.0);
}

#[test]
#[should_panic(expected = "requires a tracked autodiff tensor")]
fn there_is_no_second_derivative() {
    let inputs = inputs();
    let device = Device::flex().autodiff();
    let qkv = [&inputs.q, &inputs.k, &inputs.v]
        .map(|data| Tensor::<4>::from_data(data.clone(), &device).require_grad());
    let gradients = attend(&inputs, qkv.clone()).sum().backward();
    let [q, ..] = qkv;
    q.grad(&gradients).unwrap().sum().backward();
}

fn zeros(heads: usize, seq: usize) -> Tensor<4> {
    Tensor::zeros([2, heads, seq, 5], &Device::flex())
}

#[test]
#[should_panic(expected = "needs whole groups of query heads, got 4 heads for 3 kv heads")]
fn kv_heads_that_do_not_divide_the_heads_are_refused() {
    attend(&inputs(), [zeros(4, 23), zeros(3, 23), zeros(3, 23)]);
}

#[test]
#[should_panic(expected = "needs segments of 2 rows of 22 tokens, got 2 of 23")]
fn segments_of_another_length_are_refused() {
    attend(&inputs(), [zeros(4, 22), zeros(2, 22), zeros(2, 22)]);
}

#[test]
#[should_panic(expected = "axis 2 expected 23, got 22")]
fn values_of_another_length_than_the_keys_are_refused() {
    attend(&inputs(), [zeros(4, 23), zeros(2, 23), zeros(2, 22)]);
}
