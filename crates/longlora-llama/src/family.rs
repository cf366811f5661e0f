//! What sets one family of models apart from another: values, not code.

/// What a `model_type` fixes and its `config.json` need not say.
///
/// The families here compute the same blocks; they differ in what this struct names. `docs/custom-models.md` shows how
/// another one is added, by [`LlamaConfig::from_family`](crate::LlamaConfig::from_family).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Family {
    /// The `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Whether q, k and v have biases.
    pub qkv_bias: Setting,
    /// Whether o has a bias.
    pub output_bias: Setting,
    /// Whether gate, up and down have biases.
    pub mlp_bias: Setting,
    /// Whether each head of q and k is normed before it is rotated.
    pub qk_norm: bool,
    /// Which layers see a bounded number of tokens.
    pub sliding_window: WindowRule,
    /// Whether the MLP is a mixture of experts, of the sizes in `num_local_experts` and `num_experts_per_tok`.
    pub experts: bool,
    /// transformers' default of `num_key_value_heads`; `None` is one per query head.
    pub num_key_value_heads: Option<usize>,
    /// transformers' default of `head_dim`; `None` is `hidden_size` over the heads.
    pub head_dim: Option<usize>,
    /// transformers' default of `rms_norm_eps`.
    pub rms_norm_eps: f64,
    /// transformers' default of `rope_theta`.
    pub rope_theta: f64,
}

/// Where a yes or no comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Never, whatever the config says: one that says yes is refused.
    Never,
    /// Always.
    Always,
    /// As this key of the config says; absent is no.
    Key(&'static str),
}

/// Which layers have a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowRule {
    /// None: a config that asks for one is refused.
    Never,
    /// All of them, if `sliding_window` is a number; absent is `default`.
    EveryLayer {
        /// transformers' default of `sliding_window`.
        default: Option<usize>,
    },
    /// With `use_sliding_window`, those that `layer_types` names, or those from `max_window_layers` on; a `sliding_window`
    /// that is not there is 4,096 tokens, transformers' default.
    Declared,
}

impl Family {
    /// LLaMA 1 to 3, CodeLlama, TinyLlama, SmolLM2, Yi and many others.
    pub const LLAMA: Self = Self {
        model_type: "llama",
        qkv_bias: Setting::Key("attention_bias"),
        output_bias: Setting::Key("attention_bias"),
        mlp_bias: Setting::Key("mlp_bias"),
        qk_norm: false,
        sliding_window: WindowRule::Never,
        experts: false,
        num_key_value_heads: None,
        head_dim: None,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
    };

    /// Mistral (arXiv:2310.06825); version 0.1 has a sliding window, later ones have none.
    pub const MISTRAL: Self = Self {
        model_type: "mistral",
        qkv_bias: Setting::Never,
        output_bias: Setting::Never,
        mlp_bias: Setting::Never,
        sliding_window: WindowRule::EveryLayer { default: Some(4096) },
        num_key_value_heads: Some(8),
        ..Self::LLAMA
    };

    /// Mixtral (arXiv:2401.04088).
    pub const MIXTRAL: Self = Self {
        model_type: "mixtral",
        sliding_window: WindowRule::EveryLayer { default: None },
        experts: true,
        rms_norm_eps: 1e-5,
        rope_theta: 1_000_000.0,
        ..Self::MISTRAL
    };

    /// Qwen2 (arXiv:2407.10671) and Qwen2.5.
    pub const QWEN2: Self = Self {
        model_type: "qwen2",
        qkv_bias: Setting::Always,
        output_bias: Setting::Never,
        mlp_bias: Setting::Never,
        sliding_window: WindowRule::Declared,
        num_key_value_heads: Some(32),
        ..Self::LLAMA
    };

    /// Qwen3 (arXiv:2505.09388), the dense ones.
    pub const QWEN3: Self = Self {
        model_type: "qwen3",
        qkv_bias: Setting::Key("attention_bias"),
        output_bias: Setting::Key("attention_bias"),
        qk_norm: true,
        head_dim: Some(128),
        ..Self::QWEN2
    };

    /// Every family that [`LlamaConfig::read`](crate::LlamaConfig::read) knows.
    pub const ALL: [Self; 5] =
        [Self::LLAMA, Self::MISTRAL, Self::MIXTRAL, Self::QWEN2, Self::QWEN3];

    /// The family of a `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.model_type == model_type)
    }
}
