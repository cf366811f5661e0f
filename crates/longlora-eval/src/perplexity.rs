//! Perplexity of a model over documents.

use std::collections::BTreeMap;

use longlora_attention::{AttentionPattern, Layout};
use longlora_data::{IGNORED_TARGET, TokenBatch, Window};
use longlora_llama::Llama;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::position_bins::PositionTally;
use crate::protocol::Span;
use crate::{EvalError, Measurement, Protocol, Stretch};

/// How to measure perplexity.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerplexityConfig {
    /// Tokens per window: the context length to measure.
    pub length: usize,
    /// Which windows are read, and what in them counts.
    pub protocol: Protocol,
    /// Who attends to whom; full attention is what a finished model is used with.
    pub pattern: AttentionPattern,
    /// Only so many tokens are read from the front of all documents together; `None` reads everything.
    pub max_tokens: Option<usize>,
}

impl PerplexityConfig {
    /// Checks the numbers against each other.
    ///
    /// # Errors
    /// [`EvalError`], naming the number that nothing could be measured with.
    pub fn validate(&self) -> Result<(), EvalError> {
        self.protocol.validate(self.length)?;
        self.pattern.validate(self.length)?;
        match self.max_tokens {
            Some(max_tokens) if max_tokens < self.length => {
                Err(EvalError::FewTokens { max_tokens, length: self.length })
            }
            _ => Ok(()),
        }
    }

    /// All windows, document by document.
    ///
    /// At least one document has to fill a window: a perplexity «at 8,192 tokens» of shorter texts would be none.
    pub(crate) fn spans(&self, documents: &[&[u32]]) -> Result<Vec<Span>, EvalError> {
        let length = self.length;
        let longest = documents.iter().map(|document| document.len()).max().unwrap_or(0);
        if longest < length {
            return Err(EvalError::ShortDocuments { longest, length });
        }
        let lengths = documents.iter().map(|document| document.len()).enumerate();
        Ok(lengths.flat_map(|(n, tokens)| self.protocol.spans(n, tokens, length)).collect())
    }
}

/// Measures the perplexity of a model over documents of token ids.
///
/// One window is in memory at a time. `progress` is told, after each, how many windows are done, and of how many.
///
/// # Errors
/// [`EvalError`], if the request means nothing, no document is as long as a window, a token is not of the model's
/// vocabulary, or the model computes no number.
///
/// # Panics
/// If the model is on an autodiff device, where each window would build a graph that nobody needs.
pub fn perplexity(
    llama: &Llama,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measurement, EvalError> {
    assert!(!llama.device().is_autodiff(), "needs a model without autodiff; take `valid()` of it");
    let nll = |tokens: &[u32], unscored| scored_nll(llama, config.pattern, tokens, unscored);
    perplexity_by(nll, llama.config.vocab_size, documents, config, progress)
}

/// [`perplexity`] of any model.
///
/// `nll(tokens, unscored)` returns the negative log-likelihood, in nats, of each token of a window behind its first one, given
/// those before it, but for the first `unscored` of them: `tokens.len() - 1 - unscored` numbers. Who attends to whom is its own
/// affair; `config.pattern` is checked and no more.
///
/// # Errors
/// As [`perplexity`].
///
/// # Panics
/// If `nll` returns another number of numbers.
///
/// # Example
/// ```
/// use longlora_attention::AttentionPattern;
/// use longlora_eval::{PerplexityConfig, Protocol, perplexity_by};
///
/// // A model that thinks each of its 32 tokens as likely as the others.
/// let nll = |tokens: &[u32], unscored| vec![32f32.ln(); tokens.len() - 1 - unscored];
/// let config = PerplexityConfig {
///     length: 64,
///     protocol: Protocol::WholeWindows { stride: None },
///     pattern: AttentionPattern::Full,
///     max_tokens: None,
/// };
/// let documents = [vec![7; 200]];
/// let measured = perplexity_by(nll, 32, &documents, &config, &mut |_, _| {})?;
/// assert!((measured.perplexity() - 32.0).abs() < 1e-4);
/// # Ok::<(), longlora_eval::EvalError>(())
/// ```
pub fn perplexity_by(
    mut nll: impl FnMut(&[u32], usize) -> Vec<f32>,
    vocab_size: usize,
    documents: &[Vec<u32>],
    config: &PerplexityConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measurement, EvalError> {
    config.validate()?;
    let documents = front(documents, config.max_tokens.unwrap_or(usize::MAX));
    check_vocabulary(&documents, vocab_size)?;

    let spans = config.spans(&documents)?;
    let mut tally = Tally::new(config);
    for (done, span) in spans.iter().enumerate() {
        let tokens = &documents[span.document][span.start..span.end];
        let nll = nll(tokens, span.unscored);
        let scored = tokens.len() - 1 - span.unscored;
        assert_eq!(nll.len(), scored, "needs a number for each token that is scored");
        tally.add(span, tokens, &nll)?;
        progress(done + 1, spans.len());
    }
    Ok(tally.finish())
}

/// The first `max_tokens` tokens of all documents together.
pub(crate) fn front<'a>(documents: &'a [Vec<u32>], max_tokens: usize) -> Vec<&'a [u32]> {
    let mut left = max_tokens;
    let take = |document: &'a Vec<u32>| {
        let taken = document.len().min(left);
        left -= taken;
        &document[..taken]
    };
    documents.iter().map(take).collect()
}

