//! What sparse attention loses against full attention: the same weights, the same windows, two patterns.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
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
            let (part, alike) = compare(scores(&full), scores(&sparse));
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

/// Sum of the divergences of the rows, and how many have the same largest entry; `[positions, vocab]` each.
fn compare(full: Tensor<2>, sparse: Tensor<2>) -> (f64, usize) {
    let same = full.clone().argmax(1).equal(sparse.clone().argmax(1)).int().sum();
    let (full, sparse) = (log_softmax(full, 1), log_softmax(sparse, 1));
    let rows = (full.clone().exp() * (full - sparse)).sum_dim(1);
    let rows: Vec<f64> = rows.into_data().iter().collect();
    (rows.iter().sum(), same.into_scalar::<i64>() as usize)
}
