//! Scores at which a careless softmax overflows, or divides by zero.

use burn::tensor::{DType, TensorData};

use super::answer::{Answer, Inputs, error};
use super::catalogue::{half_heads, rows};
use crate::AttentionPattern;

/// Its second document, of 138 tokens, is longer than a tile of either path.
const SEQ: usize = 150;
const HEAD_DIM: usize = 8;

/// `score` gives the score of a key by its position, for every query; small whole numbers and ±10,000 are exact in f32.
fn inputs(pattern: AttentionPattern, score: impl Fn(usize) -> f32) -> Inputs {
    let plan = pattern.plan(&rows(SEQ, &[(147, &[0, 9])]));
    let mut inputs = Inputs::random(plan.layer(0), [3, 1], HEAD_DIM, 17);
    inputs.softmax_scale = 0.25;
    inputs.q = filled(&inputs.q, |_| 1.0);
    inputs.k = filled(&inputs.k, |entry| {
        score(entry / HEAD_DIM) / (inputs.softmax_scale * HEAD_DIM as f32)
    });
    inputs
}

fn filled(like: &TensorData, value: impl Fn(usize) -> f32) -> TensorData {
    let values: Vec<f32> = (0..like.num_elements()).map(value).collect();
    TensorData::new(values, like.shape().clone())
}

/// Against the reference in f64, on several patterns; and rows of weights that add up to one.
///
/// Outputs are as exact as ever: 6.0e-8 was measured. The gradients recompute the weights from a log-sum-exp near
/// 10,000, whose rounding, half a step of f32, is 5e-4 relative to each weight; `dk` adds weights of both signs, so
/// that more of it is left: 6.6e-4 was measured.
/// `dq = Σ ds·k` is only checked to be finite: `Σ ds = 0` for each query, so with keys of 5,000 it is all rounding.
#[track_caller]
fn check(score: impl Fn(usize) -> f32) {
    let window = AttentionPattern::SlidingWindow { window: 90 };
    for pattern in [AttentionPattern::Full, half_heads(70), window] {
        let inputs = inputs(pattern, &score);
        let exact = inputs.by_reference(DType::F64);
        let ones = Inputs { v: filled(&inputs.v, |_| 1.0), ..inputs.clone() };
        for implementation in [Inputs::by_kernel, Inputs::by_tiles] {
            let ours: Answer = implementation(&inputs);
            assert!(ours.dq.iter().all(|x| x.is_finite()), "{pattern:?}, dq");
            for (part, ours, exact) in ours.beside(&exact) {
                let error = error(ours, exact);
                let tolerance = if part == "out" { 2e-7 } else { 2e-3 };
                assert!(part == "dq" || error <= tolerance, "{pattern:?}, {part}: {error:e}");
            }
            check_sums(&implementation(&ones).out);
        }
    }
}

/// With values of one, an output is the sum of its weights. Measured: exact; one rounding is allowed.
#[track_caller]
fn check_sums(sums: &[f64]) {
    assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 2e-7), "{sums:?}");
}

#[test]
fn equal_scores_share_the_weight_equally() {
    for score in [0.0, 1e4, -1e4] {
        check(|_| score);
    }
}

#[test]
fn scores_of_ten_thousand_are_told_apart() {
    check(|position| if position % 3 == 1 { 1e4 } else { -1e4 });
}

#[test]
fn scores_may_rise_or_fall_along_a_row() {
    check(|position| 68.0 * position as f32);
    check(|position| -68.0 * position as f32);
}

#[test]
fn random_scores_of_ten_thousand_stay_finite() {
    let plan = half_heads(70).plan(&rows(SEQ, &[(SEQ, &[])]));
    let mut inputs = Inputs::random(plan.layer(0), [4, 2], HEAD_DIM, 19);
    // The entries are below √3, so no score is above 10,000.
    inputs.softmax_scale = 1e4 / (3.0 * HEAD_DIM as f32);
    let ones = Inputs { v: filled(&inputs.v, |_| 1.0), ..inputs.clone() };
    for implementation in [Inputs::by_kernel, Inputs::by_tiles] {
        let Answer { out, dq, dk, dv } = implementation(&inputs);
        assert!([out, dq, dk, dv].concat().iter().all(|x| x.is_finite()));
        check_sums(&implementation(&ones).out);
    }
}
