//! What one optimizer step learns from.

use longlora_adapters::Dropout;
use longlora_attention::{Layout, Row};
use longlora_data::TokenBatch;

/// The micro-batches of one optimizer step.
#[derive(Debug, Clone)]
pub struct StepBatch {
    /// Run one after another; the loss is the mean over all their targets together.
    pub micro_batches: Vec<TokenBatch>,
    /// This step's dropout.
    pub dropout: Dropout,
}

impl StepBatch {
    /// Targets of all micro-batches.
    pub fn num_targets(&self) -> usize {
        self.micro_batches.iter().map(TokenBatch::num_targets).sum()
    }

    /// The micro-batches, each with a dropout of its own.
    pub(crate) fn with_dropout(&self) -> impl Iterator<Item = (Dropout, &TokenBatch)> {
        (0..).map(|index| self.dropout.part(index)).zip(&self.micro_batches)
    }

    /// Tokens of all micro-batches, padding left out.
    pub fn tokens(&self) -> usize {
        self.micro_batches.iter().map(TokenBatch::tokens_seen).sum()
    }
}

/// How the documents of a batch lie.
pub(crate) fn layout(batch: &TokenBatch) -> Layout {
    let rows = batch.lengths.iter().zip(&batch.document_starts);
    let rows = rows.map(|(&length, starts)| Row { length, document_starts: starts.clone() });
    Layout { seq: batch.seq, rows: rows.collect() }
}
