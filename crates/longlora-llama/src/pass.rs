//! What the blocks of one forward share.

use longlora_adapters::{Dropout, Rotary, RotaryTables};
use longlora_attention::{AttentionPattern, AttentionPlan, Layout};

use longlora_adapters::RopeOffset;

use crate::llama::Llama;

/// One forward over one batch: who sees whom, where each token stands, what is dropped.
#[derive(Debug, Clone)]
pub struct Pass {
    pub(crate) plan: AttentionPlan,
    pub(crate) dropout: Option<Dropout>,
    rotary: Rotary,
    shared_offset: Option<RopeOffset>,
}

impl Pass {
    pub(crate) fn new(llama: &Llama, pattern: AttentionPattern, layout: &Layout) -> Self {
        Self {
            plan: pattern.plan(layout),
            dropout: None,
            rotary: Rotary::new(&llama.config.rope, layout.seq, &llama.device()),
            shared_offset: llama.model.rope_offset.clone(),
        }
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
