//! Attaching adapters to a model, and merging them into it.

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{DType, Shape};
use longlora_adapters::{
    AdapterConfig, Base, LoraConfig, LoraLinear, RopeGranularity, RopeOffset, TargetModule,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::block::Block;
use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::feed_forward::FeedForward;
use crate::llama::Llama;
use crate::parameters::identify_by_path;
use crate::storage::widened;

impl LlamaConfig {
    /// Checks what is to be attached anew: as [`check_adapters`](Self::check_adapters), and that no rank is more than the width of
    /// the widest layer.
    ///
    /// # Errors
    /// [`LlamaError::NoSuchTarget`], [`LlamaError::Rank`]
    pub fn check_new_adapters(&self, adapters: &AdapterConfig) -> Result<(), LlamaError> {
        let attention = self.num_attention_heads * self.rope.head_dim;
        let width = self.hidden_size.max(self.intermediate_size).max(attention);
        let ranks =
            adapters.lora.iter().flat_map(|lora| lora.rank_pattern.values().chain([&lora.rank]));
        match ranks.into_iter().find(|&&rank| rank > width) {
            None => self.check_adapters(adapters),
            Some(&rank) => Err(LlamaError::Rank { rank, width }),
        }
    }

    /// Checks that a model has the layers that `adapters` names: none is passed over in silence.
    ///
    /// # Errors
    /// [`LlamaError::NoSuchTarget`]
    pub fn check_adapters(&self, adapters: &AdapterConfig) -> Result<(), LlamaError> {
        let targets = adapters.lora.iter().flat_map(|lora| &lora.target_modules);
        let missing = |target: &&TargetModule| {
            self.experts.is_some() && !TargetModule::ATTENTION.contains(target)
        };
        match targets.into_iter().find(missing) {
            None => Ok(()),
            Some(&target) => {
                let model_type = self.model_type.clone();
                Err(LlamaError::NoSuchTarget { target, model_type })
            }
        }
    }
}

impl Llama {
    /// Freezes the model and attaches what `config` trains; `seed` draws the A matrices. The function computed is
    /// unchanged: B matrices and RoPE offsets are zero, magnitudes those of the weights. What is trained is widened to f32.
    ///
    /// # Panics
    /// If the model has an update or RoPE offsets already, which would be lost; or if `config` is one that
    /// [`AdapterConfig::validate`] refuses.
    pub fn attach(self, config: &AdapterConfig, seed: u64) -> Self {
        assert!(!self.has_adapter(), "the model has an adapter already; merge it first");
        if let Err(error) = config.validate() {
            panic!("the adapter cannot be attached: {error}");
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut llama = self.freeze();
        let rope = &llama.config.rope;
        let (kv_heads, head_dim) = (llama.config.num_key_value_heads, rope.head_dim);
        let device = llama.device();
        let offset = |shared: bool| {
            let config = config.rope_offset?;
            let wanted = (config.granularity == RopeGranularity::Shared) == shared;
            wanted.then(|| RopeOffset::new(config, kv_heads, head_dim, &device))
        };
        llama.model.rope_offset = offset(true);
        let layers = std::mem::take(&mut llama.model.layers);
        llama.model.layers = layers
            .into_iter()
            .enumerate()
            .map(|(layer, mut block)| {
                block.self_attn.rope_offset = offset(false);
                if let Some(lora) = &config.lora {
                    block = block.attach(layer, lora, &mut random);
                }
                if config.norms {
                    block.input_layernorm = block.input_layernorm.unfreeze();
                    block.post_attention_layernorm = block.post_attention_layernorm.unfreeze();
                    block.self_attn.q_norm = block.self_attn.q_norm.unfreeze();
                    block.self_attn.k_norm = block.self_attn.k_norm.unfreeze();
                }
                block
            })
            .collect();
        if config.norms {
            llama.model.norm = llama.model.norm.unfreeze();
        }
        if config.embeddings {
            llama.model.embed_tokens = widened(llama.model.embed_tokens).unfreeze();
        }
        if config.head {
            llama = llama.untie();
            llama.lm_head = llama.lm_head.map(|head| widened(head).unfreeze());
        }
        identify_by_path(llama)
    }

    /// The same function, with a head of its own: a frozen copy of the embedding table in f32, if that was the head.
    pub fn untie(mut self) -> Self {
        if self.lm_head.is_some() {
            return self;
        }
        let table = self.model.embed_tokens.weight.clone();
        let [vocab, hidden] = table.lazy_shape().dims();
        let device = table.lazy_device();
        // A table that was never drawn stays so.
        let head = move |device: &_, require_grad| {
            let table = table.val().detach().set_require_grad(false).cast(DType::F32);
            let head = table.transpose().to_device(device);
            if require_grad { head.require_grad() } else { head }
        };
        let shape = Shape::new([hidden, vocab]);
        let weight = Param::uninitialized(ParamId::new(), head, device, false, shape);
        self.lm_head = Some(Linear { weight, bias: None });
        self.config.tie_word_embeddings = false;
        self
    }

    /// Whether there is anything beside the weights: an update, or RoPE offsets.
    fn has_adapter(&self) -> bool {
        self.model.rope_offset.is_some() || self.model.layers.iter().any(Block::has_adapter)
    }

    /// A model all of whose weights are trained.
    pub fn train_all(mut self) -> Self {
        for linear in self.model.layers.iter_mut().flat_map(Block::linears_mut) {
            linear.base = Base::Dense(linear.base.clone().dequantized());
        }
        identify_by_path(widened(self).unfreeze())
    }

    /// For the generation of text: with the low-rank updates in the weights, so that each token takes one product, not three;
    /// but for weights in NF4, beside which they stay.
    pub fn for_generation(mut self) -> Self {
        for linear in self.model.layers.iter_mut().flat_map(Block::linears_mut) {
            *linear = linear.clone().for_generation();
        }
        self
    }

    /// Puts the low-rank updates into the weights, which are rounded once if they are kept in bf16, and become f32 if they are
    /// kept in NF4. RoPE offsets stay beside them: no weight can express them.
    pub fn merge(mut self) -> Self {
        let layers = std::mem::take(&mut self.model.layers).into_iter().enumerate();
        let merge =
            |(layer, block): (_, Block)| block.map_linear(layer, |_, linear| linear.merge());
        self.model.layers = layers.map(merge).collect();
        self
    }
}

impl Block {
    fn has_adapter(&self) -> bool {
        let updated = |linear: &&LoraLinear| linear.update.is_some();
        self.self_attn.rope_offset.is_some() || self.linears().iter().any(updated)
    }

    fn attach(self, layer: usize, config: &LoraConfig, random: &mut ChaCha8Rng) -> Self {
        self.map_linear(layer, |path, linear| match config.of(path) {
            Some(update) => linear.attach(&update, random),
            None => linear,
        })
    }

    /// Applies `change` to each linear layer, with its Hugging Face path, in the order of [`TargetModule::ALL`].
    fn map_linear(
        mut self,
        layer: usize,
        mut change: impl FnMut(&str, LoraLinear) -> LoraLinear,
    ) -> Self {
        let attention = &mut self.self_attn;
        let mut linears = vec![
            ("self_attn", TargetModule::QProj, &mut attention.q_proj),
            ("self_attn", TargetModule::KProj, &mut attention.k_proj),
            ("self_attn", TargetModule::VProj, &mut attention.v_proj),
            ("self_attn", TargetModule::OProj, &mut attention.o_proj),
        ];
        // Experts have layers of other names, which are no targets.
        if let FeedForward::Dense(mlp) = &mut self.mlp {
            linears.extend([
                ("mlp", TargetModule::GateProj, &mut mlp.gate_proj),
                ("mlp", TargetModule::UpProj, &mut mlp.up_proj),
                ("mlp", TargetModule::DownProj, &mut mlp.down_proj),
            ]);
        }
        for (part, module, linear) in linears {
            let path = format!("model.layers.{layer}.{part}.{module}");
            *linear = change(&path, linear.clone());
        }
        self
    }
}
