//! What the blocks of one forward share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use longlora_adapters::{Dropout, RopeOffset, Rotary, RotaryTables};
use longlora_attention::{AttentionPlan, Segments};

/// One forward over one batch: who sees whom, where each token stands, what is dropped.
#[derive(Debug, Clone)]
pub struct Pass {
    plan: AttentionPlan,
    /// Tokens that each layer sees at most.
    windows: Vec<Option<usize>>,
    /// The plan inside a sliding window, by its width.
    windowed: BTreeMap<usize, AttentionPlan>,
    pub(crate) dropout: Option<Dropout>,
    rotary: Rotary,
    shared_offset: Option<RopeOffset>,
}

impl Pass {
    /// `windows`: the tokens that each layer sees at most, as [`LlamaConfig::windows`](crate::LlamaConfig::windows).
    pub(crate) fn new(
        plan: AttentionPlan,
        windows: &[Option<usize>],
        rotary: Rotary,
        shared_offset: Option<RopeOffset>,
    ) -> Self {
        let widths: BTreeSet<usize> = windows.iter().copied().flatten().collect();
        let inside = |width| (width, plan.clone().with_window(width));
        let windowed = widths.into_iter().map(inside).collect();
        Self { plan, windows: windows.to_vec(), windowed, dropout: None, rotary, shared_offset }
    }

    /// Where a layer may look: the pattern of the pass, inside the layer's own window.
    pub(crate) fn segments(&self, layer: usize) -> &Arc<Segments> {
        let plan = match self.windows[layer] {
            Some(width) => &self.windowed[&width],
            None => &self.plan,
        };
        plan.layer(layer)
    }

    /// The same pass in training, with dropout; layers without dropout ignore it.
    pub fn with_dropout(self, dropout: Dropout) -> Self {
        Self { dropout: Some(dropout), ..self }
    }

    /// The rotary tables of a layer: moved by its own offset, by the model's, or by none.
    pub(crate) fn tables(&self, own: Option<&RopeOffset>) -> RotaryTables {
        self.rotary.tables(own.or(self.shared_offset.as_ref()))
    }
}
