//! A model's sizes, in a GGUF file's metadata.

use longlora_gguf::{GgufFile, Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::rope;
use super::shortest::shortest;
use crate::config::LlamaConfig;
use crate::error::LlamaError;

/// An architecture of llama.cpp, with what Hugging Face calls it.
struct Architecture {
    name: &'static str,
    class: &'static str,
    model_type: &'static str,
}

const LLAMA: Architecture =
    Architecture { name: "llama", class: "LlamaForCausalLM", model_type: "llama" };
/// llama.cpp knows Mistral and Mixtral as LLaMAs.
const MISTRAL: Architecture =
    Architecture { name: "llama", class: "MistralForCausalLM", model_type: "mistral" };
const MIXTRAL: Architecture =
    Architecture { name: "llama", class: "MixtralForCausalLM", model_type: "mixtral" };
const QWEN2: Architecture =
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", model_type: "qwen2" };
const QWEN3: Architecture =
    Architecture { name: "qwen3", class: "Qwen3ForCausalLM", model_type: "qwen3" };

/// llama.cpp's name of a model's architecture, if it has one.
pub(super) fn architecture(config: &LlamaConfig) -> Option<&'static str> {
    let all = [LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3];
    let known = all.into_iter().find(|known| known.model_type == config.model_type);
    known.map(|known| known.name)
}

/// What `config.json` would say of the model in `file`.
pub(super) fn read(file: &mut GgufFile) -> Result<LlamaConfig, LlamaError> {
    let path = file.path().to_owned();
    let architecture = read_architecture(file)?;
    refuse_unknown_keys(file, architecture.name)?;
    let mut config = sizes(file, &architecture)?;
    config.extend(rope::read(file, architecture.name, &config)?);
    LlamaConfig::from_hugging_face(config, &path)
}

fn read_architecture(file: &GgufFile) -> Result<Architecture, LlamaError> {
    let metadata = file.metadata();
    let key = "general.architecture";
    let name = metadata.string(key)?.ok_or_else(|| metadata.missing(key))?;
    let experts = metadata.unsigned("llama.expert_count")?.unwrap_or(0);
    match name {
        "llama" if experts > 0 => Ok(MIXTRAL),
        "llama" if metadata.unsigned("llama.attention.sliding_window")?.is_some() => Ok(MISTRAL),
        "llama" => Ok(LLAMA),
        "qwen2" => Ok(QWEN2),
        "qwen3" => Ok(QWEN3),
        other => Err(LlamaError::Unsupported {
            path: file.path().to_owned(),
            key,
            value: other.to_owned(),
            supported: "supported are `llama`, `qwen2` and `qwen3`",
        }),
    }
}

/// What a file may say of its model beside RoPE. The last ones change nothing that is computed.
const KNOWN: [&str; 17] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "expert_count",
    "expert_used_count",
    "vocab_size",
    "tensor_data_layout",
    "attention.layer_norm_epsilon",
    "expert_feed_forward_length",
    "attention.causal",
];

/// A scale or a cap that we would ignore makes another model; a part of a model is none.
fn refuse_unknown_keys(file: &GgufFile, architecture: &str) -> Result<(), LlamaError> {
    if let Some(parts) = file.metadata().unsigned("split.count")?.filter(|&parts| parts > 1) {
        return Err(LlamaError::Unsupported {
            path: file.path().to_owned(),
            key: "split.count",
            value: parts.to_string(),
            supported: "join the parts with llama.cpp's `llama-gguf-split --merge`",
        });
    }
    let prefix = format!("{architecture}.");
    let own = file.metadata().iter().filter_map(|(key, _)| key.strip_prefix(&prefix));
    let known = |key: &str| KNOWN.contains(&key) || rope::KEYS.contains(&key);
    match own.into_iter().find(|key| !known(key)) {
        None => Ok(()),
        Some(key) => Err(LlamaError::UnknownKey {
            path: file.path().to_owned(),
            key: format!("{prefix}{key}"),
        }),
    }
}

