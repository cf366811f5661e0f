//! The architecture, as Hugging Face's `config.json` describes it.

mod written;

use std::path::Path;

use longlora_adapters::RopeConfig;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::LlamaError;
use crate::family::{Family, Setting, WindowRule};
use crate::gguf;

/// A model's sizes and options.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Hugging Face's name of the family.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP, or of one expert.
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
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether o has a bias.
    pub output_bias: bool,
    /// Whether the layers of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether each head of q and k is normed before it is rotated.
    pub qk_norm: bool,
    /// Tokens that a query of each layer sees at most, itself included; `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// Sizes of the mixture of experts; `None` is one MLP.
    pub experts: Option<ExpertsConfig>,
    /// Position embedding, with the width of a head.
    pub rope: RopeConfig,
    /// Token with which a document begins.
    pub bos_token_id: Option<u32>,
    /// Tokens with which a text ends.
    pub eos_token_ids: Vec<u32>,
    /// The whole of `config.json`, for writing it again.
    hugging_face: Map<String, Value>,
    /// What the public fields were when they were read.
    as_read: written::Fields,
}

/// Sizes of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// Experts per block.
    pub count: usize,
    /// Experts that compute each token.
    pub per_token: usize,
}

/// The keys that we read; every other one is kept and written again.
#[derive(Deserialize)]
struct HuggingFaceConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: Option<f64>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "default_hidden_act")]
    hidden_act: String,
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
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

impl TokenIds {
    fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::None => vec![],
            Self::One(id) => vec![*id],
            Self::Several(ids) => ids.clone(),
        }
    }
}

fn default_hidden_act() -> String {
    "silu".to_owned()
}

/// Layers, heads, experts and entries of a head that are believed.
const MAX_COUNT: usize = 16_384;
/// Widths and tokens that are believed.
const MAX_SIZE: usize = 1 << 24;

impl LlamaConfig {
    /// Dropout that the config asks for in training, which is not applied: keys and probabilities. Few models have any.
    pub fn ignored_dropout(&self) -> Vec<(&'static str, f64)> {
        let asked = |key| Some((key, self.hugging_face.get(key)?.as_f64()?));
        let asked = ["attention_dropout", "residual_dropout"].into_iter().filter_map(asked);
        asked.filter(|&(_, probability)| probability != 0.0).collect()
    }

    /// Reads the `config.json` of a model folder, or what a GGUF file says in its place.
    ///
    /// # Errors
    /// [`LlamaError`], if there is none, or if it asks for something that we would have to ignore.
    pub fn read(model: &Path) -> Result<Self, LlamaError> {
        if longlora_gguf::is_gguf(model) {
            return gguf::read_config(model);
        }
        let path = model.join("config.json");
        std::fs::metadata(model).map_err(LlamaError::file("open", model))?;
        if !path.exists() {
            return Err(LlamaError::NotAModel { path: model.to_owned(), missing: "config.json" });
        }
        let text = std::fs::read_to_string(&path).map_err(LlamaError::file("read", &path))?;
        let json = |source| LlamaError::Json { path: path.clone(), source };
        let mut config =
            Self::from_hugging_face(serde_json::from_str(&text).map_err(json)?, &path)?;
        config.add_end_tokens(&model.join("generation_config.json"))?;
        Ok(config)
    }

