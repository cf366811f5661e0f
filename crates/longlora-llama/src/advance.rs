//! Reading new tokens after those that a cache holds.

use burn::tensor::{Int, Tensor, TensorData};

use crate::cache::{CacheKind, KvCache};
use crate::llama::Llama;

/// Tokens that are read at once where nobody says how many.
pub(crate) const PREFILL_CHUNK: usize = 512;

impl Llama {
    /// An empty cache for one text.
    ///
    /// # Panics
    /// If it could not hold a token.
    pub fn cache(&self, kind: CacheKind) -> KvCache {
        KvCache::new(&self.config, kind, &self.device(), self.compute.dtype())
    }

    /// Reads new tokens after those of the cache, all at once, and returns the final hidden state of the last one.
    ///
    /// # Shapes
    /// - result: `[1, hidden_size]`
    ///
    /// # Panics
    /// If there are no new tokens, more than the cache can hold, or some outside the vocabulary; if the model tracks
    /// gradients.
    pub fn advance(&self, new: &[u32], cache: &mut KvCache) -> Tensor<2> {
        assert!(!new.is_empty(), "needs at least one token to read");
        self.plan(new.len(), cache, PREFILL_CHUNK);
        self.read(new, cache)
    }

    /// Reads the text again, if that many tokens more need other frequencies.
    fn plan(&self, new: usize, cache: &mut KvCache, chunk: usize) {
        for tokens in cache.plan(new).chunks(chunk) {
            self.read(tokens, cache);
        }
    }

    fn read(&self, new: &[u32], cache: &mut KvCache) -> Tensor<2> {
        let pass = cache.prepare(new.len(), self.model.rope_offset.clone());
        let ids: Vec<i64> = new.iter().map(|&id| i64::from(id)).collect();
        let ids = TensorData::new(ids, [1, new.len()]);
        let ids = Tensor::<2, Int>::from_data(ids, &self.device());
        let mut hidden_states = self.embed(ids);
        let blocks = self.model.layers.iter().zip(cache.layers());
        for (layer, (block, cache)) in blocks.enumerate() {
            hidden_states = block.forward_cached(hidden_states, layer, cache, &pass);
        }
        cache.add(new);
        let last = hidden_states.narrow(1, new.len() - 1, 1);
        self.final_norm(last).squeeze_dim(1)
    }

    /// Reads a long text `chunk` tokens at a time, so that activations are those of a chunk. A streaming cache takes at
    /// most a quarter of its window at a time.
    ///
    /// # Shapes
    /// - result: `[1, hidden_size]`, of the last token
    ///
    /// # Panics
    /// As [`Llama::advance`].
    pub fn prefill(&self, new: &[u32], cache: &mut KvCache, chunk: usize) -> Tensor<2> {
        assert!(!new.is_empty(), "needs at least one token to read");
        let chunk = cache.chunk(chunk);
        self.plan(new.len(), cache, chunk);
        let (before, last) = new.split_at((new.len() - 1) / chunk * chunk);
        for tokens in before.chunks(chunk) {
            self.read(tokens, cache);
        }
        self.read(last, cache)
    }
}