pub(crate) fn check_vocabulary(documents: &[&[u32]], vocab_size: usize) -> Result<(), EvalError> {
    for (document, tokens) in documents.iter().enumerate() {
        if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(EvalError::UnknownToken { document, token, vocab_size });
        }
    }
    Ok(())
}

/// Negative log-likelihoods of a window's predictions but the first `unscored`.
fn scored_nll(
    llama: &Llama,
    pattern: AttentionPattern,
    tokens: &[u32],
    unscored: usize,
) -> Vec<f32> {
    let device = llama.device();
    let window = Window::new(tokens.to_vec(), vec![0]);
    let batch = TokenBatch::from_windows(&[window], 0);
    let mut targets = batch.target_ids().to_vec();
    targets[..unscored].fill(IGNORED_TARGET);

    let pass = llama.pass(pattern, &Layout::dense(batch.batch, batch.seq));
    let hidden_states = llama.hidden(batch.inputs(&device), &pass);
    let nll = llama.nll(hidden_states.squeeze_dim(0), &targets);
    let scored = targets.iter().zip(nll).filter(|(target, _)| **target != IGNORED_TARGET);
    scored.map(|(_, nll)| nll).collect()
}

/// What has been measured so far.
struct Tally {
    length: usize,
    /// Tokens per stretch.
    stretch: usize,
    windows: usize,
    hash: Sha256,
    /// Keys are documents and where in them a stretch begins; values are scored tokens and their sum.
    sums: BTreeMap<(usize, usize), (usize, f64)>,
    positions: PositionTally,
    windows_overlap: bool,
}

impl Tally {
    fn new(config: &PerplexityConfig) -> Self {
        Self {
            length: config.length,
            stretch: config.protocol.stretch(config.length),
            windows: 0,
            hash: Sha256::new(),
            sums: BTreeMap::new(),
            positions: PositionTally::new(config.length),
            windows_overlap: config.protocol.scores_twice(config.length),
        }
    }

    /// `nll` is of the last tokens of the window.
    fn add(&mut self, span: &Span, tokens: &[u32], nll: &[f32]) -> Result<(), EvalError> {
        for (position, &nll) in (span.end - nll.len()..span.end).zip(nll) {
            if !nll.is_finite() {
                let Span { document, start, end, .. } = *span;
                return Err(EvalError::NotFinite { document, start, end, nll });
            }
            let key = (span.document, position / self.stretch * self.stretch);
            let (tokens, sum) = self.sums.entry(key).or_default();
            *tokens += 1;
            *sum += f64::from(nll);
        }
        self.windows += 1;
        self.positions.add(tokens.len() - nll.len(), nll);
        let Span { document, start, end, unscored } = *span;
        for number in [document, start, end, unscored] {
            self.hash.update((number as u64).to_le_bytes());
        }
        tokens.iter().for_each(|token| self.hash.update(token.to_le_bytes()));
        Ok(())
    }

