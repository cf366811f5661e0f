//! Kernels for matrix units, on a device that has them; elsewhere nothing is shown, and it is said.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::answer::{Answer, Inputs, numbers};
use super::catalogue::{half_heads, rows};
use crate::{AttentionPattern, Layout, Segments, attention, reference};

/// The device that tests run on, if it computes in `dtype`.
fn device(dtype: DType) -> Option<Device> {
    let device = Device::default();
    let fits = device != Device::flex() && device.supports_dtype(dtype);
    if !fits {
        eprintln!("skipped: {device:?} does not compute in {dtype:?}");
    }
    fits.then_some(device)
}

/// Sizes that fill tiles, leave tails, and cross them.
fn problems() -> Vec<(&'static str, Segments, [usize; 2], usize)> {
    let layer = |pattern: AttentionPattern, layout| (**pattern.plan(&layout).layer(0)).clone();
    let full = |batch, seq| layer(AttentionPattern::Full, Layout::dense(batch, seq));
    let documents = || rows(333, &[(333, &[0, 1, 130, 131, 200]), (257, &[64])]);
    vec![
        ("one token", full(1, 1), [2, 1], 64),
        ("a tail", full(2, 65), [4, 2], 64),
        ("many tiles", full(1, 700), [4, 2], 64),
        ("wide heads", full(1, 321), [2, 2], 128),
        ("heads of 80", full(1, 199), [3, 1], 80),
        ("heads of 96", full(1, 199), [2, 1], 96),
        ("heads of 256", full(1, 150), [2, 1], 256),
        ("groups", layer(half_heads(128), Layout::dense(1, 512)), [4, 2], 64),
        ("ragged groups", layer(half_heads(90), Layout::dense(2, 401)), [9, 3], 64),
        ("documents", layer(AttentionPattern::Full, documents()), [4, 2], 64),
        ("documents in groups", layer(half_heads(60), documents()), [9, 3], 128),
        ("window", full(1, 500).with_window(70), [4, 2], 64),
        (
            "narrow window in groups",
            layer(half_heads(200), Layout::dense(1, 450)).with_window(3),
            [4, 1],
            64,
        ),
    ]
}

/// Of sums in f32 that cancel, of a few hundred products near one.
const SUM_ERROR: f64 = 1e-6;

/// FlashAttention's own measure: twice the error of plain operations in the same precision, three times for gradients;
/// and the exact answer, rounded to that precision, is always good enough.
#[track_caller]
fn check(dtype: DType) {
    let Some(device) = device(dtype) else { return };
    let rounding = dtype.finfo().expect("it is a float type").epsilon / 2.0;
    let mut failures = Vec::new();
    for (seed, (name, segments, heads, head_dim)) in problems().into_iter().enumerate() {
        let inputs = rounded(Inputs::random(&segments.into(), heads, head_dim, seed as u64), dtype);
        let exact = inputs.by_reference(DType::F64);
        let plain = inputs.differentiate(dtype, |[q, k, v]| {
            reference::attention(q, k, v, &inputs.segments, inputs.softmax_scale)
        });
        let ours = on(&device, &inputs, dtype);
        for ((part, ours, exact_part), (_, plain, _)) in
            ours.beside(&exact).into_iter().zip(plain.beside(&exact))
        {
            let times = if part == "out" { 2.0 } else { 3.0 };
            let (error, plain) = (largest(ours, exact_part), largest(plain, exact_part));
            let highest = exact_part.iter().fold(0.0, |highest: f64, x| highest.max(x.abs()));
            let allowed = (times * plain).max(rounding * highest) + SUM_ERROR;
            println!("{name}, {part}: {error:.2e}, plain {plain:.2e}");
            if error.is_nan() || error > allowed {
                failures.push(format!("{name}, {part}: off by {error:.2e}, plain {plain:.2e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn bf16_is_as_exact_as_plain_operations() {
    check(DType::BF16);
}

#[test]
fn f16_is_as_exact_as_plain_operations() {
    check(DType::F16);
}

/// The inputs that a low precision can hold.
fn rounded(inputs: Inputs, dtype: DType) -> Inputs {
    let round = |x: TensorData| x.convert_dtype(dtype).convert_dtype(DType::F32);
    Inputs {
        q: round(inputs.q),
        k: round(inputs.k),
        v: round(inputs.v),
        cotangent: round(inputs.cotangent),
        ..inputs
    }
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

fn largest(ours: &[f64], exact: &[f64]) -> f64 {
    let differences = ours.iter().zip(exact).map(|(ours, exact)| (ours - exact).abs());
    differences.fold(0.0, |error, x| if x > error || x.is_nan() { x } else { error })
}
