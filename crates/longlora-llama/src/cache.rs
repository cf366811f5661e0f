//! Keys and values of the tokens that a model has read, so that a new token costs the work of one.
//!
//! ```text
//! whole       [ t0 t1 t2 t3 t4 ·  ·  ·  · ]           keys rotated by their positions in the text
//! streaming   [ ·  ·  t0 t1 t5 t6 t7 ·  · ]           keys not rotated; positions are 0, 1, 2, … in the cache
//!                     sinks  last tokens   room
//! ```
//!
//! Buffers have room for more tokens than they hold, and grow by half: a token is written in place, and on average
//! copied a few times in its life, however long the text. A streaming cache lets go of its oldest token by moving the
//! few sinks over it.

use std::ops::Range;

use burn::tensor::{DType, Device, Slice, Tensor};
use longlora_adapters::{RopeConfig, RopeOffset, Rotary, RotaryTables};

use crate::config::LlamaConfig;

/// Positions by which a buffer grows at least.
const BLOCK: usize = 256;

/// What a cache keeps, and how its tokens count their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// Every token, at its position in the text.
    Whole {
        /// Tokens that the text may have in the end.
        length: usize,
        /// Tokens that a token sees at most, itself included; `None` for all before it.
        window: Option<usize>,
    },
    /// The first tokens and the last ones, for text without an end.
    Streaming(Streaming),
}

/// Attention sinks (StreamingLLM, arXiv:2309.17453): the first tokens, which draw attention whatever they say, stay
/// beside a sliding window. Positions are counted in the cache, so that none is ever beyond `sinks + window`, the length
/// by which dynamic and longrope choose their frequencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// First tokens that stay; the paper has 4.
    pub sinks: usize,
    /// Last tokens that stay, the newest included.
    pub window: usize,
}

/// Keys and values of one text.
///
/// Dynamic and longrope choose their frequencies by the length of the text, and keys are kept rotated by them. So the first
/// tokens plan for the text as it is, and within the pre-trained context that is all. A text that outgrows its plan is read
/// again by the frequencies of a longer one: once for longrope, for dynamic whenever it has grown by a quarter.
#[derive(Debug, Clone)]
pub struct KvCache {
    kind: CacheKind,
    rope: RopeConfig,
    /// Tokens that the frequencies were chosen for.
    planned: usize,
    /// Tokens that a query of each layer sees at most, by the model's own rule.
    windows: Vec<Option<usize>>,
    layers: Vec<LayerCache>,
    /// Slots of the buffers.
    capacity: usize,
    /// Slots of the buffers that are in use.
    held: Range<usize>,
    tokens: Vec<u32>,
}

/// Keys and values of one layer: `[1, kv_heads, capacity, head_dim]` each.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    keys: Tensor<4>,
    values: Tensor<4>,
}

/// What the blocks share while they read new tokens.
pub(crate) struct CachedPass {
    /// Tokens that a token sees at most in each layer.
    pub(crate) windows: Vec<Option<usize>>,
    /// Slots of the tokens before the new ones, and of these.
    slots: [Range<usize>; 2],
    /// Of the new tokens.
    rotary: Rotary,
    /// Of all tokens, where keys are kept without their rotation.
    rotary_of_all: Option<Rotary>,
    shared_offset: Option<RopeOffset>,
}

impl KvCache {
    pub(crate) fn new(
        config: &LlamaConfig,
        kind: CacheKind,
        device: &Device,
        dtype: DType,
    ) -> Self {
        if let CacheKind::Streaming(Streaming { window, .. }) = kind {
            assert!(window > 0, "needs a window of at least 1 token, got 0");
        }
        let shape = [1, config.num_key_value_heads, 0, config.rope.head_dim];
        let empty = Tensor::zeros(shape, (device, dtype));
        let layer = LayerCache { keys: empty.clone(), values: empty };
        let planned = match kind {
            CacheKind::Whole { .. } => 0,
            CacheKind::Streaming(Streaming { sinks, window }) => sinks + window,
        };
        Self {
            kind,
            rope: config.rope.clone(),
            planned,
            windows: config.windows.clone(),
            layers: vec![layer; config.num_hidden_layers],
            capacity: 0,
            held: 0..0,
            tokens: vec![],
        }
    }

