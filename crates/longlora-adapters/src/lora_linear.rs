//! A linear layer that can carry an update.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use rand::Rng;

use crate::config::LoraConfig;
use crate::dropout::Dropout;
use crate::low_rank::LowRank;

/// A linear layer with an optional trainable low-rank update.
///
/// `y = x·W + scale·(x·A)·B`, `scale = alpha / rank`: LoRA (arXiv:2106.09685), eq. 3 and sec. 4.1. The dense update is
/// never built in training: it would cost a weight-sized gradient.
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// The layer as it was pre-trained.
    pub base: Linear,
    /// `None` before [`LoraLinear::attach`] and after [`LoraLinear::merge`].
    pub update: Option<LowRank>,
}

impl LoraLinear {
    /// A layer without an update.
    pub fn new(base: Linear) -> Self {
        Self { base, update: None }
    }

    /// Freezes the layer and gives it a fresh update.
    pub fn attach(self, config: &LoraConfig, random: &mut impl Rng) -> Self {
        let device = self.base.weight.device();
        let update = LowRank::new(config, self.base.weight.dims(), random, &device);
        Self { base: self.base.freeze(), update: Some(update) }
    }

    /// Adds the update to the weight: the same function, without an update.
    pub fn merge(self) -> Self {
        let Self { mut base, update } = self;
        if let Some(update) = update {
            base.weight = base.weight.map(|weight| {
                let dtype = weight.dtype();
                (weight + update.dense().cast(dtype)).detach()
            });
        }
        Self { base, update: None }
    }

    /// # Shapes
    /// - `x`: `[.., d_input]`; result: `[.., d_output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
        match &self.update {
            None => self.base.forward(x),
            Some(update) => self.base.forward(x.clone()) + update.forward(x, dropout),
        }
    }
}
