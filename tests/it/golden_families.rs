//! Against `transformers` 4.57.1, f32, on a CPU: tiny random models of every family.

use burn::tensor::Device;
use longlora_adapters::{AdapterConfig, TargetModule};
use longlora_attention::AttentionPattern;
use longlora_llama::{Family, LlamaConfig, Setting, load_weights};

use crate::fixture::{self, Vectors, golden};
use crate::golden_tiny::{check_llama, check_model};

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

/// A family that the commands do not know, as `docs/custom-models.md` adds it.
#[test]
fn a_family_of_ones_own() {
    const SEED_OSS: Family = Family {
        model_type: "seed_oss",
        qkv_bias: Setting::Key("attention_bias"),
        output_bias: Setting::Key("attention_out_bias"),
        num_key_value_heads: Some(8),
        ..Family::LLAMA
    };
    let folder = golden("families/seed_oss");
    let path = folder.join("config.json");
    let serde_json::Value::Object(config) = fixture::json(&path) else { panic!("no object") };
    assert!(LlamaConfig::read(&folder).unwrap_err().to_string().contains("`seed_oss`"));

    let config = LlamaConfig::from_family(SEED_OSS, config, &path).unwrap();
    let llama = load_weights(&config, &folder, &Device::default().autodiff()).unwrap();

    let vectors = Vectors::read(&folder.join("golden.safetensors"));
    check_llama("seed_oss", llama.train_all(), &vectors, AttentionPattern::Full);
}

/// Experts take no LoRA, and are not passed over in silence.
#[test]
fn layers_that_a_model_does_not_have_are_no_targets() {
    let mixtral = LlamaConfig::read(&golden("families/mixtral")).unwrap();
    let mut adapters = AdapterConfig::longlora();
    mixtral.check_adapters(&adapters).unwrap();
    adapters.lora.as_mut().unwrap().target_modules = TargetModule::ALL.to_vec();
    let error = mixtral.check_adapters(&adapters).unwrap_err().to_string();
    assert!(error.contains("`mixtral`") && error.contains("`gate_proj`"), "{error}");
    let llama = LlamaConfig::read(&golden("families/llama_tied")).unwrap();
    llama.check_adapters(&adapters).unwrap();
}
