//! A model with random weights.

use burn::nn::{EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::Device;
use longlora_adapters::LoraLinear;

use crate::attention::SelfAttention;
use crate::block::Block;
use crate::compute::ComputeType;
use crate::config::LlamaConfig;
use crate::experts::Experts;
use crate::feed_forward::FeedForward;
use crate::llama::{Llama, LlamaModel};
use crate::mlp::Mlp;

/// As transformers draws them.
const INITIALIZER: Initializer = Initializer::Normal { mean: 0.0, std: 0.02 };

impl LlamaConfig {
    /// A model with random weights, drawn as transformers does: normal with deviation 0.02, norms one.
    pub fn init(&self, device: &Device) -> Llama {
        let linear = |shape| linear(shape, false, device);
        let layers = (0..self.num_hidden_layers).map(|_| Block {
            self_attn: self.init_attention(device),
            mlp: self.init_feed_forward(device),
            input_layernorm: self.init_norm(self.hidden_size, device),
            post_attention_layernorm: self.init_norm(self.hidden_size, device),
        });
        let model = LlamaModel {
            embed_tokens: EmbeddingConfig::new(self.vocab_size, self.hidden_size)
                .with_initializer(INITIALIZER)
                .init(device),
            layers: layers.collect(),
            norm: self.init_norm(self.hidden_size, device),
            rope_offset: None,
        };
        let lm_head =
            (!self.tie_word_embeddings).then(|| linear([self.hidden_size, self.vocab_size]));
        Llama { model, lm_head, config: self.clone(), compute: ComputeType::F32 }
    }

    fn init_attention(&self, device: &Device) -> SelfAttention {
        let (hidden, head_dim) = (self.hidden_size, self.rope.head_dim);
        let q_width = self.num_attention_heads * head_dim;
        let kv_width = self.num_key_value_heads * head_dim;
        let projection = |shape, bias| LoraLinear::new(linear(shape, bias, device));
        let norm = || self.qk_norm.then(|| self.init_norm(head_dim, device));
        SelfAttention {
            q_proj: projection([hidden, q_width], self.qkv_bias),
            k_proj: projection([hidden, kv_width], self.qkv_bias),
            v_proj: projection([hidden, kv_width], self.qkv_bias),
            o_proj: projection([q_width, hidden], self.output_bias),
            q_norm: norm(),
            k_norm: norm(),
            rope_offset: None,
            head_dim,
        }
    }

    fn init_feed_forward(&self, device: &Device) -> FeedForward {
        match self.experts {
            None => FeedForward::Dense(self.init_mlp(device)),
            Some(experts) => FeedForward::Experts(Experts {
                gate: linear([self.hidden_size, experts.count], false, device),
                experts: (0..experts.count).map(|_| self.init_mlp(device)).collect(),
                per_token: experts.per_token,
            }),
        }
    }

    fn init_mlp(&self, device: &Device) -> Mlp {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let layer = |shape| LoraLinear::new(linear(shape, self.mlp_bias, device));
        Mlp {
            gate_proj: layer([hidden, intermediate]),
            up_proj: layer([hidden, intermediate]),
            down_proj: layer([intermediate, hidden]),
        }
    }

    fn init_norm(&self, width: usize, device: &Device) -> RmsNorm {
        RmsNormConfig::new(width).with_epsilon(self.rms_norm_eps).init(device)
    }
}

/// Biases are zero at first.
fn linear([d_input, d_output]: [usize; 2], bias: bool, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(d_input, d_output)
        .with_bias(false)
        .with_initializer(INITIALIZER)
        .init(device);
    linear.bias = bias.then(|| Initializer::Zeros.init([d_output], device));
    linear
}
