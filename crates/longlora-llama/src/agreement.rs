//! How far two models are apart.

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Int, Tensor, TensorData};
use longlora_adapters::Rotary;
use longlora_attention::{AttentionPattern, Layout};
use serde::{Deserialize, Serialize};

use crate::compute::in_type;
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
            let logits = [logits(first, &a), logits(second, &b)];
            agreements.push(compare(begin + start, logits, first.compute.of_sums()));
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

/// `logits`: `[positions, vocab_size]` each; compared in `sums`, since models of bf16 would differ by what that rounds.
fn compare(first_position: usize, logits: [Tensor<2>; 2], sums: DType) -> Agreement {
    let number = |x: Tensor<1>| x.into_scalar::<f64>();
    let [a, b] = logits.map(|logits| in_type(logits, sums));
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::compute::ComputeType;

    /// Of bf16, in which the numbers are what they are here, but neither their difference nor their divergence would be.
    #[test]
    fn logits_of_a_gpu_are_compared_in_f32() {
        let logits = |logits: [f32; 4]| {
            let data = TensorData::new(logits.to_vec(), [2, 2]);
            Tensor::<2>::from_data(data, &Device::default()).cast(DType::BF16)
        };
        let pair = [logits([256.0, 254.0, 8.0, 6.0]), logits([-0.40625, -2.46875, 8.0, 6.0])];

        let agreement = compare(3, pair, ComputeType::Bf16.of_sums());

        assert_eq!((agreement.first_position, agreement.positions), (3, 2));
        assert_eq!((agreement.same_choice, agreement.largest_logit), (2, 256.0));
        assert_eq!(agreement.largest_difference, 256.46875);
        // Of two tokens whose logits are 2 apart and, in the second model, 2.0625.
        let [ours, theirs] = [2.0f64, 2.0625].map(|apart| (-apart).exp().ln_1p());
        let rare = (-2.0 - ours).exp();
        let expected = (1.0 - rare) * (theirs - ours) + rare * (2.0625 + theirs - 2.0 - ours);
        let error = agreement.mean_divergence / (0.5 * expected) - 1.0;
        assert!(error.abs() < 0.01, "{agreement:?}, not {expected}");
    }
}
