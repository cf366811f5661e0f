//! The trainable update of a linear layer.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Shape, Tensor, TensorData};
use longlora_kernels::{Weight, linear, linear_with_update};
use rand::{Rng, RngExt};

use crate::base::Base;
use crate::config::UpdateConfig;
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
    /// DoRA's magnitudes, the length of each column of the composed weight: `[d_output]`
    pub magnitude: Option<Param<Tensor<1>>>,
    /// `alpha / rank` or `alpha / √rank`
    #[module(skip)]
    pub scale: f64,
    /// Probability with which an entry of the input is dropped in training.
    #[module(skip)]
    pub dropout: f64,
}

impl LowRank {
    /// A as PEFT draws it, uniform in ±1/√d_input; B zero and magnitudes those of the weight, so that the layer starts
    /// as its base. A weight that was never drawn stays so.
    pub fn new(config: &UpdateConfig, base: &Base, random: &mut impl Rng) -> Self {
        let (device, [d_input, d_output]) = (base.device(), base.dims());
        let bound = 1.0 / (d_input as f32).sqrt();
        let a: Vec<f32> =
            (0..d_input * config.rank).map(|_| random.random_range(-bound..bound)).collect();
        let a = Tensor::from_data(TensorData::new(a, [d_input, config.rank]), &device);
        Self {
            lora_a: Param::from_tensor(a),
            lora_b: Param::from_tensor(Tensor::zeros([config.rank, d_output], &device)),
            magnitude: config.use_dora.then(|| magnitude_of(base)),
            scale: config.scale,
            dropout: config.dropout,
        }
    }

    /// The input as A sees it in training.
    ///
    /// # Shapes
    /// - `x`, result: `[.., d_input]`
    pub fn drop_entries<const D: usize>(
        &self,
        x: Tensor<D>,
        dropout: Option<Dropout>,
    ) -> Tensor<D> {
        match dropout {
            Some(dropout) if self.dropout > 0.0 => dropout.apply(x, self.dropout),
            _ => x,
        }
    }

    /// Whether [`LowRank::drop_entries`] drops any.
    pub(crate) fn drops(&self, dropout: Option<Dropout>) -> bool {
        dropout.is_some() && self.dropout > 0.0
    }

    /// `x·W` and the update: in one operation, unless they read different inputs.
    ///
    /// # Shapes
    /// - `x`: `[rows, d_input]`; `weight`: `[d_input, d_output]`; result: `[rows, d_output]`
    pub(crate) fn beside(
        &self,
        x: Tensor<2>,
        weight: Weight,
        dropout: Option<Dropout>,
    ) -> Tensor<2> {
        if self.drops(dropout) {
            let low_rank = self.forward(self.drop_entries(x.clone(), dropout));
            return linear(x, weight) + low_rank;
        }
        linear_with_update(x, weight, [self.lora_a.val(), self.lora_b.val()], self.scale)
    }

    /// The update's share of the output, before DoRA's factor.
    ///
    /// # Shapes
    /// - `x`: `[.., d_input]`; result: `[.., d_output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape: [usize; D] = x.dims();
        let d_input = shape[D - 1];
        let rows: usize = shape[..D - 1].iter().product();
        shape[D - 1] = self.lora_b.dims()[1];
        // The small product is scaled, not the large one.
        let [a, b] = [&self.lora_a, &self.lora_b].map(|factor| in_type_of(factor.val(), &x));
        x.reshape([rows, d_input]).matmul(a).mul_scalar(self.scale).matmul(b).reshape(shape)
    }

    /// The dense update `scale · A·B`: `[d_input, d_output]`.
    pub fn dense(&self) -> Tensor<2> {
        self.lora_a.val().matmul(self.lora_b.val()).mul_scalar(self.scale)
    }

    /// DoRA's factor of each output, `m / ‖W + scale·A·B‖`, the norm taken by columns (arXiv:2402.09353, eq. 5):
    /// `[d_output]`.
    ///
    /// The norm is a constant to the gradient (sec. 4.3), so the dense weight is built off the graph and gone at once.
    pub fn dora_factor(&self, weight: impl Into<Weight>) -> Option<Tensor<1>> {
        let magnitude = self.magnitude.as_ref()?;
        let (a, b) = (off_graph(self.lora_a.val()), off_graph(self.lora_b.val()));
        let dense = a.matmul(b).mul_scalar(self.scale);
        let dtype = dense.dtype();
        let composed = dense + off_graph(weight.into().dense(dtype));
        // A column of zeros has no direction; it stays zero instead of becoming NaN.
        Some(magnitude.val() / column_norms(composed).clamp_min(f32::MIN_POSITIVE))
    }

    /// The weight with the update in it: `[d_input, d_output]`. A weight in bf16 is rounded once, at the end.
    pub fn compose(&self, weight: Tensor<2>) -> Tensor<2> {
        let (kept, dense) = (weight.dtype(), self.dense());
        let composed = weight.clone().cast(dense.dtype()) + dense;
        let composed = match self.dora_factor(weight) {
            None => composed,
            Some(factor) => composed * factor.unsqueeze(),
        };
        composed.cast(kept)
    }
}

