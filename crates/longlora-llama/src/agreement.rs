//! How far two models are apart.

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use longlora_attention::{AttentionPattern, Layout};
use serde::{Deserialize, Serialize};

use crate::llama::Llama;

/// Positions that are compared at once.
const STRETCH: usize = 64;

/// The logits of two models on the same tokens, compared over one stretch of positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// First position compared, counted from 0.
    pub first_position: usize,
    /// Positions compared.
    pub positions: usize,
    /// Largest difference of two logits.
    pub largest_difference: f64,
    /// Largest logit, for comparison.
    pub largest_logit: f64,
    /// Mean Kullback-Leibler divergence of the second model's next-token distribution from the first's, in nats.
    pub mean_divergence: f64,
    /// Positions at which both find the same token likeliest.
    pub same_choice: usize,
}

/// Compares the first and the last positions of `ids` under full attention.
///
/// # Panics
/// If there are no ids, or one is beyond the vocabulary.
pub fn agreement(first: &Llama, second: &Llama, ids: &[u32]) -> Vec<Agreement> {
    assert!(!ids.is_empty(), "needs at least one token to compare");
    let (a, b) = (hidden(first, ids), hidden(second, ids));
    let width = STRETCH.min(ids.len());
    let mut starts = vec![0, ids.len() - width];
    starts.dedup();
    let stretch = |start| {
        let logits = |llama: &Llama, hidden: &Tensor<2>| {
            hidden.clone().narrow(0, start, width).matmul(llama.valid().head())
        };
        compare(start, logits(first, &a), logits(second, &b))
    };
    starts.into_iter().map(stretch).collect()
}

/// `[seq, hidden_size]`
fn hidden(llama: &Llama, ids: &[u32]) -> Tensor<2> {
    let llama = llama.valid();
    let data: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let data = TensorData::new(data, [1, ids.len()]);
    let pass = llama.pass(AttentionPattern::Full, &Layout::dense(1, ids.len()));
    llama.hidden(Tensor::<2, Int>::from_data(data, &llama.device()), &pass).squeeze_dim(0)
}

/// `a`, `b`: `[positions, vocab_size]`
fn compare(first_position: usize, a: Tensor<2>, b: Tensor<2>) -> Agreement {
    let number = |x: Tensor<1>| x.into_scalar::<f64>();
    let positions = a.dims()[0];
    let same = a.clone().argmax(1).equal(b.clone().argmax(1)).int().sum();
    let (log_a, log_b) = (log_softmax(a.clone(), 1), log_softmax(b.clone(), 1));
    let divergence = (log_a.clone().exp() * (log_a - log_b)).sum() / positions as f64;
    Agreement {
        first_position,
        positions,
        largest_difference: number((a.clone() - b).abs().max()),
        largest_logit: number(a.abs().max()),
        mean_divergence: number(divergence),
        same_choice: same.into_scalar::<i64>() as usize,
    }
}
