//! The model.

use burn::module::Module;
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::module::embedding;
use burn::tensor::{Device, Int, Tensor};
use longlora_adapters::{RopeOffset, Rotary};
use longlora_attention::{AttentionPattern, Layout};
use longlora_kernels::linear;

use crate::block::Block;
use crate::compute::{ComputeType, in_type};
use crate::config::LlamaConfig;
use crate::norm::normed;
use crate::pass::Pass;

/// A model with its head: Hugging Face's `LlamaForCausalLM` and its relatives, with the same names.
#[derive(Module, Debug)]
pub struct Llama {
    /// Everything but the head.
    pub model: LlamaModel,
    /// `[hidden_size, vocab_size]`; `None` where the embedding table is the head.
    pub lm_head: Option<Linear>,
    /// Sizes, options, and the position embedding in force.
    #[module(skip)]
    pub config: LlamaConfig,
    /// The type of the activations.
    #[module(skip)]
    pub compute: ComputeType,
}

/// Embeddings, blocks and the last norm.
#[derive(Module, Debug)]
pub struct LlamaModel {
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<Block>,
    /// The last norm.
    pub norm: RmsNorm,
    /// Learnable RoPE offsets that all layers share.
    pub rope_offset: Option<RopeOffset>,
}

impl Llama {
    /// The device of the weights, which need not have been drawn or read yet.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.lazy_device()
    }

    /// Prepares a forward over a batch that lies as `layout` says.
    pub fn pass(&self, pattern: AttentionPattern, layout: &Layout) -> Pass {
        let rotary = Rotary::new(&self.config.rope, layout.seq, &self.device());
        let shared_offset = self.model.rope_offset.clone();
        Pass::new(pattern.plan(layout), &self.config.windows, rotary, shared_offset)
    }

    /// The rows of the embedding table, in the type that the model computes in, however the table is kept.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`; result: `[batch, seq, hidden_size]`
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let rows = embedding(self.model.embed_tokens.weight.val(), ids);
        in_type(rows, self.compute.dtype())
    }

    /// The same weights, computing in another type.
    pub fn computing_in(self, compute: ComputeType) -> Self {
        Self { compute, ..self }
    }

    /// Final hidden states, after the last norm.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`; result: `[batch, seq, hidden_size]`
    pub fn hidden(&self, ids: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        let mut hidden_states = self.embed(ids);
        for (layer, block) in self.model.layers.iter().enumerate() {
            hidden_states = block.forward(hidden_states, layer, pass);
        }
        self.final_norm(hidden_states)
    }

    /// The last norm: from what the blocks leave to the final hidden states.
    ///
    /// # Shapes
    /// - `hidden_states`, result: `[batch, seq, hidden_size]`
    pub fn final_norm(&self, hidden_states: Tensor<3>) -> Tensor<3> {
        normed(hidden_states, &self.model.norm)
    }

    /// Scores of every next token, all at once: for tests and short inputs.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`; result: `[batch, seq, vocab_size]`
    pub fn logits(&self, ids: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        let hidden_states = self.hidden(ids, pass);
        let [batch, seq, hidden_size] = hidden_states.dims();
        let logits = self.scores(hidden_states.reshape([batch * seq, hidden_size]));
        let vocab_size = logits.dims()[1];
        logits.reshape([batch, seq, vocab_size])
    }

    /// Scores of every next token after some tokens, from their final hidden states.
    ///
    /// # Shapes
    /// - `hidden`: `[tokens, hidden_size]`; result: `[tokens, vocab_size]`
    pub fn scores(&self, hidden: Tensor<2>) -> Tensor<2> {
        linear(hidden, self.head())
    }

    /// The head's matrix, tied or not: `[hidden_size, vocab_size]`.
    pub fn head(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val().transpose(),
        }
    }
}
