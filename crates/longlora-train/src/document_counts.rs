use serde::{Deserialize, Serialize};

/// What kinds of documents a run reads, those that are held out included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentCounts {
    /// Texts, and documents of token ids: all of them is learned.
    pub texts: usize,
    /// Conversations and instructions: of these, what the assistant says.
    pub conversations: usize,
    /// Of the conversations, how many are longer than a window and lost their ends.
    pub cut: usize,
    /// Of the conversations, how many were left out: nothing of their answers is within a window.
    pub left_out: usize,
}
