//! Attaching adapters to a model, and merging them into it.

use burn::module::Module;
use longlora_adapters::{
    AdapterConfig, LoraConfig, LoraLinear, RopeGranularity, RopeOffset, TargetModule,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::block::Block;
use crate::llama::Llama;
use crate::mlp::FeedForward;
use crate::parameters::identify_by_path;

impl Llama {
    /// Freezes the model and attaches what `config` trains; `seed` draws the A matrices. The function computed is
    /// unchanged: B matrices and RoPE offsets are zero.
    pub fn attach(self, config: &AdapterConfig, seed: u64) -> Self {
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
            .map(|mut block| {
                block.self_attn.rope_offset = offset(false);
                if let Some(lora) = &config.lora {
                    block = block.attach(lora, &mut random);
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
            llama.model.embed_tokens = llama.model.embed_tokens.unfreeze();
        }
        identify_by_path(llama)
    }

    /// A model all of whose weights are trained.
    pub fn train_all(self) -> Self {
        identify_by_path(self.unfreeze())
    }

    /// Adds the low-rank updates to the weights. RoPE offsets stay beside them: no weight can express them.
    pub fn merge(mut self) -> Self {
        let layers = std::mem::take(&mut self.model.layers);
        self.model.layers =
            layers.into_iter().map(|block| block.map_linear(|_, layer| layer.merge())).collect();
        self
    }
}

impl Block {
    fn attach(self, config: &LoraConfig, random: &mut ChaCha8Rng) -> Self {
        self.map_linear(|module, layer| {
            if config.target_modules.contains(&module) {
                layer.attach(config, random)
            } else {
                layer
            }
        })
    }

    /// Applies `change` to each linear layer, in the order of [`TargetModule::ALL`].
    fn map_linear(
        mut self,
        mut change: impl FnMut(TargetModule, LoraLinear) -> LoraLinear,
    ) -> Self {
        let attention = &mut self.self_attn;
        let mut layers = vec![
            (TargetModule::QProj, &mut attention.q_proj),
            (TargetModule::KProj, &mut attention.k_proj),
            (TargetModule::VProj, &mut attention.v_proj),
            (TargetModule::OProj, &mut attention.o_proj),
        ];
        // Experts have layers of other names, which are no targets.
        if let FeedForward::Dense(mlp) = &mut self.mlp {
            layers.extend([
                (TargetModule::GateProj, &mut mlp.gate_proj),
                (TargetModule::UpProj, &mut mlp.up_proj),
                (TargetModule::DownProj, &mut mlp.down_proj),
            ]);
        }
        for (module, layer) in layers {
            *layer = change(module, layer.clone());
        }
        self
    }
}
