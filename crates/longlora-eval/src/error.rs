//! What can be wrong with a request to measure.

use longlora_attention::PatternError;

/// Why a model cannot be measured, or two measurements not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A window in which nothing can be predicted.
    #[error("windows of `{length}` tokens predict nothing; use a length of at least 2")]
    ShortLength {
        /// Tokens per window.
        length: usize,
    },
    /// Windows that never advance.
    #[error("a stride of `0` tokens never advances; use at least 1")]
    ZeroStride,
    /// Tokens that no window could score.
    #[error(
        "a stride of `{stride}` tokens leaves tokens unscored between windows of `{length}`; use at most `{}`",
        length - 1
    )]
    LongStride {
        /// Tokens between the starts of two windows.
        stride: usize,
        /// Tokens per window.
        length: usize,
    },
    /// A limit that allows no window.
    #[error("`max_tokens` `{max_tokens}` is less than one window of `{length}` tokens; raise it")]
    FewTokens {
        /// The limit.
        max_tokens: usize,
        /// Tokens per window.
        length: usize,
    },
    /// The attention pattern does not suit the length.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No document is as long as the context to be measured.
    #[error(
        "no document fills a window of `{length}` tokens, the longest has `{longest}`; \
         give longer documents, or measure a shorter length"
    )]
    ShortDocuments {
        /// Tokens of the longest document, after `max_tokens` was applied.
        longest: usize,
        /// Tokens per window.
        length: usize,
    },
    /// A token that the model does not know.
    #[error(
        "document `{document}` has token `{token}`, but the model's vocabulary ends before `{vocab_size}`; \
         use the tokenizer that belongs to the model"
    )]
    UnknownToken {
        /// Index of the document.
        document: usize,
        /// The token's id.
        token: u32,
        /// Entries of the model's vocabulary.
        vocab_size: usize,
    },
    /// The model computed no number.
    #[error(
        "the negative log-likelihood of tokens `{start}..{end}` of document `{document}` is `{nll}`; \
         check the model's weights and its RoPE scaling"
    )]
    NotFinite {
        /// Index of the document.
        document: usize,
        /// Where the window begins in it, in tokens.
        start: usize,
        /// Where the window ends in it, in tokens.
        end: usize,
        /// What came out.
        nll: f32,
    },
    /// Measurements that cannot be paired.
    #[error(
        "the measurements are not of the same windows (`{a}` and `{b}`); \
         measure both on the same tokens with the same length and protocol"
    )]
    OtherWindows {
        /// SHA-256 of the windows of the first.
        a: String,
        /// SHA-256 of the windows of the second.
        b: String,
    },
}
