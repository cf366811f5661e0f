//! How far two models are apart.

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use longlora_adapters::Rotary;
use longlora_attention::{AttentionPattern, Layout};
use serde::{Deserialize, Serialize};

use crate::llama::Llama;
use crate::pass::Pass;

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

/// Compares two models on `ids` under full attention: at the first and at the last positions of a text of so many
/// tokens, and once more with the text at the end of the context, where scalings that depend on the length have their
/// long frequencies.
///
/// # Panics
/// If there are no ids, more than the context has room for, or one is beyond the vocabulary.
pub fn agreement(first: &Llama, second: &Llama, ids: &[u32]) -> Vec<Agreement> {
    assert!(!ids.is_empty(), "needs at least one token to compare");
    let context = first.config.rope.max_position_embeddings;
    let last = context.checked_sub(ids.len()).expect("the text fits into the context");
    let width = STRETCH.min(ids.len());
    let from = ids.len() - width;
    let mut agreements = vec![];
    for (begin, parts) in [(0, vec![0, from]), (last, vec![from])] {
        let length = begin + ids.len();
        let [a, b] = [first, second].map(|llama| hidden(llama, ids, begin, length));
        for start in parts {
            let logits = |llama: &Llama, hidden: &Tensor<2>| {
                llama.valid().scores(hidden.clone().narrow(0, start, width))
            };
            agreements.push(compare(begin + start, logits(first, &a), logits(second, &b)));
        }
    }
    agreements.dedup_by_key(|agreement| agreement.first_position);
    agreements
}

/// Of a text that begins at position `begin`, at the frequencies of `length` tokens: `[seq, hidden_size]`.
fn hidden(llama: &Llama, ids: &[u32], begin: usize, length: usize) -> Tensor<2> {
    let llama = llama.valid();
    let (seq, device) = (ids.len(), llama.device());
    let rotary = Rotary::at(&llama.config.rope, begin..begin + seq, length, &device);
    let plan = AttentionPattern::Full.plan(&Layout::dense(1, seq));
    let shared_offset = llama.model.rope_offset.clone();
    let pass = Pass::new(plan, &llama.config.windows, rotary, shared_offset);
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, seq]), &device);
    llama.hidden(ids, &pass).squeeze_dim(0)
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
