//! Logits, and what follows from them, in f64.

use burn::tensor::{Int, Tensor, TensorData};
use longlora_attention::{AttentionPattern, Layout};
use longlora_llama::Llama;

/// The scores of every next token, position by position.
pub(crate) fn logits(llama: &Llama, text: &[u32], pattern: AttentionPattern) -> Vec<Vec<f64>> {
    let ids: Vec<i64> = text.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, text.len()]), &llama.device());
    let logits = llama.logits(ids, &llama.pass(pattern, &Layout::dense(1, text.len())));
    let vocab_size = logits.dims()[2];
    let logits: Vec<f64> = logits.into_data().iter().collect();
    logits.chunks(vocab_size).map(<[f64]>::to_vec).collect()
}

/// `Σ p · ln(p / q)` over the next token, by its scores.
pub(crate) fn divergence(p: &[f64], q: &[f64]) -> f64 {
    let [p, q] = [p, q].map(log_probabilities);
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn log_probabilities(scores: &[f64]) -> Vec<f64> {
    let sum: f64 = scores.iter().map(|score| score.exp()).sum();
    scores.iter().map(|score| score - sum.ln()).collect()
}

/// Where the largest score stands.
pub(crate) fn choice(scores: &[f64]) -> usize {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap()
}
