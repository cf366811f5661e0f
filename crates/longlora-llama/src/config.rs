//! The architecture, as Hugging Face's `config.json` describes it.

use std::path::Path;

use longlora_adapters::RopeConfig;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::LlamaError;

/// A LLaMA's sizes and options.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads per block.
    pub num_attention_heads: usize,
    /// Key and value heads per block.
    pub num_key_value_heads: usize,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Added to the mean square under the root of each norm; 1e-6 in LLaMA-1, 1e-5 since.
    pub rms_norm_eps: f64,
    /// Whether the head is the transposed embedding table.
    pub tie_word_embeddings: bool,
    /// Position embedding, with the width of a head.
    pub rope: RopeConfig,
    /// Token with which a document begins.
    pub bos_token_id: Option<u32>,
    /// Tokens with which a text ends.
    pub eos_token_ids: Vec<u32>,
    /// The whole of `config.json`, for writing it again.
    pub(crate) hugging_face: Map<String, Value>,
}

/// The keys that we read; every other one is kept and written again.
#[derive(Deserialize)]
struct HuggingFaceConfig {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    /// transformers' `LlamaConfig` default.
    #[serde(default = "default_rms_norm_eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    partial_rotary_factor: Option<f64>,
    sliding_window: Option<usize>,
    bos_token_id: Option<u32>,
    #[serde(default)]
    eos_token_id: TokenIds,
}

/// One token id, several, or none.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum TokenIds {
    #[default]
    None,
    One(u32),
    Several(Vec<u32>),
}

fn default_rms_norm_eps() -> f64 {
    1e-6
}

fn default_hidden_act() -> String {
    "silu".to_owned()
}

impl LlamaConfig {
    /// Reads the `config.json` of a model folder.
    ///
    /// # Errors
    /// [`LlamaError`], if there is none, or if it asks for something that we would have to ignore.
    pub fn read(model: &Path) -> Result<Self, LlamaError> {
        let path = model.join("config.json");
        std::fs::metadata(model).map_err(LlamaError::file("open", model))?;
        if !path.exists() {
            return Err(LlamaError::NotAModel { path: model.to_owned(), missing: "config.json" });
        }
        let text = std::fs::read_to_string(&path).map_err(LlamaError::file("read", &path))?;
        let json = |source| LlamaError::Json { path: path.clone(), source };
        Self::from_hugging_face(serde_json::from_str(&text).map_err(json)?, &path)
    }

    /// From the contents of a `config.json`; `path` is for error messages.
    ///
    /// # Errors
    /// [`LlamaError`], if it asks for something that we would have to ignore.
    pub fn from_hugging_face(
        hugging_face: Map<String, Value>,
        path: &Path,
    ) -> Result<Self, LlamaError> {
        let raw: HuggingFaceConfig = serde_json::from_value(Value::Object(hugging_face.clone()))
            .map_err(|source| LlamaError::Json { path: path.to_owned(), source })?;
        raw.refuse_what_we_would_ignore(path)?;
        let invalid = |reason: String| LlamaError::Config { path: path.to_owned(), reason };
        let kv_heads = raw.num_key_value_heads.unwrap_or(raw.num_attention_heads);
        if raw.num_attention_heads == 0 || raw.num_hidden_layers == 0 || raw.vocab_size == 0 {
            return Err(invalid("it has no heads, layers or vocabulary".to_owned()));
        }
        if kv_heads == 0 || !raw.num_attention_heads.is_multiple_of(kv_heads) {
            let heads = raw.num_attention_heads;
            return Err(invalid(format!(
                "`num_attention_heads` `{heads}` is no multiple of `num_key_value_heads` `{kv_heads}`"
            )));
        }
        let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads);
        let rope = RopeConfig::from_hugging_face(head_dim, &hugging_face)
            .and_then(|rope| rope.validate().map(|()| rope))
            .map_err(|source| LlamaError::Rope { path: path.to_owned(), source })?;
        Ok(Self {
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            num_key_value_heads: kv_heads,
            vocab_size: raw.vocab_size,
            rms_norm_eps: raw.rms_norm_eps,
            tie_word_embeddings: raw.tie_word_embeddings,
            rope,
            bos_token_id: raw.bos_token_id,
            eos_token_ids: match raw.eos_token_id {
                TokenIds::None => vec![],
                TokenIds::One(id) => vec![id],
                TokenIds::Several(ids) => ids,
            },
            hugging_face,
        })
    }

    /// The contents of a `config.json` that says the same, the RoPE parameters included.
    pub fn to_hugging_face(&self) -> Map<String, Value> {
        let mut config = self.hugging_face.clone();
        self.rope.write_hugging_face(&mut config);
        config
    }

    /// `1 / √head_dim`
    pub fn softmax_scale(&self) -> f32 {
        1.0 / (self.rope.head_dim as f32).sqrt()
    }
}

impl HuggingFaceConfig {
    fn refuse_what_we_would_ignore(&self, path: &Path) -> Result<(), LlamaError> {
        let refuse = |key, value: String, supported| {
            Err(LlamaError::Unsupported { path: path.to_owned(), key, value, supported })
        };
        if self.model_type != "llama" {
            return refuse("model_type", self.model_type.clone(), "supported is `llama`");
        }
        if self.hidden_act != "silu" {
            return refuse("hidden_act", self.hidden_act.clone(), "supported is `silu`");
        }
        if self.attention_bias {
            return refuse("attention_bias", "true".to_owned(), "supported is `false`");
        }
        if self.mlp_bias {
            return refuse("mlp_bias", "true".to_owned(), "supported is `false`");
        }
        if let Some(factor) = self.partial_rotary_factor
            && factor != 1.0
        {
            return refuse("partial_rotary_factor", factor.to_string(), "supported is `1`");
        }
        if let Some(window) = self.sliding_window {
            return refuse("sliding_window", window.to_string(), "supported is none");
        }
        Ok(())
    }
}