    fn finish(self) -> Measurement {
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let stretch =
            |((document, start), (tokens, nll_sum))| Stretch { document, start, tokens, nll_sum };
        let stretches = self.sums.into_iter().map(stretch).collect();
        let positions = self.positions.finish(self.windows_overlap);
        Measurement { positions, ..Measurement::new(self.length, self.windows, sha256, stretches) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::module::{Module, Param};
    use burn::tensor::{Device, Int, Tensor};
    use longlora_attention::{GroupSize, PatternError, Shift};
    use longlora_llama::LlamaConfig;
    use serde_json::json;

    use super::*;
    use crate::paired_difference;

    const SIDE_BY_SIDE: Protocol = Protocol::WholeWindows { stride: None };

    /// Two blocks with random weights, and heads that share keys.
    fn tiny() -> Llama {
        let config = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "vocab_size": 31, "max_position_embeddings": 64,
        });
        let config = config.as_object().unwrap().clone();
        let device = Device::default();
        device.seed(7);
        let mut llama =
            LlamaConfig::from_hugging_face(config, Path::new("tiny")).unwrap().init(&device);
        // With the usual deviation of 0.02 all next tokens would be about as likely.
        let head = llama.lm_head.as_mut().expect("the head is not tied");
        head.weight = Param::from_tensor(head.weight.val().mul_scalar(50.0));
        llama
    }

    fn tokens(count: u32, salt: u32) -> Vec<u32> {
        (0..count).map(|n| (n * n + salt * n + salt) % 31).collect()
    }

    fn config(length: usize, protocol: Protocol) -> PerplexityConfig {
        PerplexityConfig { length, protocol, pattern: AttentionPattern::Full, max_tokens: None }
    }

    fn measure(
        llama: &Llama,
        documents: &[Vec<u32>],
        config: &PerplexityConfig,
    ) -> Result<Measurement, EvalError> {
        perplexity(llama, documents, config, &mut |_, _| {})
    }

