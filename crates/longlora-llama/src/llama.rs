//! The model.

use burn::module::Module;
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig,
};
use burn::tensor::{Device, Int, Tensor};
use longlora_adapters::{LoraLinear, RopeOffset, Rotary};
use longlora_attention::{AttentionPattern, Layout};

use crate::attention::SelfAttention;
use crate::block::Block;
use crate::config::LlamaConfig;
use crate::mlp::Mlp;
use crate::pass::Pass;

/// A LLaMA with its head: Hugging Face's `LlamaForCausalLM`, with the same names.
#[derive(Module, Debug)]
pub struct Llama {
    /// Everything but the head.
    pub model: LlamaModel,
    /// `[hidden_size, vocab_size]`; `None` where the embedding table is the head.
    pub lm_head: Option<Linear>,
    /// Sizes, options, and the position embedding in force.
    #[module(skip)]
    pub config: LlamaConfig,
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

impl LlamaConfig {
    /// A model with random weights, drawn as transformers does: normal with deviation 0.02, norms one.
    pub fn init(&self, device: &Device) -> Llama {
        let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
        let linear = |d_input, d_output| {
            LinearConfig::new(d_input, d_output)
                .with_bias(false)
                .with_initializer(initializer.clone())
                .init(device)
        };
        let projection = |d_input, d_output| LoraLinear::new(linear(d_input, d_output));
        let norm =
            || RmsNormConfig::new(self.hidden_size).with_epsilon(self.rms_norm_eps).init(device);
        let head_dim = self.rope.head_dim;
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let (q_width, kv_width) =
            (self.num_attention_heads * head_dim, self.num_key_value_heads * head_dim);
        let layers = (0..self.num_hidden_layers).map(|_| Block {
            self_attn: SelfAttention {
                q_proj: projection(hidden, q_width),
                k_proj: projection(hidden, kv_width),
                v_proj: projection(hidden, kv_width),
                o_proj: projection(q_width, hidden),
                rope_offset: None,
                head_dim,
            },
            mlp: Mlp {
                gate_proj: projection(hidden, intermediate),
                up_proj: projection(hidden, intermediate),
                down_proj: projection(intermediate, hidden),
            },
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
        });
        let model = LlamaModel {
            embed_tokens: EmbeddingConfig::new(self.vocab_size, hidden)
                .with_initializer(initializer.clone())
                .init(device),
            layers: layers.collect(),
            norm: norm(),
            rope_offset: None,
        };
        let lm_head = (!self.tie_word_embeddings).then(|| linear(hidden, self.vocab_size));
        Llama { model, lm_head, config: self.clone() }
    }
}

impl Llama {
    /// The device of the weights, which need not have been drawn or read yet.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.lazy_device()
    }

    /// Prepares a forward over a batch that lies as `layout` says.
    pub fn pass(&self, pattern: AttentionPattern, layout: &Layout) -> Pass {
        let rotary = Rotary::new(&self.config.rope, layout.seq, &self.device());
        Pass::new(pattern.plan(layout), rotary, self.model.rope_offset.clone())
    }

    /// Final hidden states, after the last norm.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`; result: `[batch, seq, hidden_size]`
    pub fn hidden(&self, ids: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        let mut hidden_states = self.model.embed_tokens.forward(ids);
        for (layer, block) in self.model.layers.iter().enumerate() {
            hidden_states = block.forward(hidden_states, layer, pass);
        }
        self.model.norm.forward(hidden_states)
    }

    /// Scores of every next token, all at once: for tests and short inputs.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]`; result: `[batch, seq, vocab_size]`
    pub fn logits(&self, ids: Tensor<2, Int>, pass: &Pass) -> Tensor<3> {
        let hidden_states = self.hidden(ids, pass);
        hidden_states.matmul(self.head().unsqueeze())
    }

    /// The head's matrix, tied or not: `[hidden_size, vocab_size]`.
    pub fn head(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val().transpose(),
        }
    }
}