    /// Where a model has settings for generation, they name further tokens that end a text.
    fn add_end_tokens(&mut self, path: &Path) -> Result<(), LlamaError> {
        #[derive(Deserialize)]
        struct Generation {
            #[serde(default)]
            eos_token_id: TokenIds,
        }
        // A link to nothing is there.
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let text = std::fs::read_to_string(path).map_err(LlamaError::file("read", path))?;
        let json = |source| LlamaError::Json { path: path.to_owned(), source };
        let Generation { eos_token_id } = serde_json::from_str(&text).map_err(json)?;
        for id in eos_token_id.to_vec() {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        self.as_read = self.fields();
        Ok(())
    }

    /// From the contents of a `config.json` of a known family; `path` is for error messages.
    ///
    /// # Errors
    /// [`LlamaError`], if it asks for something that we would have to ignore.
    pub fn from_hugging_face(
        hugging_face: Map<String, Value>,
        path: &Path,
    ) -> Result<Self, LlamaError> {
        let model_type = hugging_face.get("model_type").and_then(Value::as_str);
        let Some(family) = model_type.and_then(Family::of) else {
            return Err(LlamaError::Unsupported {
                path: path.to_owned(),
                key: "model_type",
                value: hugging_face.get("model_type").map_or("null".to_owned(), |it| {
                    it.as_str().map_or_else(|| it.to_string(), str::to_owned)
                }),
                supported: "supported are `llama`, `mistral`, `mixtral`, `qwen2` and `qwen3`",
            });
        };
        Self::from_family(family, hugging_face, path)
    }

    /// From the contents of the `config.json` of a model of `family`, known or new; `path` is for error messages.
    ///
    /// # Errors
    /// [`LlamaError`], if it asks for something that we would have to ignore.
    pub fn from_family(
        family: Family,
        mut hugging_face: Map<String, Value>,
        path: &Path,
    ) -> Result<Self, LlamaError> {
        let raw = HuggingFaceConfig::parse(&hugging_face, path)?;
        let keys = Keys { fields: &hugging_face, path };
        raw.refuse_what_we_would_ignore(&keys, &family)?;
        let kv_heads = raw.kv_heads(&family, &keys, path)?;
        let (qkv_bias, output_bias, mlp_bias) = (
            keys.setting(family.qkv_bias)?,
            keys.setting(family.output_bias)?,
            keys.setting(family.mlp_bias)?,
        );
        let head_dim = raw.head_dim.or(family.head_dim);
        let head_dim = head_dim.unwrap_or(raw.hidden_size / raw.num_attention_heads);
        raw.refuse_sizes_beyond_belief(head_dim, path)?;
        let windows = raw.windows(&keys, &family)?;
        let experts = raw.experts(&family, path)?;
        if !hugging_face.contains_key("rope_theta") && family.rope_theta != Family::LLAMA.rope_theta
        {
            hugging_face.insert("rope_theta".to_owned(), family.rope_theta.into());
        }
        let rope = RopeConfig::from_hugging_face(head_dim, &hugging_face)
            .and_then(|rope| rope.validate().map(|()| rope))
            .map_err(|source| LlamaError::Rope { path: path.to_owned(), source })?;
        let mut config = Self {
            model_type: family.model_type.to_owned(),
            hidden_size: raw.hidden_size,
            intermediate_size: raw.intermediate_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            num_key_value_heads: kv_heads,
            vocab_size: raw.vocab_size,
            rms_norm_eps: raw.rms_norm_eps.unwrap_or(family.rms_norm_eps),
            tie_word_embeddings: raw.tie_word_embeddings,
            qkv_bias,
            output_bias,
            mlp_bias,
            qk_norm: family.qk_norm,
            windows,
            experts,
            rope,
            bos_token_id: raw.bos_token_id,
            eos_token_ids: raw.eos_token_id.to_vec(),
            hugging_face,
            as_read: vec![],
        };
        config.as_read = config.fields();
        Ok(config)
    }

    /// `1 / √head_dim`
    pub fn softmax_scale(&self) -> f32 {
        1.0 / (self.rope.head_dim as f32).sqrt()
    }
}

/// The raw `config.json`, for the keys whose meaning depends on the family.
struct Keys<'a> {
    fields: &'a Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn refuse<T>(
        &self,
        key: &'static str,
        value: impl ToString,
        supported: &'static str,
    ) -> Result<T, LlamaError> {
        let path = self.path.to_owned();
        Err(LlamaError::Unsupported { path, key, value: value.to_string(), supported })
    }

    /// What is there and not null.
    fn present(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn is_true(&self, key: &'static str) -> Result<bool, LlamaError> {
        match self.present(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => self.refuse(key, other, "it has to be `true` or `false`"),
        }
    }

    fn setting(&self, setting: Setting) -> Result<bool, LlamaError> {
        match setting {
            Setting::Never => Ok(false),
            Setting::Always => Ok(true),
            Setting::Key(key) => self.is_true(key),
        }
    }

    fn tokens(&self, key: &'static str) -> Result<Option<usize>, LlamaError> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match value.as_u64().and_then(|tokens| usize::try_from(tokens).ok()) {
            Some(tokens) if tokens > 0 => Ok(Some(tokens)),
            _ => self.refuse(key, value, "it has to be a number of tokens, at least 1"),
        }
    }
}

