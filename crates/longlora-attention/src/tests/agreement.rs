//! Three implementations, one meaning.

use burn::tensor::DType;

use super::answer::{Answer, Inputs, error};
use super::catalogue::{Problem, catalogue, half_heads};
use crate::Layout;

/// Three times the largest error measured: 5.7e-7 of the reference itself, 8.4e-7 of the tiles, 7.6e-7 of the kernel.
/// The long sums are the worst: `dk` and `dv` over many queries, `dq` of wide heads.
const TOLERANCE: f64 = 2.5e-6;

/// `implementation` in f32 against the reference in f64.
#[track_caller]
fn check(implementation: impl Fn(&Inputs) -> Answer) {
    for (seed, problem) in catalogue().iter().enumerate() {
        let inputs = Inputs::of(problem, seed as u64);
        let (ours, exact) = (implementation(&inputs), inputs.by_reference(DType::F64));
        for (part, ours, exact) in ours.beside(&exact) {
            let error = error(ours, exact);
            assert!(error <= TOLERANCE, "{}, {part}: off by {error:e}", problem.name);
        }
    }
}

#[test]
fn the_reference_keeps_its_meaning_in_single_precision() {
    check(|inputs| inputs.by_reference(DType::F32));
}

#[test]
fn the_tiles_mean_what_the_reference_says() {
    check(Inputs::by_tiles);
}

#[test]
fn the_kernel_means_what_the_reference_says() {
    check(Inputs::by_kernel);
}

/// So many heads that not all are computed before the first are added up.
#[test]
fn many_heads_go_in_rounds() {
    let plan = half_heads(8).plan(&Layout::dense(2, 40));
    let inputs = Inputs::random(plan.layer(0), [24, 12], 6, 5);
    let (ours, exact) = (inputs.by_kernel(), inputs.by_reference(DType::F64));
    for (part, ours, exact) in ours.beside(&exact) {
        let error = error(ours, exact);
        assert!(error <= TOLERANCE, "{part}: off by {error:e}");
    }
}

/// Measured: 1.6e-7 by the tiles, 1.3e-7 by the kernel.
#[test]
fn both_paths_keep_the_log_sum_exp_of_the_visible_scores() {
    for (seed, problem) in catalogue().iter().enumerate() {
        let inputs = Inputs::of(problem, seed as u64);
        let exact = log_sum_exp(problem, &inputs);
        for (path, lse) in [("tiles", inputs.lse_by_tiles()), ("kernel", inputs.lse_by_kernel())] {
            let error = error(&lse, &exact);
            assert!(error <= 5e-7, "{}, {path}: off by {error:e}", problem.name);
        }
    }
}

/// In f64, one visible pair after the other: `[batch, heads, seq]`.
pub(super) fn log_sum_exp(problem: &Problem, inputs: &Inputs) -> Vec<f64> {
    let Problem { heads, kv_heads, head_dim, .. } = *problem;
    let (segments, scale) = (problem.segments(), f64::from(inputs.softmax_scale));
    let (q, k) = (inputs.q.view::<f32>(), inputs.k.view::<f32>());
    let mut lse = Vec::new();
    for row in 0..segments.rows.len() {
        for head in 0..heads {
            let kv_head = head * kv_heads / heads;
            for span in segments.spans(row, head, heads) {
                for query in span.clone() {
                    let first = segments.first_visible(query, span.start);
                    let sum = (first..=query).map(|key| {
                        let products = (0..head_dim).map(|i| {
                            let [q, k] = [q[&[row, head, query, i]], k[&[row, kv_head, key, i]]];
                            f64::from(q) * f64::from(k)
                        });
                        (scale * products.sum::<f64>()).exp()
                    });
                    lse.push(sum.sum::<f64>().ln());
                }
            }
        }
    }
    lse
}
