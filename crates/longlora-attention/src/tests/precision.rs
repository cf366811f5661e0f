//! Half precision: as exact as plain operations in it are.

use burn::tensor::{DType, TensorData};

use super::answer::{Answer, Inputs, numbers};
use super::catalogue::{half_heads, rows};
use crate::{AttentionPattern, Layout, Segments, reference};

/// Sizes of a model, unlike those of the [catalogue](super::catalogue): heads are as wide as those of models.
pub(crate) struct WideProblem {
    pub(crate) name: &'static str,
    segments: Segments,
    heads: [usize; 2],
    head_dim: usize,
}

impl WideProblem {
    pub(crate) fn new(
        name: &'static str,
        segments: Segments,
        heads: [usize; 2],
        head_dim: usize,
    ) -> Self {
        Self { name, segments, heads, head_dim }
    }

    pub(crate) fn inputs(&self, seed: usize) -> Inputs {
        Inputs::random(&self.segments.clone().into(), self.heads, self.head_dim, seed as u64)
    }
}

/// Sizes that fill tiles, leave tails, and cross them.
pub(crate) fn problems() -> Vec<WideProblem> {
    let layer = |pattern: AttentionPattern, layout| (**pattern.plan(&layout).layer(0)).clone();
    let full = |batch, seq| layer(AttentionPattern::Full, Layout::dense(batch, seq));
    let documents = || rows(333, &[(333, &[0, 1, 130, 131, 200]), (257, &[64])]);
    let problems = vec![
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
    ];
    let named = |(name, segments, heads, width)| WideProblem::new(name, segments, heads, width);
    problems.into_iter().map(named).collect()
}

/// Of sums in f32 that cancel, of a few hundred products near one.
const SUM_ERROR: f64 = 1e-6;

/// FlashAttention's own measure: twice the error of plain operations in the same precision, three times for gradients;
/// and the exact answer, rounded to that precision, is always good enough.
#[track_caller]
#[expect(clippy::print_stdout, reason = "how near each was, with --nocapture")]
pub(crate) fn check_precision(
    dtype: DType,
    problems: Vec<WideProblem>,
    answer: impl Fn(&Inputs) -> Answer,
) {
    let mut failures = Vec::new();
    for (seed, problem) in problems.into_iter().enumerate() {
        let (name, inputs) = (problem.name, rounded(problem.inputs(seed), dtype));
        let exact = inputs.by_reference(DType::F64);
        let plain = inputs.differentiate(dtype, |[q, k, v]| {
            reference::attention(q, k, v, &inputs.segments, inputs.softmax_scale)
        });
        let ours = answer(&inputs);
        for ((part, ours, exact_part), (_, plain, _)) in
            ours.beside(&exact).into_iter().zip(plain.beside(&exact))
        {
            let times = if part == "out" { 2.0 } else { 3.0 };
            let (error, allowed) =
                (largest(ours, exact_part), allowed(dtype, times, plain, exact_part));
            println!("{name}, {part}: {error:.2e}, {allowed:.2e} is allowed");
            if error.is_nan() || error > allowed {
                failures
                    .push(format!("{name}, {part}: off by {error:.2e}, {allowed:.2e} is allowed"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The same of the output alone, where only the last positions have queries: `answer` is given those.
#[track_caller]
pub(crate) fn check_precision_over_a_cache(
    dtype: DType,
    head_dim: usize,
    answer: impl Fn(&Inputs) -> Vec<f64>,
) {
    for (past, new, window) in
        [(70, 1, None), (70, 9, Some(20)), (131, 67, None), (300, 130, Some(90))]
    {
        let all = Segments::full(&Layout::dense(1, past + new));
        let all = window.map_or(all.clone(), |window| all.with_window(window));
        let inputs = rounded(Inputs::random(&all.into(), [2, 1], head_dim, past as u64), dtype);
        let of_last = |rows: Vec<f64>| -> Vec<f64> {
            let heads = rows.chunks((past + new) * head_dim);
            heads.flat_map(|head| head[past * head_dim..].to_vec()).collect()
        };
        let exact = of_last(inputs.by_reference(DType::F64).out);
        let plain = of_last(inputs.by_reference(dtype).out);
        let last = TensorData::new(of_last(numbers(inputs.q.clone())), [1, 2, new, head_dim]);
        let ours = answer(&Inputs { q: last.convert_dtype(DType::F32), ..inputs });
        let (error, allowed) = (largest(&ours, &exact), allowed(dtype, 2.0, &plain, &exact));
        assert!(error <= allowed, "{past} and {new}: off by {error:.2e}, {allowed:.2e} is allowed");
    }
}

/// `times` the error of plain operations; but the exact answer, rounded, is good enough.
fn allowed(dtype: DType, times: f64, plain: &[f64], exact: &[f64]) -> f64 {
    let rounding = dtype.finfo().expect("it is a float type").epsilon / 2.0;
    let highest = exact.iter().fold(0.0, |highest: f64, x| highest.max(x.abs()));
    (times * largest(plain, exact)).max(rounding * highest) + SUM_ERROR
}

/// The inputs that a low precision can hold.
pub(crate) fn rounded(inputs: Inputs, dtype: DType) -> Inputs {
    let round = |x: TensorData| x.convert_dtype(dtype).convert_dtype(DType::F32);
    Inputs {
        q: round(inputs.q),
        k: round(inputs.k),
        v: round(inputs.v),
        cotangent: round(inputs.cotangent),
        ..inputs
    }
}

fn largest(ours: &[f64], exact: &[f64]) -> f64 {
    let differences = ours.iter().zip(exact).map(|(ours, exact)| (ours - exact).abs());
    differences.fold(0.0, |error, x| if x > error || x.is_nan() { x } else { error })
}
