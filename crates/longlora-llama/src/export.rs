//! A model as other programs can compute it.

use burn::tensor::Tensor;
use longlora_adapters::{RopeOffset, RopeScaling};

use crate::error::LlamaError;
use crate::llama::Llama;

impl Llama {
    /// Expresses learned RoPE offsets as `longrope` factors, which other programs know.
    ///
    /// Offsets that the whole model shares divide its frequencies, `θ' = θ / factor`, and so do LongRoPE's factors
    /// (arXiv:2402.13753): the function computed is the same. Offsets of single layers and heads have no place in any
    /// other program's files.
    ///
    /// # Errors
    /// [`LlamaError::OffsetsOfLayers`], if there are offsets per layer that are not zero; [`LlamaError::OffsetsOfDynamic`],
    /// if the scaling below the offsets depends on the sequence at hand.
    pub fn with_offsets_as_longrope(mut self) -> Result<Self, LlamaError> {
        self.refuse_offsets_of_layers()?;
        let Some(offset) = self.model.rope_offset.take() else { return Ok(self.without_offsets()) };
        if !is_zero(&offset) {
            let config = &self.config.rope;
            if let RopeScaling::Dynamic { .. } = config.scaling {
                return Err(LlamaError::OffsetsOfDynamic);
            }
            let seq = config.max_position_embeddings;
            let factors = divisors(&offset, &config.divisors());
            let short_factor = match &config.scaling {
                RopeScaling::LongRope { short_factor, .. } => divisors(&offset, short_factor),
                _ => factors.clone(),
            };
            self.config.rope.scaling = RopeScaling::LongRope {
                short_factor,
                long_factor: factors,
                factor: None,
                original_max_position_embeddings: config.original_context(),
                attention_factor: Some(config.frequencies(seq).attention_factor.into()),
            };
        }
        Ok(self.without_offsets())
    }

    /// The model without its RoPE offsets: another function, unless they are zero.
    pub fn without_offsets(mut self) -> Self {
        self.model.rope_offset = None;
        for block in &mut self.model.layers {
            block.self_attn.rope_offset = None;
        }
        self
    }

    fn refuse_offsets_of_layers(&self) -> Result<(), LlamaError> {
        let offsets =
            self.model.layers.iter().filter_map(|block| block.self_attn.rope_offset.as_ref());
        if offsets.into_iter().all(is_zero) { Ok(()) } else { Err(LlamaError::OffsetsOfLayers) }
    }
}

fn is_zero(offset: &RopeOffset) -> bool {
    offset.delta.val().into_data().iter::<f32>().all(|delta| delta == 0.0)
}

/// `factor / (θ' / θ)`, frequency by frequency.
fn divisors(offset: &RopeOffset, factors: &[f64]) -> Vec<f64> {
    let ones = Tensor::<1>::ones([factors.len()], &offset.delta.device());
    let moved = offset.apply(ones).into_data();
    factors.iter().zip(moved.iter::<f64>()).map(|(factor, moved)| factor / moved).collect()
}
