//! The trainable update of a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, RngExt};

use crate::config::LoraConfig;
use crate::dropout::Dropout;

/// A low-rank update `scale · (x·A)·B` (LoRA, arXiv:2106.09685, eq. 3).
///
/// Burn multiplies from the right, so A and B are the transposes of PEFT's `lora_A` and `lora_B`.
#[derive(Module, Debug)]
pub struct LowRank {
    /// A: `[d_input, rank]`
    pub lora_a: Param<Tensor<2>>,
    /// B: `[rank, d_output]`
    pub lora_b: Param<Tensor<2>>,
    /// `alpha / rank`
    #[module(skip)]
    pub scale: f64,
    /// Probability with which an entry of the input is dropped in training.
    #[module(skip)]
    pub dropout: f64,
}

impl LowRank {
    /// A as PEFT draws it, uniform in ±1/√d_input; B zero, so that the layer starts as its base.
    pub fn new(
        config: &LoraConfig,
        [d_input, d_output]: [usize; 2],
        random: &mut impl Rng,
        device: &Device,
    ) -> Self {
        let bound = 1.0 / (d_input as f32).sqrt();
        let a: Vec<f32> =
            (0..d_input * config.rank).map(|_| random.random_range(-bound..bound)).collect();
        let a = Tensor::from_data(TensorData::new(a, [d_input, config.rank]), device);
        Self {
            lora_a: Param::from_tensor(a),
            lora_b: Param::from_tensor(Tensor::zeros([config.rank, d_output], device)),
            scale: config.scale(),
            dropout: config.dropout,
        }
    }

    /// The update's share of the output.
    ///
    /// # Shapes
    /// - `x`: `[.., d_input]`; result: `[.., d_output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
        let x = match dropout {
            Some(dropout) if self.dropout > 0.0 => dropout.apply(x, self.dropout),
            _ => x,
        };
        let mut shape: [usize; D] = x.dims();
        let d_input = shape[D - 1];
        let rows: usize = shape[..D - 1].iter().product();
        shape[D - 1] = self.lora_b.dims()[1];
        // The small product is scaled, not the large one.
        let low = x.reshape([rows, d_input]).matmul(self.lora_a.val()).mul_scalar(self.scale);
        low.matmul(self.lora_b.val()).reshape(shape)
    }

    /// The dense update `scale · A·B`: `[d_input, d_output]`.
    pub fn dense(&self) -> Tensor<2> {
        self.lora_a.val().matmul(self.lora_b.val()).mul_scalar(self.scale)
    }
}