    /// All tokens that were read, those that a streaming cache has let go included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that the next one can see.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Forgets what is not the beginning of `text`, and returns how many of its tokens need not be read again.
    ///
    /// At least one is left to be read, as the last token tells the next. A streaming cache cannot bring back what it has
    /// let go: if more has to be forgotten than it holds beside its sinks, it forgets everything.
    pub fn keep_beginning_of(&mut self, text: &[u32]) -> usize {
        let last = text.len().saturating_sub(1);
        let pairs = self.tokens.iter().zip(&text[..last]);
        let common = pairs.take_while(|(ours, theirs)| ours == theirs).count();
        let dropped = self.tokens.len() - common;
        let gone = self.tokens.len() - self.held.len();
        let fixed = match self.kind {
            CacheKind::Streaming(Streaming { sinks, .. }) if gone > 0 => sinks,
            _ => 0,
        };
        if dropped > self.held.len() - fixed.min(self.held.len()) {
            self.forget();
            return 0;
        }
        if self.is_planned_for_more_than(text.len()) {
            self.planned = 0;
            self.forget();
            return 0;
        }
        self.tokens.truncate(common);
        self.held.end -= dropped;
        common
    }

    fn forget(&mut self) {
        self.tokens.clear();
        self.held.end = self.held.start;
    }

    /// Whether the frequencies are those of a longer text, which are others than this many tokens would be read by.
    fn is_planned_for_more_than(&self, tokens: usize) -> bool {
        let CacheKind::Whole { length, .. } = self.kind else { return false };
        let alike = self.rope.steady_until(tokens).is_some_and(|end| self.planned <= end);
        !alike && self.planned > planned_length(&self.rope, tokens, length)
    }

    /// Tokens that can be read at once: a streaming cache makes room for all of them before the first is read, so that
    /// many at once would leave the first few of them too little to see.
    pub(crate) fn chunk(&self, wanted: usize) -> usize {
        match self.kind {
            CacheKind::Whole { .. } => wanted.max(1),
            CacheKind::Streaming(Streaming { window, .. }) => wanted.min(window / 4).max(1),
        }
    }

    /// Plans for `new` tokens more, and returns those that have to be read again, of which the cache then knows none.
    pub(crate) fn plan(&mut self, new: usize) -> Vec<u32> {
        let needed = self.held.len() + new;
        match self.kind {
            CacheKind::Whole { length, .. } if needed > self.planned => {
                self.planned = planned_length(&self.rope, needed, length);
                self.held.end = self.held.start;
                std::mem::take(&mut self.tokens)
            }
            _ => vec![],
        }
    }

    /// Makes room for `new` tokens, and prepares the forward over them.
    ///
    /// # Panics
    /// If they are more than the cache can hold.
    pub(crate) fn prepare(&mut self, new: usize, shared_offset: Option<RopeOffset>) -> CachedPass {
        match self.kind {
            CacheKind::Whole { length, .. } => {
                let needed = self.held.len() + new;
                assert!(needed <= length, "needs a text of at most {length} tokens, got {needed}");
            }
            CacheKind::Streaming(streaming) => self.let_go(streaming, new),
        }
        if self.held.end + new > self.capacity {
            self.grow(self.held.len() + new);
        }
        self.pass(new, shared_offset)
    }

    fn pass(&self, new: usize, shared_offset: Option<RopeOffset>) -> CachedPass {
        let (past, all) = (self.held.len(), self.held.len() + new);
        let (window, streaming) = match self.kind {
            CacheKind::Whole { window, .. } => (window, false),
            CacheKind::Streaming(_) => (None, true),
        };
        let device = self.layers.first().map(|layer| layer.keys.device()).unwrap_or_default();
        let rotary = |positions| Rotary::at(&self.rope, positions, self.planned, &device);
        let narrower = |own: &Option<usize>| own.iter().copied().chain(window).min();
        CachedPass {
            windows: self.windows.iter().map(narrower).collect(),
            slots: [self.held.clone(), self.held.end..self.held.end + new],
            rotary: rotary(past..all),
            rotary_of_all: streaming.then(|| rotary(0..all)),
            shared_offset,
        }
    }

