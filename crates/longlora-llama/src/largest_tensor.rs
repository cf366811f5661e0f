//! The largest tensor of a training step.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor};
use longlora_kernels::nf4;

use crate::block::TOKENS_PER_TILE;
use crate::llama::Llama;

const F32: usize = size_of::<f32>();

/// Bytes of the largest tensor that a training step over `tokens` tokens holds: some devices bind no larger ones, however much
/// memory they have.
///
/// Weights are counted in f32, to which they are widened, the gradients by keys and values as the one allocation that they are.
pub fn largest_tensor(llama: &Llama, tokens: usize) -> u64 {
    let config = &llama.config;
    let activation = llama.compute.dtype().size();
    let of_queries = config.num_attention_heads * config.rope.head_dim;
    let of_keys_and_values = 2 * config.num_key_value_heads * config.rope.head_dim;
    let per_token = config.hidden_size.max(of_queries).max(of_keys_and_values);
    let tile = tokens.min(TOKENS_PER_TILE) * config.intermediate_size;
    let logits = longlora_kernels::logits_at_once(&llama.device());
    let logits = logits.min(tokens.saturating_mul(config.vocab_size)).max(config.vocab_size);
    let activations = tokens.saturating_mul(per_token).max(tile).saturating_mul(activation);
    let mut weights = Largest(0);
    llama.visit(&mut weights);
    activations.max(logits.max(weights.0).saturating_mul(F32)) as u64
}

/// Numbers of the largest parameter.
struct Largest(usize);

impl ModuleVisitor for Largest {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 = self.0.max(param.lazy_shape().num_elements());
    }

    /// Blocks of NF4.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0 = self.0.max(nf4::width(param.lazy_shape().num_elements()));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use serde_json::json;

    use super::*;
    use crate::config::LlamaConfig;

    #[test]
    fn what_grows_with_the_text_is_the_largest_in_the_end() {
        let config = json!({ "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 1000,
            "max_position_embeddings": 512 });
        let config = config.as_object().unwrap().clone();
        let llama = LlamaConfig::from_hugging_face(config, Path::new("config.json")).unwrap();
        let llama = llama.init(&Device::flex());
        // The embedding table, the logits of ten and of a hundred tokens, keys and values.
        assert_eq!(largest_tensor(&llama, 10), 4 * 64 * 1000);
        assert_eq!(largest_tensor(&llama, 100), 4 * 100 * 1000);
        assert_eq!(largest_tensor(&llama, 10_000_000), 4 * 10_000_000 * 128);
    }
}