    /// NLL of every token but the first, from whole logits and in f64.
    fn nll_by_hand(llama: &Llama, tokens: &[u32]) -> Vec<f64> {
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(*token)).collect();
        let ids = Tensor::<1, Int>::from_data(ids.as_slice(), &llama.device()).unsqueeze();
        let pass = llama.pass(AttentionPattern::Full, &Layout::dense(1, tokens.len()));
        let logits = llama.logits(ids, &pass);
        let [_, _, vocab] = logits.dims();
        let logits: Vec<f64> = logits.into_data().iter().collect();
        let of_row = |(row, next): (&[f64], &u32)| {
            row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[*next as usize]
        };
        logits.chunks(vocab).zip(&tokens[1..]).map(of_row).collect()
    }

    #[track_caller]
    fn assert_close(ours: f64, expected: f64, relative: f64) {
        let error = (ours - expected).abs() / expected.abs();
        assert!(error <= relative, "{ours} instead of {expected}: relative error {error:e}");
    }

    #[test]
    fn one_window_is_the_mean_over_its_logits() {
        let (llama, text) = (tiny(), tokens(24, 3));
        let by_hand = nll_by_hand(&llama, &text);

        let measurement = measure(&llama, &[text], &config(24, SIDE_BY_SIDE)).unwrap();

        assert_eq!((measurement.tokens, measurement.windows), (23, 1));
        assert_close(measurement.nll_sum, by_hand.iter().sum(), 1e-6);
        assert_close(measurement.nll(), by_hand.iter().sum::<f64>() / 23.0, 1e-6);
        assert_eq!(measurement.nll_standard_error, None);
    }

    #[test]
    fn a_sliding_window_scores_its_last_tokens_with_their_context() {
        let (llama, text) = (tiny(), tokens(21, 5));
        let first = nll_by_hand(&llama, &text[..10]);
        let second = nll_by_hand(&llama, &text[6..16]);
        let third = nll_by_hand(&llama, &text[12..21]);
        let expected = [&first[..], &second[3..], &third[3..]].concat();
        assert_eq!(expected.len(), 9 + 6 + 5);

        let protocol = Protocol::LastTokens { stride: 6 };
        let measurement = measure(&llama, &[text], &config(10, protocol)).unwrap();

        assert_eq!((measurement.tokens, measurement.windows), (20, 3));
        assert_close(measurement.nll_sum, expected.iter().sum(), 1e-6);
    }

    #[test]
    fn overlapping_windows_are_sorted_into_stretches_by_where_their_tokens_stand() {
        let (llama, text) = (tiny(), tokens(10, 5));
        let windows = [0, 3, 6].map(|start| (start, nll_by_hand(&llama, &text[start..start + 4])));

        let protocol = Protocol::WholeWindows { stride: Some(3) };
        let measurement = measure(&llama, &[text], &config(4, protocol)).unwrap();

        assert_eq!((measurement.tokens, measurement.windows), (9, 3));
        let mut expected = [0.0; 3];
        for (start, nll) in &windows {
            nll.iter().enumerate().for_each(|(n, nll)| expected[(start + 1 + n) / 4] += nll);
        }
        let found: Vec<_> =
            measurement.stretches.iter().map(|stretch| (stretch.start, stretch.tokens)).collect();
        assert_eq!(found, [(0, 3), (4, 4), (8, 2)]);
        for (stretch, expected) in measurement.stretches.iter().zip(expected) {
            assert_close(stretch.nll_sum, expected, 1e-6);
        }
    }

    #[test]
    fn documents_do_not_meet_and_short_ones_are_left_out_of_whole_windows() {
        let llama = tiny();
        let documents = [tokens(5, 1), tokens(19, 2), vec![], tokens(9, 4)];
        let windows = [&documents[1][..8], &documents[1][8..16], &documents[3][..8]];
        let expected: f64 = windows.iter().flat_map(|window| nll_by_hand(&llama, window)).sum();

        let measurement = measure(&llama, &documents, &config(8, SIDE_BY_SIDE)).unwrap();
        assert_eq!((measurement.tokens, measurement.windows), (21, 3));
        assert_close(measurement.nll_sum, expected, 1e-6);
        let stretch = |stretch: &Stretch| (stretch.document, stretch.start, stretch.tokens);
        let stretches: Vec<_> = measurement.stretches.iter().map(stretch).collect();
        assert_eq!(stretches, [(1, 0, 7), (1, 8, 7), (3, 0, 7)]);

        let protocol = Protocol::LastTokens { stride: 4 };
        let measurement = measure(&llama, &documents, &config(8, protocol)).unwrap();
        assert_eq!(measurement.tokens, 4 + 18 + 8);
    }

    #[test]
    fn only_the_first_tokens_are_read() {
        let llama = tiny();
        let documents = [tokens(9, 1), tokens(19, 2), tokens(19, 3)];
        let limited = PerplexityConfig { max_tokens: Some(26), ..config(8, SIDE_BY_SIDE) };
        let ours = measure(&llama, &documents, &limited).unwrap();
        let cut = [documents[0].clone(), documents[1][..17].to_vec()];
        assert_eq!(ours, measure(&llama, &cut, &config(8, SIDE_BY_SIDE)).unwrap());
        assert_eq!(ours.windows, 3);
    }

    #[test]
    fn positions_are_counted_from_the_start_of_a_window_and_overlapping_ones_are_no_evidence() {
        // A token costs as many nats as tokens stand before it in its window.
        let nll = |tokens: &[u32], unscored: usize| {
            (unscored + 1..tokens.len()).map(|before| before as f32).collect::<Vec<f32>>()
        };
        let positions = |protocol| {
            let documents = [tokens(22, 1)];
            let measured =
                perplexity_by(nll, 31, &documents, &config(10, protocol), &mut |_, _| {}).unwrap();
            measured.positions
        };
        // Three windows, of which the second and the third do not score their first three predictions.
        let last_tokens = positions(Protocol::LastTokens { stride: 6 });
        assert_eq!(last_tokens.len(), 9);
        for bin in &last_tokens {
            let windows = if bin.start < 4 { 1 } else { 3 };
            assert_eq!((bin.tokens, bin.nll()), (windows, bin.start as f64), "{bin:?}");
            assert_eq!(bin.nll_standard_error.is_some(), windows > 1, "{bin:?}");
        }
        let overlapping = positions(Protocol::WholeWindows { stride: Some(3) });
        assert_eq!(overlapping.len(), 9);
        for bin in &overlapping {
            assert_eq!((bin.tokens, bin.nll_standard_error), (5, None), "{bin:?}");
        }
    }

    #[test]
    fn progress_counts_windows() {
        let mut seen = vec![];
        let documents = [tokens(13, 1)];
        perplexity(&tiny(), &documents, &config(4, SIDE_BY_SIDE), &mut |done, of| {
            seen.push((done, of));
        })
        .unwrap();
        assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
    }

    #[test]
    fn patterns_are_compared_on_the_same_windows_only() {
        let (llama, documents) = (tiny(), [tokens(60, 1)]);
        let full = config(16, SIDE_BY_SIDE);
        let group_size = GroupSize::Tokens(4);
        let pattern = AttentionPattern::Shifted { group_size, shift: Shift::HalfHeads };
        let shifted = PerplexityConfig { pattern, ..full };
        let of_full = measure(&llama, &documents, &full).unwrap();
        let of_shifted = measure(&llama, &documents, &shifted).unwrap();

        let difference = paired_difference(&of_shifted, &of_full).unwrap();
        assert_close(difference.nll, of_shifted.nll() - of_full.nll(), 1e-9);
        assert_ne!(difference.nll, 0.0);

        let sliding = config(16, Protocol::LastTokens { stride: 8 });
        let other_text = measure(&llama, &[tokens(60, 2)], &full).unwrap();
        for other in [measure(&llama, &documents, &sliding).unwrap(), other_text] {
            let error = paired_difference(&of_full, &other).unwrap_err();
            assert!(matches!(error, EvalError::OtherWindows { .. }));
        }
    }

    #[test]
    fn what_cannot_be_measured_is_an_error_that_says_what_to_do() {
        let llama = tiny();
        let check = |documents: &[Vec<u32>], config: PerplexityConfig, expected: &str| {
            let error = measure(&llama, documents, &config).unwrap_err().to_string();
            assert_eq!(error, expected);
        };
        let text = || vec![tokens(5, 1), tokens(7, 1)];
        let short = "no document fills a window of `8` tokens, the longest has `7`; \
                     give longer documents, or measure a shorter length";
        check(&text(), config(8, SIDE_BY_SIDE), short);
        check(&text(), config(8, Protocol::LastTokens { stride: 4 }), short);
        let limited = PerplexityConfig { max_tokens: Some(3), ..config(4, SIDE_BY_SIDE) };
        let few = "`max_tokens` `3` is less than one window of `4` tokens; raise it";
        check(&text(), limited, few);
        let unknown = "document `1` has token `31`, but the model's vocabulary ends before `31`; \
                       use the tokenizer that belongs to the model";
        check(&[vec![0, 30], vec![1, 31, 2]], config(2, SIDE_BY_SIDE), unknown);
        let pattern = AttentionPattern::SlidingWindow { window: 0 };
        let blind = PerplexityConfig { pattern, ..config(4, SIDE_BY_SIDE) };
        check(&text(), blind, &PatternError::EmptyWindow.to_string());
    }

    #[test]
    fn a_likelihood_that_is_no_number_names_its_window() {
        let mut llama = tiny();
        let documents = [tokens(4, 1), vec![1, 2, 3, 4, 5, 29, 7, 8]];
        let table = llama.model.embed_tokens.weight.val();
        let broken = table.slice_fill([29..30, 0..1], f32::NAN);
        llama.model.embed_tokens.weight = Param::from_tensor(broken);

        let error = measure(&llama, &documents, &config(4, SIDE_BY_SIDE)).unwrap_err();

        let expected = "the negative log-likelihood of tokens `4..8` of document `1` is `NaN`; \
                        check the model's weights and its RoPE scaling";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    #[should_panic(expected = "needs a model without autodiff")]
    fn no_graph_is_built() {
        let llama = tiny().train();
        assert!(measure(&llama, &[tokens(8, 1)], &config(4, SIDE_BY_SIDE)).is_err());
    }
}