    /// The caches of the layers, in their order.
    pub(crate) fn layers(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Counts in tokens that all layers have read.
    pub(crate) fn add(&mut self, new: &[u32]) {
        self.held.end += new.len();
        self.tokens.extend_from_slice(new);
    }

    /// Lets go of the oldest tokens after the sinks, until `new` ones fit into the window.
    fn let_go(&mut self, Streaming { sinks, window }: Streaming, new: usize) {
        assert!(new <= window, "needs at most {window} tokens at a time, got {new}");
        let gone = (self.held.len() + new).saturating_sub(sinks + window);
        if gone > 0 && sinks > 0 {
            for layer in &mut self.layers {
                layer.move_positions(self.held.start..self.held.start + sinks, gone);
            }
        }
        self.held.start += gone;
    }

    /// Moves what is held to the front of larger buffers.
    fn grow(&mut self, needed: usize) {
        let roomy = (needed + (needed / 2).max(BLOCK)).next_multiple_of(BLOCK);
        self.capacity = match self.kind {
            CacheKind::Whole { length, .. } => roomy.min(length),
            CacheKind::Streaming(_) => roomy,
        };
        for layer in &mut self.layers {
            for x in [&mut layer.keys, &mut layer.values] {
                let [batch, kv_heads, _, head_dim] = x.dims();
                let shape = [batch, kv_heads, self.capacity, head_dim];
                let room = Tensor::zeros(shape, (&x.device(), x.dtype()));
                *x = if self.held.is_empty() {
                    room
                } else {
                    let held = x.clone().narrow(2, self.held.start, self.held.len());
                    room.slice_assign(positions(0..self.held.len()), held)
                };
            }
        }
        self.held = 0..self.held.len();
    }
}

impl LayerCache {
    /// Adds the keys and values of new tokens, and returns those of all, the keys rotated.
    ///
    /// # Shapes
    /// - `k`, `v`: `[1, kv_heads, seq, head_dim]`, before the rotation
    /// - results: `[1, kv_heads, past + seq, head_dim]`
    pub(crate) fn extend(
        &mut self,
        k: Tensor<4>,
        v: Tensor<4>,
        offset: Option<&RopeOffset>,
        pass: &CachedPass,
    ) -> (Tensor<4>, Tensor<4>) {
        let k = if pass.rotary_of_all.is_some() { k } else { pass.tables(offset).rotate(k) };
        let [held, new] = &pass.slots;
        // In place: nothing else holds the buffers.
        self.keys.inplace(|keys| keys.slice_assign(positions(new.clone()), k));
        self.values.inplace(|values| values.slice_assign(positions(new.clone()), v));
        let [k, v] = [&self.keys, &self.values]
            .map(|x| x.clone().narrow(2, held.start, new.end - held.start));
        match &pass.rotary_of_all {
            None => (k, v),
            Some(rotary) => (rotary.tables(pass.offset(offset)).rotate(k), v),
        }
    }

    /// Copies some positions `by` further.
    fn move_positions(&mut self, from: Range<usize>, by: usize) {
        for x in [&mut self.keys, &mut self.values] {
            // Through the host, so that the copy is no view of the buffer, which then would not be written in place.
            let moved = x.clone().narrow(2, from.start, from.len()).into_data();
            let moved = Tensor::from_data(moved, (&x.device(), x.dtype()));
            let to = positions(from.start + by..from.end + by);
            x.inplace(|x| x.slice_assign(to, moved));
        }
    }
}

impl CachedPass {
    /// The rotary tables of the new tokens in a layer: moved by its own offset, by the model's, or by none.
    pub(crate) fn tables(&self, own: Option<&RopeOffset>) -> RotaryTables {
        self.rotary.tables(self.offset(own))
    }

    fn offset<'a>(&'a self, own: Option<&'a RopeOffset>) -> Option<&'a RopeOffset> {
        own.or(self.shared_offset.as_ref())
    }
}

/// The length by whose frequencies a text of `needed` tokens is read, which may have `most` in the end.
pub(crate) fn planned_length(rope: &RopeConfig, needed: usize, most: usize) -> usize {
    let steady = rope.steady_until(needed);
    steady.unwrap_or_else(|| needed + (needed / 4).max(BLOCK)).min(most.max(needed))
}

/// The slices of these positions.
fn positions(range: Range<usize>) -> [Slice; 4] {
    [Slice::full(), Slice::full(), Slice::from(range), Slice::full()]
}
