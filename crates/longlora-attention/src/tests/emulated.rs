//! The kernels for matrix units, in CUDA's C++ on a CPU: every number as a card computes it, but for rounding.

use burn::tensor::DType;

use super::catalogue::{half_heads, rows};
use super::precision::{WideProblem, check_precision, check_precision_over_a_cache};
use crate::cube::Emulated;
use crate::{AttentionPattern, Layout, Segments};

/// Small ones: a multiplication takes a microsecond here. Tails, tiles that are crossed, documents, windows, padding.
fn problems(head_dim: usize) -> Vec<WideProblem> {
    let layer = |pattern: AttentionPattern, layout| (**pattern.plan(&layout).layer(0)).clone();
    let full = |batch, seq| layer(AttentionPattern::Full, Layout::dense(batch, seq));
    let documents = rows(140, &[(140, &[0, 1, 66, 67, 120]), (101, &[64])]);
    let problems: [(_, Segments, _); 5] = [
        ("one token", full(1, 1), [2, 1]),
        ("a tail", full(2, 65), [2, 1]),
        ("ragged groups", layer(half_heads(90), Layout::dense(1, 201)), [3, 1]),
        ("documents in groups", layer(half_heads(60), documents), [2, 2]),
        ("narrow window", full(1, 150).with_window(3), [2, 1]),
    ];
    let problem = |(name, segments, heads)| WideProblem::new(name, segments, heads, head_dim);
    problems.into_iter().map(problem).collect()
}

/// Threads run as far ahead of each other as barriers let them, in either order.
#[track_caller]
fn check(dtype: DType, head_dim: usize) {
    let kernels = Emulated::compile(dtype, head_dim);
    for last_first in [false, true] {
        check_precision(dtype, problems(head_dim), |inputs| kernels.answer(inputs, last_first));
        check_precision_over_a_cache(dtype, head_dim, |inputs| {
            kernels.forward(inputs, last_first).0
        });
    }
}

#[test]
fn heads_of_16() {
    check(DType::BF16, 16);
}

#[test]
fn heads_of_64() {
    check(DType::BF16, 64);
}

#[test]
fn heads_of_64_in_f16() {
    check(DType::F16, 64);
}

#[test]
fn heads_of_80() {
    check(DType::BF16, 80);
}

#[test]
fn heads_of_128() {
    check(DType::BF16, 128);
}

#[test]
fn heads_of_256() {
    check(DType::BF16, 256);
}
