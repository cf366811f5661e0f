//! Gradients against differences of the outputs.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::answer::{Inputs, error, numbers};
use super::catalogue::{half_heads, rows};
use crate::{AttentionPattern, Layout, attention};

/// Compares each gradient with `(loss(x + h) - loss(x - h)) / 2h`, entry by entry.
///
/// The losses are summed in f64, so that what is left is the rounding of the outputs, some 1e-7 / 2h, and the third
/// derivative, times h² / 6. Measured: 2.3e-5.
#[track_caller]
fn check(pattern: AttentionPattern, layout: &Layout, [heads, kv_heads]: [usize; 2]) {
    let inputs = Inputs::random(pattern.plan(layout).layer(0), [heads, kv_heads], 3, 11);
    let answer = inputs.by_kernel();
    let slopes = [
        ("dq", answer.dq, slopes(&inputs.q, |q| Inputs { q, ..inputs.clone() })),
        ("dk", answer.dk, slopes(&inputs.k, |k| Inputs { k, ..inputs.clone() })),
        ("dv", answer.dv, slopes(&inputs.v, |v| Inputs { v, ..inputs.clone() })),
    ];
    for (part, gradient, slopes) in slopes {
        let error = error(&gradient, &slopes);
        assert!(error <= 7e-5, "{pattern:?}, {part}: off by {error:e}");
    }
}

/// The slope of the loss in each entry of `x`.
fn slopes(x: &TensorData, inputs_at: impl Fn(TensorData) -> Inputs) -> Vec<f64> {
    let h = 1e-2;
    let loss_at = |entry: usize, step: f32| {
        let mut moved: Vec<f32> = x.iter().collect();
        moved[entry] += step;
        loss(&inputs_at(TensorData::new(moved, x.shape().clone())))
    };
    let slope = |entry| (loss_at(entry, h) - loss_at(entry, -h)) / (2.0 * f64::from(h));
    (0..x.num_elements()).map(slope).collect()
}

fn loss(inputs: &Inputs) -> f64 {
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v]
        .map(|data| Tensor::<4>::from_data(data.clone(), (&Device::flex(), DType::F32)));
    let out = numbers(attention(q, k, v, &inputs.segments, inputs.softmax_scale).into_data());
    out.iter().zip(inputs.cotangent.iter::<f64>()).map(|(out, weight)| out * weight).sum()
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let documents = rows(7, &[(7, &[0, 3]), (5, &[])]);
    check(AttentionPattern::Full, &Layout::dense(1, 5), [1, 1]);
    check(half_heads(2), &documents, [3, 1]);
    check(half_heads(4), &Layout::dense(1, 9), [4, 2]);
    check(AttentionPattern::SlidingWindow { window: 3 }, &documents, [4, 2]);
}
