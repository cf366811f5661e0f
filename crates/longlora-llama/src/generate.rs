//! Writing on, token by token.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::advance::PREFILL_CHUNK;
use crate::cache::{CacheKind, KvCache, Streaming};
use crate::llama::Llama;
use crate::sampling::{Sampler, Sampling};

/// How a text is continued.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to add at most.
    pub max_new_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Tokens that a token sees at most, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// For text without an end: what stays in the cache. Goes without `window`.
    pub streaming: Option<Streaming>,
    /// Tokens that end the text, beside those that the model's config names: the one that its tokenizer calls the end, where
    /// the config forgot it.
    pub eos_token_ids: Vec<u32>,
    /// Tokens of the prompt that are read at once; more of them need more memory, not less time.
    pub prefill_chunk: usize,
}

/// 64 of the likeliest tokens.
impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            sampling: Sampling::default(),
            window: None,
            streaming: None,
            eos_token_ids: vec![],
            prefill_chunk: PREFILL_CHUNK,
        }
    }
}

/// What was added to a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, without one that ends the text.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub stop: StopReason,
}

/// Why a text was not continued further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended it.
    EndOfText,
    /// It has as many new tokens as were asked for.
    Length,
    /// The caller wanted no more.
    Stopped,
    /// The scores of the next token are not finite numbers: there is none to choose. A weight is damaged, or a number of the
    /// config makes no sense.
    NotFinite,
}

impl GenerateOptions {
    /// What a cache for a text of `prompt` tokens and its continuation keeps.
    pub fn cache_kind(&self, prompt: usize) -> CacheKind {
        match self.streaming {
            Some(streaming) => CacheKind::Streaming(streaming),
            None => {
                let length = prompt.saturating_add(self.max_new_tokens);
                CacheKind::Whole { length, window: self.window }
            }
        }
    }
}

impl Llama {
    /// Continues `prompt`. Each new token goes to `on_token` as soon as it is known, but for one that ends the text.
    ///
    /// Dynamic and longrope take their frequencies for the text as it is, not as it may become; see [`KvCache`].
    ///
    /// # Panics
    /// If `prompt` is empty or holds ids outside the vocabulary, the model tracks gradients, or the sampling is none by
    /// [`Sampling::validate`].
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Generated {
        let mut cache = self.cache(options.cache_kind(prompt.len()));
        self.generate_after(prompt, &mut cache, options, on_token)
    }

    /// Reads `new` after the tokens of the cache, and continues it: a turn of a conversation. Of the options, those that
    /// describe a cache do not count.
    ///
    /// The last new token is known, but not read: it is not in the cache.
    ///
    /// # Panics
    /// As [`Llama::generate`], or if the cache cannot hold all tokens.
    pub fn generate_after(
        &self,
        new: &[u32],
        cache: &mut KvCache,
        options: &GenerateOptions,
        on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Generated {
        let mut hidden = self.prefill(new, cache, options.prefill_chunk);
        let mut text = cache.tokens().to_vec();
        self.write(&mut text, options, on_token, |text| {
            if let [.., last] = text
                && text.len() > cache.tokens().len()
            {
                hidden = self.advance(&[*last], cache);
            }
            hidden.clone()
        })
    }

    /// Chooses tokens until there is a reason to stop; `read` returns the hidden state of the last token of a text.
    pub(crate) fn write(
        &self,
        text: &mut Vec<u32>,
        options: &GenerateOptions,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
        mut read: impl FnMut(&[u32]) -> Tensor<2>,
    ) -> Generated {
        let prompt = text.len();
        if let Err(error) = options.sampling.validate() {
            panic!("{error}");
        }
        let mut sampler = Sampler::new(&options.sampling);
        let mut stop = StopReason::Length;
        while text.len() - prompt < options.max_new_tokens {
            let logits = self.next_logits(read(text));
            if !logits.iter().all(|logit| logit.is_finite()) {
                stop = StopReason::NotFinite;
                break;
            }
            let next = sampler.next(logits, text);
            if self.config.eos_token_ids.contains(&next) || options.eos_token_ids.contains(&next) {
                stop = StopReason::EndOfText;
                break;
            }
            text.push(next);
            if on_token(next).is_break() {
                stop = StopReason::Stopped;
                break;
            }
        }
        Generated { ids: text.split_off(prompt), stop }
    }

    /// The scores of every next token; `hidden`: `[1, hidden_size]`.
    ///
    /// A tied head is a transposed view of the embedding table: it is multiplied as it lies, and not copied.
    fn next_logits(&self, hidden: Tensor<2>) -> Vec<f32> {
        self.scores(hidden).into_data().iter().collect()
    }
}