/// The token that ends a text, and those that end a turn or a message.
fn end_tokens(metadata: &Metadata) -> Result<Value, LlamaError> {
    let mut ids = vec![];
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ids.extend(metadata.unsigned(&format!("tokenizer.ggml.{name}"))?);
    }
    ids.dedup();
    Ok(match ids[..] {
        [] => Value::Null,
        [id] => id.into(),
        _ => ids.into(),
    })
}

/// Everything but the position embedding.
fn sizes(file: &GgufFile, architecture: &Architecture) -> Result<Map<String, Value>, LlamaError> {
    let metadata = file.metadata();
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let optional = |name: &str| metadata.unsigned(&key(name));
    let needed = |name: &str| optional(name)?.ok_or_else(|| metadata.missing(&key(name)));
    let tensor = |name: &str| file.tensor(name).is_some();

    let heads = needed("attention.head_count")?;
    let hidden_size = needed("embedding_length")?;
    let head_dim = match (optional("attention.key_length")?, optional("rope.dimension_count")?) {
        (Some(width), _) | (None, Some(width)) => width,
        (None, None) => hidden_size / heads.max(1),
    };
    let rotated = optional("rope.dimension_count")?.unwrap_or(head_dim);
    let table = file.tensor("token_embd.weight").ok_or_else(|| LlamaError::Missing {
        path: file.path().to_owned(),
        tensor: "token_embd.weight".to_owned(),
    })?;
    let epsilon = key("attention.layer_norm_rms_epsilon");
    let epsilon = metadata.number(&epsilon)?.ok_or_else(|| metadata.missing(&epsilon))?;
    let config = json!({
        "architectures": [architecture.class],
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": needed("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": optional("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "partial_rotary_factor": rotated as f64 / head_dim.max(1) as f64,
        "max_position_embeddings": needed("context_length")?,
        "rms_norm_eps": shortest(epsilon),
        "vocab_size": table.shape[0],
        "tie_word_embeddings": !tensor("output.weight"),
        "attention_bias": architecture.name == "llama" && tensor("blk.0.attn_q.bias"),
        "mlp_bias": tensor("blk.0.ffn_up.bias"),
        "sliding_window": optional("attention.sliding_window")?,
        "num_local_experts": optional("expert_count")?,
        "num_experts_per_tok": optional("expert_used_count")?,
        "bos_token_id": metadata.unsigned("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": end_tokens(metadata)?,
        "pad_token_id": metadata.unsigned("tokenizer.ggml.padding_token_id")?,
    });
    let Value::Object(mut config) = config else { unreachable!("the literal is an object") };
    config.retain(|_, value| !value.is_null());
    config.retain(|key, value| key != "partial_rotary_factor" || *value != json!(1.0));
    if architecture.model_type == "mistral" || architecture.model_type == "mixtral" {
        // Absent would be transformers' default.
        config.entry("sliding_window").or_insert(Value::Null);
    }
    Ok(config)
}

/// The metadata that says of `config` what llama.cpp needs.
pub(super) fn write(config: &LlamaConfig, architecture: &str, metadata: &mut Metadata) {
    let mut put = |name: &str, value| metadata.insert(format!("{architecture}.{name}"), value);
    let mut count = |name, count: usize| put(name, Entry::U32(count as u32));
    count("vocab_size", config.vocab_size);
    count("context_length", config.rope.stated_context());
    count("embedding_length", config.hidden_size);
    count("block_count", config.num_hidden_layers);
    count("feed_forward_length", config.intermediate_size);
    count("attention.head_count", config.num_attention_heads);
    count("attention.head_count_kv", config.num_key_value_heads);
    count("attention.key_length", config.rope.head_dim);
    count("attention.value_length", config.rope.head_dim);
    if let Some(experts) = config.experts {
        count("expert_count", experts.count);
        count("expert_used_count", experts.per_token);
    }
    put("attention.layer_norm_rms_epsilon", Entry::F32(config.rms_norm_eps as f32));
}