/// The lengths of a weight's columns, computed when they are first asked for.
fn magnitude_of(base: &Base) -> Param<Tensor<1>> {
    let (device, [_, d_output]) = (base.device(), base.dims());
    let base = base.clone();
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| {
            let weight = off_graph(base.weight().dense(DType::F32));
            let lengths = column_norms(weight).to_device(device);
            if require_grad { lengths.require_grad() } else { lengths }
        },
        device,
        true,
        Shape::new([d_output]),
    )
}

fn column_norms(weight: Tensor<2>) -> Tensor<1> {
    (weight.clone() * weight).sum_dim(0).sqrt().squeeze_dim(0)
}

fn off_graph<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.detach().set_require_grad(false)
}

/// `x` in the type of another tensor, or as it is, without an operation of its own.
pub(crate) fn in_type_of<const D: usize, const E: usize>(
    x: Tensor<D>,
    other: &Tensor<E>,
) -> Tensor<D> {
    if x.dtype() == other.dtype() { x } else { x.cast(other.dtype()) }
}

#[cfg(test)]
mod tests {
    use burn::nn::Linear;
    use burn::tensor::Device;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::testing::{error, numbers, random};

    const UPDATE: UpdateConfig =
        UpdateConfig { rank: 8, alpha: 16.0, scale: 2.0, dropout: 0.0, use_dora: false };

    fn fresh(config: &UpdateConfig, shape: [usize; 2], seed: u64) -> LowRank {
        let weight = Param::from_tensor(random(shape, 0, &Device::flex()));
        LowRank::new(
            config,
            &Base::Dense(Linear { weight, bias: None }),
            &mut ChaCha8Rng::seed_from_u64(seed),
        )
    }

    fn a_of(seed: u64) -> Vec<f64> {
        let config = UpdateConfig { rank: 9, ..UPDATE };
        numbers(fresh(&config, [400, 3], seed).lora_a.val())
    }

    /// 3,600 draws: the mean may be off by some 1.7% of the bound, the variance by 2.5%; twice that is allowed.
    #[test]
    fn a_is_uniform_within_one_over_the_root_of_the_width() {
        let (a, bound) = (a_of(1), 1.0 / 20.0);
        let count = a.len() as f64;
        let mean = a.iter().sum::<f64>() / count;
        let variance = a.iter().map(|x| x * x).sum::<f64>() / count;
        let largest = a.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        assert_eq!(a.len(), 3600);
        assert!(largest <= bound * (1.0 + 1e-6) && largest > 0.99 * bound, "largest {largest}");
        assert!(mean.abs() < 0.034 * bound, "mean {mean}");
        let spread = variance / (bound * bound / 3.0);
        assert!((spread - 1.0).abs() < 0.05, "variance is {spread} of a uniform one's");
    }

    #[test]
    fn a_is_drawn_from_the_seed_alone_and_b_is_zero() {
        assert_eq!(a_of(1), a_of(1));
        assert_ne!(a_of(1), a_of(2));
        let b = fresh(&UPDATE, [4, 3], 1).lora_b.val();
        assert_eq!(b.dims(), [8, 3]);
        assert!(numbers(b).iter().all(|&entry| entry == 0.0));
    }

    /// One rounding, of the scale before or after the product with B. Measured: 6.0e-8.
    #[test]
    fn the_dense_update_is_the_update_of_the_identity() {
        let config = UpdateConfig { rank: 2, scale: 1.5, ..UPDATE };
        let device = Device::flex();
        let mut update = fresh(&config, [5, 7], 1);
        update.lora_b = Param::from_tensor(random([2, 7], 2, &device));
        let error = error(update.forward(Tensor::eye(5, &device)), update.dense());
        assert!(error <= 2e-7, "off by {error:e}");
    }

    #[test]
    fn entries_are_dropped_only_in_training_and_with_a_probability() {
        let config = |dropout| UpdateConfig { rank: 2, dropout, ..UPDATE };
        let x = random([4, 5], 3, &Device::flex());
        let y = |dropout, source: Option<Dropout>| {
            let mut update = fresh(&config(dropout), [5, 7], 1);
            update.lora_b = Param::from_tensor(random([2, 7], 2, &Device::flex()));
            numbers(update.forward(update.drop_entries(x.clone(), source)))
        };
        let undropped = y(0.0, None);
        assert_eq!(y(0.5, None), undropped);
        assert_eq!(y(0.0, Some(Dropout::new(1))), undropped);
        assert_ne!(y(0.5, Some(Dropout::new(1))), undropped);
        assert_eq!(y(0.5, Some(Dropout::new(1))), y(0.5, Some(Dropout::new(1))));
    }
}
