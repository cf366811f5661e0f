//! Which windows a document is read in, and which of their tokens count.

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// Which windows a document is read in, and which of their tokens count.
///
/// No window spans two documents: a model must not be praised or blamed for what stands in another text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Protocol {
    /// Whole windows; every token of each but its first is scored, however little stands before it.
    ///
    /// LongLoRA's `eval.py` with a stride of 256, where a token counts once per window that it is in. Differs from it:
    /// there all documents are one stream, and the last window is dropped.
    ///
    /// What is left of a document behind its last whole window is not read, nor is a document shorter than a window, so
    /// that every score is of the same contexts.
    WholeWindows {
        /// Tokens between the starts of two windows; `None` is their length, so that none overlap. More than the
        /// length samples the text.
        stride: Option<usize>,
    },
    /// A sliding window; each token of a document but its first is scored exactly once, and all but those of the first
    /// window with at least `length - stride` tokens before it.
    ///
    /// «Perplexity of fixed-length models» in Hugging Face's transformers documentation. The last window of a document
    /// is shorter, as there, and a document shorter than a window is read in one.
    LastTokens {
        /// Tokens between the starts of two windows, and tokens that each but the first scores; less than the length.
        stride: usize,
    },
}

/// A window of a document, and what of it is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Index of the document.
    pub(crate) document: usize,
    /// First token.
    pub(crate) start: usize,
    /// One past the last token; at least `start + 2`.
    pub(crate) end: usize,
    /// How many of the window's `end - start - 1` predictions, from the left, do not count.
    pub(crate) unscored: usize,
}

impl Protocol {
    pub(crate) fn validate(self, length: usize) -> Result<(), EvalError> {
        match self {
            _ if length < 2 => Err(EvalError::ShortLength { length }),
            Self::WholeWindows { stride: Some(0) } | Self::LastTokens { stride: 0 } => {
                Err(EvalError::ZeroStride)
            }
            Self::LastTokens { stride } if stride >= length => {
                Err(EvalError::LongStride { stride, length })
            }
            _ => Ok(()),
        }
    }

    /// Whether windows share scored tokens, so that they are no pieces of evidence of their own.
    pub(crate) fn scores_twice(self, length: usize) -> bool {
        matches!(self, Self::WholeWindows { stride: Some(stride) } if stride < length)
    }

    /// The windows of one document of `tokens` tokens, from left to right.
    pub(crate) fn spans(self, document: usize, tokens: usize, length: usize) -> Vec<Span> {
        match self {
            _ if tokens < 2 => vec![],
            Self::WholeWindows { .. } if tokens < length => vec![],
            Self::WholeWindows { stride } => (0..=tokens - length)
                .step_by(stride.unwrap_or(length))
                .map(|start| Span { document, start, end: start + length, unscored: 0 })
                .collect(),
            Self::LastTokens { stride } => (0..=tokens.saturating_sub(length).div_ceil(stride))
                .map(|n| {
                    let start = n * stride;
                    // The window before has scored all but its last `stride` tokens of this one.
                    let unscored = if n == 0 { 0 } else { length - stride - 1 };
                    Span { document, start, end: tokens.min(start + length), unscored }
                })
                .collect(),
        }
    }

    /// Tokens per stretch of text that is taken for an independent piece of evidence; see
    /// [`Stretch`](crate::Stretch).
    pub(crate) fn stretch(self, length: usize) -> usize {
        match self {
            Self::WholeWindows { stride } => length.max(stride.unwrap_or(length)),
            Self::LastTokens { .. } => length,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `(start, end, unscored)` of each window.
    #[track_caller]
    fn check(protocol: Protocol, tokens: usize, length: usize, expected: &[(usize, usize, usize)]) {
        protocol.validate(length).unwrap();
        let spans = protocol.spans(7, tokens, length);
        assert!(spans.iter().all(|span| span.document == 7));
        let spans: Vec<_> =
            spans.iter().map(|span| (span.start, span.end, span.unscored)).collect();
        assert_eq!(spans, expected, "{protocol:?}, {tokens} tokens, length {length}");
    }

    #[test]
    fn whole_windows_leave_the_remainder_out() {
        let side_by_side = Protocol::WholeWindows { stride: None };
        check(side_by_side, 3, 4, &[]);
        check(side_by_side, 4, 4, &[(0, 4, 0)]);
        check(side_by_side, 11, 4, &[(0, 4, 0), (4, 8, 0)]);
        check(side_by_side, 12, 4, &[(0, 4, 0), (4, 8, 0), (8, 12, 0)]);
        let overlapping = Protocol::WholeWindows { stride: Some(3) };
        check(overlapping, 10, 4, &[(0, 4, 0), (3, 7, 0), (6, 10, 0)]);
        check(overlapping, 9, 4, &[(0, 4, 0), (3, 7, 0)]);
        let sampling = Protocol::WholeWindows { stride: Some(5) };
        check(sampling, 10, 4, &[(0, 4, 0), (5, 9, 0)]);
    }

    #[test]
    fn last_tokens_end_with_a_shorter_window() {
        let protocol = Protocol::LastTokens { stride: 2 };
        check(protocol, 0, 5, &[]);
        check(protocol, 1, 5, &[]);
        check(protocol, 2, 5, &[(0, 2, 0)]);
        check(protocol, 5, 5, &[(0, 5, 0)]);
        check(protocol, 6, 5, &[(0, 5, 0), (2, 6, 2)]);
        check(protocol, 7, 5, &[(0, 5, 0), (2, 7, 2)]);
        check(protocol, 8, 5, &[(0, 5, 0), (2, 7, 2), (4, 8, 2)]);
        check(Protocol::LastTokens { stride: 1 }, 4, 2, &[(0, 2, 0), (1, 3, 0), (2, 4, 0)]);
    }

    #[test]
    fn a_request_that_means_nothing_is_an_error_that_says_what_to_do() {
        let check = |protocol: Protocol, length: usize, expected: &str| {
            assert_eq!(protocol.validate(length).unwrap_err().to_string(), expected);
        };
        let whole = |stride| Protocol::WholeWindows { stride };
        let nothing = "windows of `1` tokens predict nothing; use a length of at least 2";
        check(whole(None), 1, nothing);
        check(Protocol::LastTokens { stride: 1 }, 1, nothing);
        let still = "a stride of `0` tokens never advances; use at least 1";
        check(whole(Some(0)), 4, still);
        check(Protocol::LastTokens { stride: 0 }, 4, still);
        let gap =
            "a stride of `4` tokens leaves tokens unscored between windows of `4`; use at most `3`";
        check(Protocol::LastTokens { stride: 4 }, 4, gap);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn last_tokens_score_every_token_but_the_first_exactly_once(
            tokens in 0..60usize, length in 2..20usize, stride in 1..19usize,
        ) {
            prop_assume!(stride < length);
            let spans = Protocol::LastTokens { stride }.spans(0, tokens, length);

            let scored: Vec<usize> =
                spans.iter().flat_map(|span| span.start + 1 + span.unscored..span.end).collect();
            prop_assert_eq!(scored, (1..tokens).collect::<Vec<_>>());
            for span in &spans {
                prop_assert!(span.end - span.start <= length);
                prop_assert!(span.start == 0 || span.unscored + 1 == length - stride);
            }
        }
    }
}