impl HuggingFaceConfig {
    /// # Errors
    /// [`LlamaError::Config`], naming a key that has the wrong type, and its value.
    fn parse(fields: &Map<String, Value>, path: &Path) -> Result<Self, LlamaError> {
        serde_json::from_value(Value::Object(fields.clone())).map_err(|error| {
            let said = error.to_string();
            let reason = match Self::ill_typed(fields, &said) {
                Some((key, value)) => format!("`{key}` is `{value}`, which it cannot be: {said}"),
                None => said,
            };
            LlamaError::Config { path: path.to_owned(), reason }
        })
    }

    /// What `said` is about, which serde does not tell of an object that is parsed already: that without which it says
    /// something else.
    fn ill_typed<'a>(
        fields: &'a Map<String, Value>,
        said: &str,
    ) -> Option<(&'a String, &'a Value)> {
        if said.starts_with("missing field") {
            return None;
        }
        fields.iter().find(|(key, _)| {
            let mut others = fields.clone();
            others.remove(key.as_str());
            let parsed = serde_json::from_value::<Self>(Value::Object(others));
            parsed.err().is_none_or(|error| error.to_string() != said)
        })
    }

    fn refuse_what_we_would_ignore(
        &self,
        keys: &Keys<'_>,
        family: &Family,
    ) -> Result<(), LlamaError> {
        if self.hidden_act != "silu" {
            return keys.refuse("hidden_act", &self.hidden_act, "supported is `silu`");
        }
        let settings = [family.qkv_bias, family.output_bias, family.mlp_bias];
        for key in ["attention_bias", "mlp_bias"] {
            let always = key == "attention_bias" && family.qkv_bias == Setting::Always;
            if keys.is_true(key)? && !always && !settings.contains(&Setting::Key(key)) {
                return keys.refuse(key, true, "this family has none");
            }
        }
        // In transformers 5 it stands in the dictionary.
        let of_rope = keys.present("rope_scaling").or(keys.present("rope_parameters"));
        let of_rope = of_rope.and_then(|rope| rope.get("partial_rotary_factor")?.as_f64());
        if let Some(factor) = self.partial_rotary_factor.or(of_rope)
            && factor != 1.0
        {
            return keys.refuse("partial_rotary_factor", factor, "supported is `1`");
        }
        if keys.present("quantization_config").is_some() {
            let supported = "use the model that it was quantised from, or a GGUF file";
            return keys.refuse("quantization_config", "{…}", supported);
        }
        if keys.is_true("output_router_logits")? {
            let supported = "supported is `false`: there is no auxiliary loss";
            return keys.refuse("output_router_logits", true, supported);
        }
        match keys.present("router_jitter_noise") {
            Some(noise) if noise.as_f64() != Some(0.0) => {
                keys.refuse("router_jitter_noise", noise, "supported is `0`")
            }
            _ => Ok(()),
        }
    }

    fn kv_heads(&self, family: &Family, keys: &Keys<'_>, path: &Path) -> Result<usize, LlamaError> {
        let invalid = |reason: String| Err(LlamaError::Config { path: path.to_owned(), reason });
        let heads = self.num_attention_heads;
        if heads == 0 || self.num_hidden_layers == 0 || self.vocab_size == 0 {
            return invalid("it has no heads, layers or vocabulary".to_owned());
        }
        // `null` is as many as there are heads; only what is not said is the family's.
        let said = keys.fields.contains_key("num_key_value_heads");
        let of_family = family.num_key_value_heads.filter(|_| !said);
        let kv_heads = self.num_key_value_heads.or(of_family).unwrap_or(heads);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return invalid(format!(
                "`num_attention_heads` `{heads}` is no multiple of `num_key_value_heads` `{kv_heads}`"
            ));
        }
        Ok(kv_heads)
    }

    /// Sizes come from a stranger, and memory is taken for each layer, expert and frequency before a weight is read.
    fn refuse_sizes_beyond_belief(&self, head_dim: usize, path: &Path) -> Result<(), LlamaError> {
        let sizes = [
            ("num_hidden_layers", self.num_hidden_layers, MAX_COUNT),
            ("num_attention_heads", self.num_attention_heads, MAX_COUNT),
            ("num_local_experts", self.num_local_experts.unwrap_or(0), MAX_COUNT),
            ("head_dim", head_dim, MAX_COUNT),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("vocab_size", self.vocab_size, MAX_SIZE),
        ];
        let invalid = |reason: String| Err(LlamaError::Config { path: path.to_owned(), reason });
        if let Some((key, size, largest)) =
            sizes.into_iter().find(|(_, size, largest)| size > largest)
        {
            return invalid(format!("`{key}` is `{size}`, and no model has more than {largest}"));
        }
        for (key, size) in
            [("hidden_size", self.hidden_size), ("intermediate_size", self.intermediate_size)]
        {
            if size == 0 {
                return invalid(format!("`{key}` is `0`, and a model needs at least 1"));
            }
        }
        match self.rms_norm_eps.map(|epsilon| epsilon as f32) {
            Some(epsilon) if !(epsilon > 0.0 && epsilon.is_finite()) => invalid(format!(
                "`rms_norm_eps` is `{epsilon}` in f32, and has to be positive and finite"
            )),
            _ => Ok(()),
        }
    }

    fn windows(&self, keys: &Keys<'_>, family: &Family) -> Result<Vec<Option<usize>>, LlamaError> {
        let layers = self.num_hidden_layers;
        let window = keys.tokens("sliding_window")?;
        match family.sliding_window {
            WindowRule::Never => match window {
                Some(window) => keys.refuse("sliding_window", window, "this family has none"),
                None => Ok(vec![None; layers]),
            },
            WindowRule::EveryLayer { default } => {
                let said = keys.fields.contains_key("sliding_window");
                Ok(vec![if said { window } else { default }; layers])
            }
            WindowRule::Declared if self.use_sliding_window => {
                let said = keys.fields.contains_key("sliding_window");
                self.declared_windows(keys, if said { window } else { Some(4096) })
            }
            WindowRule::Declared => Ok(vec![None; layers]),
        }
    }

    /// Qwen's: `layer_types` names each layer's attention; older configs have windows from `max_window_layers` on.
    fn declared_windows(
        &self,
        keys: &Keys<'_>,
        window: Option<usize>,
    ) -> Result<Vec<Option<usize>>, LlamaError> {
        let layers = self.num_hidden_layers;
        let Some(types) = &self.layer_types else {
            // transformers' default.
            let first = self.max_window_layers.unwrap_or(28);
            return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
        };
        if types.len() != layers {
            let supported = "it has to name the attention of each layer";
            return keys.refuse("layer_types", format!("[… {} …]", types.len()), supported);
        }
        let window_of = |kind: &String| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" => Ok(window),
            other => {
                let supported = "supported are `full_attention` and `sliding_attention`";
                keys.refuse("layer_types", other, supported)
            }
        };
        types.iter().map(window_of).collect()
    }

    fn experts(&self, family: &Family, path: &Path) -> Result<Option<ExpertsConfig>, LlamaError> {
        if !family.experts {
            return Ok(None);
        }
        // transformers' defaults.
        let count = self.num_local_experts.unwrap_or(8);
        let per_token = self.num_experts_per_tok.unwrap_or(2);
        if per_token == 0 || per_token > count {
            let reason = format!(
                "`num_experts_per_tok` `{per_token}` is not between 1 and `num_local_experts` `{count}`"
            );
            return Err(LlamaError::Config { path: path.to_owned(), reason });
        }
        Ok(Some(ExpertsConfig { count, per_token }))
    }
}

#[cfg(test)]
mod tests;
