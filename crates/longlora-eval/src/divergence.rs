//! What sparse attention loses against full attention: the same weights, the same windows, two patterns.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Tensor};
use longlora_attention::{AttentionPattern, Layout};
use longlora_data::{TokenBatch, Window};
use longlora_llama::Llama;
use serde::{Deserialize, Serialize};

use crate::measurement::standard_error;
use crate::perplexity::{check_vocabulary, front};
use crate::{EvalError, PerplexityConfig};

/// Positions whose scores are in memory at once.
const CHUNK: usize = 128;

/// How far a pattern's predictions are from those under full attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Tokens per window.
    pub length: usize,
    /// Windows compared.
    pub windows: usize,
    /// Predictions compared: all but those that the protocol does not score.
    pub tokens: usize,
    /// Mean Kullback-Leibler divergence of the pattern's distribution of the next token from that under full attention,
    /// `Σ p_full · ln(p_full / p_pattern)`, in nats.
    pub divergence: f64,
    /// Its standard error over windows; `None` with fewer than two, or where they overlap.
    pub divergence_standard_error: Option<f64>,
    /// Share of the predictions in which both find the same token likeliest.
    pub same_choice: f64,
}

/// Compares `config.pattern` with full attention over the windows of `config`.
///
/// The scores of 128 positions are in memory at a time. `progress` is told, after each window, how many are done, and of
/// how many.
///
/// # Errors
/// As [`perplexity`](crate::perplexity).
///
/// # Panics
/// If the model is on an autodiff device.
pub fn divergence(
    llama: &Llama,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Divergence, EvalError> {
    assert!(!llama.device().is_autodiff(), "needs a model without autodiff; take `valid()` of it");
    config.validate()?;
    let documents = front(documents, config.max_tokens.unwrap_or(usize::MAX));
    check_vocabulary(&documents, llama.config.vocab_size)?;
    let spans = config.spans(&documents)?;
    let (mut windows, mut same) = (vec![], 0);
    for (done, span) in spans.iter().enumerate() {
        let tokens = &documents[span.document][span.start..span.end];
        let [full, sparse] =
            [AttentionPattern::Full, config.pattern].map(|pattern| hidden(llama, tokens, pattern));
        let scored = span.unscored..tokens.len() - 1;
        let (mut sum, count) = (0.0, scored.len());
        for start in scored.clone().step_by(CHUNK) {
            let width = CHUNK.min(scored.end - start);
            let scores = |hidden: &Tensor<2>| llama.scores(hidden.clone().narrow(0, start, width));
            let (part, alike) = compare(scores(&full), scores(&sparse), llama.compute.of_sums());
            sum += part;
            same += alike;
        }
        if !sum.is_finite() {
            let (document, start, end) = (span.document, span.start, span.end);
            return Err(EvalError::NotFinite { document, start, end, nll: sum as f32 });
        }
        windows.push((count, sum));
        progress(done + 1, spans.len());
    }
    let tokens: usize = windows.iter().map(|(tokens, _)| tokens).sum();
    Ok(Divergence {
        length: config.length,
        windows: windows.len(),
        tokens,
        divergence: windows.iter().map(|(_, sum)| sum).sum::<f64>() / tokens as f64,
        divergence_standard_error: match config.protocol.scores_twice(config.length) {
            true => None,
            false => standard_error(&windows),
        },
        same_choice: same as f64 / tokens as f64,
    })
}

/// `[seq, hidden_size]`
fn hidden(llama: &Llama, tokens: &[u32], pattern: AttentionPattern) -> Tensor<2> {
    let window = Window::new(tokens.to_vec(), vec![0]);
    let batch = TokenBatch::from_windows(&[window], 0);
    let pass = llama.pass(pattern, &Layout::dense(batch.batch, batch.seq));
    llama.hidden(batch.inputs(&llama.device()), &pass).squeeze_dim(0)
}

/// Sum of the divergences of the rows, and how many have the same largest entry; `[positions, vocab]` each. Computed in
/// `sums`: of the 8 bits that bf16 has, what two patterns differ by would leave none.
fn compare(full: Tensor<2>, sparse: Tensor<2>, sums: DType) -> (f64, usize) {
    let [full, sparse] = [full, sparse].map(|scores| scores.cast(sums));
    let same = full.clone().argmax(1).equal(sparse.clone().argmax(1)).int().sum();
    let (full, sparse) = (log_softmax(full, 1), log_softmax(sparse, 1));
    let rows = (full.clone().exp() * (full - sparse)).sum_dim(1);
    let rows: Vec<f64> = rows.into_data().iter().collect();
    (rows.iter().sum(), same.into_scalar::<i64>() as usize)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use longlora_llama::ComputeType;

    use super::*;

    /// The numbers are in bf16 what they are here.
    #[test]
    fn scores_of_a_gpu_are_compared_in_f32() {
        let (full, sparse) = ([9.0f32, 8.0, 0.5, -3.0], [9.0, 8.0625, 0.5, -2.5]);
        let likelihoods = |scores: [f32; 4]| {
            let scores = scores.map(f64::from);
            let sum: f64 = scores.iter().map(|score| score.exp()).sum();
            scores.map(|score| score - sum.ln())
        };
        let pairs = likelihoods(full).into_iter().zip(likelihoods(sparse));
        let expected: f64 = pairs.map(|(ours, theirs)| ours.exp() * (ours - theirs)).sum();
        let scores = |scores: [f32; 4]| {
            let data = TensorData::new(scores.to_vec(), [1, 4]);
            Tensor::<2>::from_data(data, &Device::default()).cast(DType::BF16)
        };

        let sums = ComputeType::Bf16.of_sums();
        let (divergence, same) = compare(scores(full), scores(sparse), sums);

        assert_eq!(same, 1);
        let error = divergence / expected - 1.0;
        assert!(error.abs() < 0.01, "{divergence} instead of {expected}");
    }
}
