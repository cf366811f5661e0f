//! How documents lie in a batch.

/// One row of a batch: how much of it is text, and where its documents begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Tokens of text; what follows in the row is padding.
    pub length: usize,
    /// Positions at which a document begins, increasing; 0 may be left out.
    pub document_starts: Vec<usize>,
}

/// The rows of a batch of `seq` tokens each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Tokens per row, padding included.
    pub seq: usize,
    /// One entry per row of the batch.
    pub rows: Vec<Row>,
}

impl Layout {
    /// Every row is one document without padding.
    pub fn dense(batch: usize, seq: usize) -> Self {
        Self { seq, rows: vec![Row { length: seq, document_starts: vec![] }; batch] }
    }
}
