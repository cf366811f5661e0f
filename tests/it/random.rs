//! Random models and batches, from seeds.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use longlora_data::Window;
use longlora_llama::{Llama, LlamaConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// The smallest LLaMA whose sizes all differ, with some of its `config.json` changed.
pub(crate) fn config(changes: Value) -> LlamaConfig {
    let Value::Object(mut config) = json!({
        "model_type": "llama",
        "vocab_size": 37,
        "hidden_size": 20,
        "intermediate_size": 28,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
    }) else {
        unreachable!("the literal is an object")
    };
    let Value::Object(changes) = changes else { panic!("needs an object, got {changes}") };
    config.extend(changes);
    LlamaConfig::from_hugging_face(config, Path::new("config.json")).unwrap()
}

/// Draws every parameter of a model anew, adapters included: B matrices and RoPE offsets are not zero, norms not one.
pub(crate) fn redraw(llama: Llama, seed: u64) -> Llama {
    llama.map(&mut Redraw { random: ChaCha8Rng::seed_from_u64(seed), path: vec![] })
}

struct Redraw {
    random: ChaCha8Rng,
    path: Vec<String>,
}

impl ModuleMapper for Redraw {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        // Uniform with variance 1 / d_input, so that activations neither fade nor explode.
        let of_matrix = (3.0 / shape[0] as f32).sqrt();
        let (center, spread) = match self.path.last().map(String::as_str) {
            Some("gamma" | "magnitude") => (1.0, 0.3),
            Some("delta") => (0.0, 0.5),
            _ if self.path.iter().any(|name| name == "embed_tokens") => (0.0, 1.0),
            _ => (0.0, of_matrix),
        };
        let entries = (0..shape.num_elements())
            .map(|_| center + self.random.random_range(-spread..spread))
            .collect::<Vec<f32>>();
        let tensor = Tensor::from_data(TensorData::new(entries, shape), &param.lazy_device());
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

/// Random token ids below `vocab`.
pub(crate) fn tokens(length: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..length).map(|_| random.random_range(0..vocab as u32)).collect()
}

/// A window of random tokens, with documents that begin at `starts`.
pub(crate) fn window(length: usize, starts: &[usize], vocab: usize, seed: u64) -> Window {
    Window::new(tokens(length, vocab, seed), starts.to_vec())
}
