//! Against `transformers` 4.57.1, f32, on a CPU: tiny random models of every family.

use longlora_attention::AttentionPattern;

use crate::fixture::{Vectors, golden};
use crate::golden_tiny::check_model;

/// Logits, loss and every gradient.
#[track_caller]
fn check(family: &str) {
    let folder = golden(&format!("families/{family}"));
    let vectors = Vectors::read(&folder.join("golden.safetensors"));
    check_model(family, &folder, &vectors, AttentionPattern::Full);
}

#[test]
fn a_llama_whose_table_is_its_head() {
    check("llama_tied");
}

/// The window comes from the config: the pattern asked for is full attention.
#[test]
fn mistral_with_a_sliding_window() {
    check("mistral_window");
}

#[test]
fn qwen2_with_biases() {
    check("qwen2");
}

#[test]
fn qwen3_with_normed_heads_of_a_width_of_their_own() {
    check("qwen3");
}

#[test]
fn mixtral_with_four_experts() {
    check("mixtral");
}
