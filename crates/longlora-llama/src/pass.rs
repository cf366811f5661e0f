//! What the blocks of one forward share.

use std::sync::Arc;

use longlora_adapters::{Dropout, RopeOffset, Rotary, RotaryTables};
use longlora_attention::{AttentionPlan, Segments};

/// One forward over one batch: who sees whom, where each token stands, what is dropped.
#[derive(Debug, Clone)]
pub struct Pass {
    plan: AttentionPlan,
    windowed: WindowedLayers,
    pub(crate) dropout: Option<Dropout>,
    rotary: Rotary,
    shared_offset: Option<RopeOffset>,
}

/// The plan of the layers that have a sliding window of their own, and which they are.
#[derive(Debug, Clone)]
struct WindowedLayers {
    plan: AttentionPlan,
    layers: Vec<bool>,
}

impl Pass {
    /// `windows`: the tokens that each layer sees at most, as [`LlamaConfig::windows`](crate::LlamaConfig::windows).
    pub(crate) fn new(
        plan: AttentionPlan,
        windows: &[Option<usize>],
        rotary: Rotary,
        shared_offset: Option<RopeOffset>,
    ) -> Self {
        let window = windows.iter().flatten().next();
        let windowed = WindowedLayers {
            plan: window.map_or(plan.clone(), |&window| plan.clone().with_window(window)),
            layers: windows.iter().map(Option::is_some).collect(),
        };
        Self { plan, windowed, dropout: None, rotary, shared_offset }
    }

    /// Where a layer may look: the pattern of the pass, inside the layer's own window.
    pub(crate) fn segments(&self, layer: usize) -> &Arc<Segments> {
        let plan = if self.windowed.layers[layer] { &self.windowed.plan } else { &self.plan };
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
