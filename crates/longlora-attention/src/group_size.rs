//! How long the groups of shifted sparse attention are.

use serde::{Deserialize, Serialize};

/// Tokens per group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupSize {
    /// This share of the row's length, in (0, 1]; the paper's is 0.25. The cost per token grows with the length.
    Ratio(f64),
    /// So many tokens, whatever the length: the cost per token is flat in the context length.
    Tokens(usize),
}

impl GroupSize {
    /// Tokens per group in a row of `length` tokens; of a ratio an even number, at least 2.
    pub fn tokens(&self, length: usize) -> usize {
        match *self {
            Self::Tokens(tokens) => tokens,
            Self::Ratio(ratio) => ((length as f64 * ratio) as usize / 2 * 2).max(2),
        }
    }
}
