//! What the blocks of one forward share.

use longlora_adapters::{Dropout, RopeOffset, Rotary, RotaryTables};
use longlora_attention::AttentionPlan;

/// One forward over one batch: who sees whom, where each token stands, what is dropped.
#[derive(Debug, Clone)]
pub struct Pass {
    pub(crate) plan: AttentionPlan,
    pub(crate) dropout: Option<Dropout>,
    rotary: Rotary,
    shared_offset: Option<RopeOffset>,
}

impl Pass {
    pub(crate) fn new(
        plan: AttentionPlan,
        rotary: Rotary,
        shared_offset: Option<RopeOffset>,
    ) -> Self {
        Self { plan, dropout: None, rotary, shared_offset }
    }

    /// The same pass in training, with dropout drawn from `seed`; layers without dropout ignore it.
    pub fn with_dropout(self, seed: u64) -> Self {
        Self { dropout: Some(Dropout::new(seed)), ..self }
    }

    /// The rotary tables of a layer: moved by its own offset, by the model's, or by none.
    pub(crate) fn tables(&self, own: Option<&RopeOffset>) -> RotaryTables {
        self.rotary.tables(own.or(self.shared_offset.as_ref()))
    }
}
