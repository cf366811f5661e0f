//! What the tests of several files need.

use std::path::Path;

use burn::tensor::Device;
use longlora_llama::{Llama, LlamaConfig};
use serde_json::{Value, json};

/// Three blocks with random weights, all of them trained; the head is not the embedding table.
pub(crate) fn tiny() -> Llama {
    let Value::Object(config) = json!({
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 31, "max_position_embeddings": 64, "tie_word_embeddings": false,
    }) else {
        unreachable!("the literal is an object")
    };
    let config = LlamaConfig::from_hugging_face(config, Path::new("config.json")).unwrap();
    config.init(&Device::flex().autodiff()).train_all()
}
