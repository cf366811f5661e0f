//! A linear layer that can carry an update.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use longlora_kernels::linear;
use rand::Rng;

use crate::base::Base;
use crate::config::UpdateConfig;
use crate::dropout::Dropout;
use crate::low_rank::{LowRank, in_type_of};

/// A linear layer with an optional trainable low-rank update.
///
/// `y = x·W + scale·(x·A)·B`, `scale = alpha / rank`: LoRA (arXiv:2106.09685), eq. 3 and sec. 4.1. The dense update is
/// no part of the graph: it would cost a weight-sized gradient.
///
/// With magnitudes, `y = (x·W + scale·(x·A)·B) · m / ‖W + scale·A·B‖`, the norm by columns and constant to the
/// gradient: DoRA (arXiv:2402.09353), eq. 5 and sec. 4.3. A bias is added afterwards.
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// The layer as it was pre-trained.
    pub base: Base,
    /// `None` before [`LoraLinear::attach`] and after [`LoraLinear::merge`].
    pub update: Option<LowRank>,
}

impl LoraLinear {
    /// A layer without an update.
    pub fn new(base: Linear) -> Self {
        Self { base: Base::Dense(base), update: None }
    }

    /// Freezes the layer and gives it a fresh update; a weight that was never drawn stays so.
    ///
    /// # Panics
    /// If the layer has an update, which would be lost: [merge](Self::merge) it first; or if `config` is of rank 0, has a
    /// scale that is no number, or drops entries with a probability outside of [0, 1).
    pub fn attach(self, config: &UpdateConfig, random: &mut impl Rng) -> Self {
        let UpdateConfig { rank, scale, dropout, .. } = *config;
        assert!(self.update.is_none(), "the layer has an update already; merge it first");
        assert!(rank > 0, "an update of rank 0 is none");
        assert!(scale.is_finite(), "the scale of an update is a number, got {scale}");
        assert!((0.0..1.0).contains(&dropout), "dropout is in [0, 1), got {dropout}");
        let base = self.base.freeze();
        let update = LowRank::new(config, &base, random);
        Self { base, update: Some(update) }
    }

    /// Puts the update into the weight: the same function, without an update. A weight in NF4 becomes one in f32 for it: of
    /// what an update is, four bits would keep little.
    pub fn merge(self) -> Self {
        let Self { base, update } = self;
        let Some(update) = update else { return Self { base, update: None } };
        let mut base = base.dequantized();
        base.weight = base.weight.map(|weight| update.compose(weight).detach());
        Self { base: Base::Dense(base), update: None }
    }

    /// The same function for the generation of text, with as little to compute per token as can be: merged, or, over a weight in
    /// NF4, with the update beside it, and DoRA's factors in the weight and in B.
    pub fn for_generation(self) -> Self {
        let weight = self.base.weight();
        let (Base::Nf4(base), Some(update)) = (&self.base, &self.update) else {
            return self.merge();
        };
        let Some(factor) = update.dora_factor(weight) else { return self };
        let base = Base::Nf4(base.clone().scaled(factor.clone()));
        let lora_b = update.lora_b.clone().map(|b| (b * factor.unsqueeze()).detach());
        let update = LowRank { lora_b, magnitude: None, ..update.clone() };
        Self { base, update: Some(update) }
    }

    /// The same layer with its weight in NF4, [where that is possible](Base::quantized).
    pub fn quantized(self) -> Self {
        Self { base: self.base.quantized(), ..self }
    }

    /// What of the input the update drops follows from `dropout` alone: give each layer a [part](Dropout::part) of its own, and
    /// `None` outside training.
    ///
    /// # Shapes
    /// - `x`: `[.., d_input]`; result: `[.., d_output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
        let mut shape: [usize; D] = x.dims();
        let (d_input, rows) = (shape[D - 1], shape[..D - 1].iter().product());
        // In two dimensions: burn would copy a transposed weight, in every forward and backward, to give it a third.
        let y = self.forward_rows(x.reshape([rows, d_input]), dropout);
        shape[D - 1] = y.dims()[1];
        y.reshape(shape)
    }

    /// # Shapes
    /// - `x`: `[rows, d_input]`; result: `[rows, d_output]`
    fn forward_rows(&self, x: Tensor<2>, dropout: Option<Dropout>) -> Tensor<2> {
        let weight = self.base.weight();
        let y = match &self.update {
            None => linear(x, weight),
            Some(update) => match update.dora_factor(weight.clone()) {
                Some(factor) => {
                    let factor = in_type_of(factor, &x).unsqueeze();
                    self.decomposed(update, x, factor, dropout)
                }
                None => update.beside(x, weight, dropout),
            },
        };
        match self.base.bias() {
            None => y,
            Some(bias) => y.clone() + in_type_of(bias, &y).unsqueeze(),
        }
    }

    /// DoRA but for the bias, as PEFT computes it: `x·W + (factor - 1)·x̃·W + factor·(low rank of x̃)`, where `x̃` is `x` with entries
    /// dropped, and the first two terms are one where none are.
    fn decomposed(
        &self,
        update: &LowRank,
        x: Tensor<2>,
        factor: Tensor<2>,
        dropout: Option<Dropout>,
    ) -> Tensor<2> {
        let dense = |x| linear(x, self.base.weight());
        if !update.drops(dropout) {
            return (dense(x.clone()) + update.forward(x)) * factor;
        }
        let dropped = update.drop_entries(x.clone(), dropout);
        let low_rank = update.forward(dropped.clone());
        let dropped = dense(dropped);
        dense(x) - dropped.clone() + (dropped + low_rank) * factor
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Lora, ModuleMapper, Param, ParamId};
    use burn::nn::LinearConfig;
    use burn::tensor::{DType, Device, TensorData};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::testing::{error, numbers, random};

    const D_INPUT: usize = 5;
    const D_OUTPUT: usize = 7;

    fn base(bias: bool, device: &Device) -> Linear {
        let mut base = LinearConfig::new(D_INPUT, D_OUTPUT).with_bias(bias).init(device);
        base.weight = Param::from_tensor(random([D_INPUT, D_OUTPUT], 1, device));
        base.bias = bias.then(|| Param::from_tensor(random([D_OUTPUT], 2, device)));
        base
    }

    fn attached(base: Linear, rank: usize) -> LoraLinear {
        LoraLinear::new(base).attach(&update(rank, false), &mut ChaCha8Rng::seed_from_u64(3))
    }

    fn update(rank: usize, use_dora: bool) -> UpdateConfig {
        UpdateConfig { rank, alpha: 6.0, scale: 6.0 / rank as f64, dropout: 0.0, use_dora }
    }

    /// As if it had been trained: B is no longer zero.
    fn trained(base: Linear, rank: usize) -> LoraLinear {
        let device = base.weight.device();
        let mut layer = attached(base, rank);
        let update = layer.update.as_mut().unwrap();
        update.lora_b = Param::from_tensor(random([rank, D_OUTPUT], 4, &device));
        layer
    }

    /// Gives burn's adapter the factors of ours.
    struct Factors(Vec<(ParamId, TensorData)>);

    impl ModuleMapper for Factors {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.0.iter().find(|(id, _)| *id == param.id) {
                None => param,
                Some((_, data)) => param
                    .map(|factor| Tensor::from_data(data.clone(), &factor.device()).require_grad()),
            }
        }
    }

    /// Burn composes `W + scale·A·B` before it multiplies, so the sums have another order. Measured: 2.7e-7, in `dB`.
    #[track_caller]
    fn check_against_burn(rank: usize, bias: bool) {
        let device = Device::flex().autodiff();
        let ours = trained(base(bias, &device), rank);
        let update = ours.update.clone().unwrap();

        let theirs = base(bias, &device).apply_lora(Lora::new(rank, 6.0));
        let adapter = theirs.weight.adapter().unwrap();
        let mut factors = Factors(vec![
            (adapter.a.id, update.lora_a.val().into_data()),
            (adapter.b.id, update.lora_b.val().into_data()),
        ]);
        let theirs = theirs.map(&mut factors);
        let adapter = theirs.weight.adapter().unwrap();

        let x = random([2, 3, D_INPUT], 5, &device).require_grad();
        let cotangent = random([2, 3, D_OUTPUT], 6, &device);
        let (our_y, their_y) = (ours.forward(x.clone(), None), theirs.forward(x.clone()));
        let our_gradients = (our_y.clone() * cotangent.clone()).sum().backward();
        let their_gradients = (their_y.clone() * cotangent).sum().backward();

        let errors = [
            error(our_y, their_y),
            error(x.grad(&our_gradients).unwrap(), x.grad(&their_gradients).unwrap()),
            error(
                update.lora_a.val().grad(&our_gradients).unwrap(),
                adapter.a.val().grad(&their_gradients).unwrap(),
            ),
            error(
                update.lora_b.val().grad(&our_gradients).unwrap(),
                adapter.b.val().grad(&their_gradients).unwrap(),
            ),
        ];
        assert!(errors.iter().all(|&error| error <= 8e-7), "y, dx, dA, dB: {errors:?}");
    }

    #[test]
    fn outputs_and_gradients_match_burns_own_lora() {
        for rank in [1, 2, 4] {
            check_against_burn(rank, false);
            check_against_burn(rank, true);
        }
    }

    #[test]
    fn a_fresh_update_leaves_the_layer_as_it_was_to_the_bit() {
        let device = Device::flex();
        for bias in [false, true] {
            let x = random([4, D_INPUT], 7, &device);
            let before = base(bias, &device).forward(x.clone());
            let after = attached(base(bias, &device), 3).forward(x, None);
            assert_eq!(numbers(before), numbers(after));
        }
    }

    /// The sums have another order. Measured: 7.3e-8.
    #[test]
    fn a_merged_layer_is_the_same_function_without_an_update() {
        let device = Device::flex();
        let x = random([2, 3, D_INPUT], 8, &device);
        let layer = trained(base(true, &device), 2);
        let before = layer.forward(x.clone(), None);
        let merged = layer.merge();
        assert!(merged.update.is_none());
        let error = error(merged.forward(x, None), before);
        assert!(error <= 3e-7, "off by {error:e}");
    }

    /// The products are those of the same numbers; the merged weight is that of f32, rounded once.
    #[test]
    fn a_layer_kept_in_bf16_is_that_of_its_rounded_weight() {
        let device = Device::flex();
        let x = random([4, D_INPUT], 8, &device);
        let narrow = random([D_INPUT, D_OUTPUT], 1, &device).cast(DType::BF16);
        let with = |weight: Tensor<2>| {
            let mut base = base(true, &device);
            base.weight = Param::from_tensor(weight);
            [trained(base.clone(), 2), trained_dora(base.clone(), 0.0), fresh_dora(base, 0.0)]
        };
        let wide = narrow.clone().cast(DType::F32);
        for (kept, wide) in with(narrow).into_iter().zip(with(wide)) {
            let y = [&kept, &wide].map(|layer| layer.forward(x.clone(), None));
            let [kept_y, wide_y] = y;
            let error = error(kept_y, wide_y);
            assert!(error <= 3e-7, "off by {error:e}");
            let merged = kept.merge().base.dequantized().weight.val();
            assert_eq!(merged.dtype(), DType::BF16);
            let expected = wide.merge().base.dequantized().weight.val().cast(DType::BF16);
            assert_eq!(numbers(merged), numbers(expected));
        }
    }

    /// Outputs, gradients and the merged weight are those of a layer whose weight is what four bits keep.
    #[test]
    fn a_layer_kept_in_nf4_is_that_of_its_kept_weight() {
        let device = Device::flex().autodiff();
        let wide = Linear {
            weight: Param::from_tensor(random([128, D_OUTPUT], 1, &device)),
            bias: Some(Param::from_tensor(random([D_OUTPUT], 2, &device))),
        };
        let kept = LoraLinear::new(wide).quantized();
        assert!(matches!(kept.base, Base::Nf4(_)) && kept.base.dims() == [128, D_OUTPUT]);
        assert!(kept.base.is_read(), "what was there is quantised at once");
        let dense = LoraLinear::new(kept.base.clone().dequantized());
        for (use_dora, dropout) in [(false, 0.0), (true, 0.0), (false, 0.4), (true, 0.4)] {
            let config = UpdateConfig { dropout, ..update(2, use_dora) };
            let layers = [kept.clone(), dense.clone()].map(|layer| {
                let mut random_a = ChaCha8Rng::seed_from_u64(3);
                let mut layer = layer.attach(&config, &mut random_a);
                let update = layer.update.as_mut().unwrap();
                update.lora_b = Param::from_tensor(random([2, D_OUTPUT], 4, &device));
                layer
            });
            let x = random([4, 128], 5, &device).require_grad();
            let results = layers.each_ref().map(|layer| {
                let y = layer.forward(x.clone(), Some(Dropout::new(7)));
                let gradients = y.clone().powi_scalar(2).sum().backward();
                let [a, b] = layer.update.as_ref().map(|of| [&of.lora_a, &of.lora_b]).unwrap();
                [Some(y), x.grad(&gradients), a.val().grad(&gradients), b.val().grad(&gradients)]
                    .map(Option::unwrap)
            });
            let [ours, theirs] = results;
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                let error = error(ours, theirs);
                assert!(error <= 8e-7, "off by {error:e}");
            }
            let x = x.detach();
            for layer in layers.clone() {
                let before = layer.forward(x.clone(), None);
                let ready = layer.for_generation();
                assert!(ready.update.iter().all(|update| update.magnitude.is_none()));
                let error = error(ready.forward(x.clone(), None), before);
                assert!(error <= 1e-6, "off by {error:e}");
            }
            let merged = layers.map(|layer| layer.merge().base.dequantized().weight);
            assert!(merged.iter().all(|weight| !weight.val().is_require_grad()));
            let [ours, theirs] = merged.map(|weight| numbers(weight.val()));
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn a_layer_whose_rows_are_not_of_whole_blocks_stays_as_it_is() {
        let layer = LoraLinear::new(base(true, &Device::flex())).quantized();
        assert!(matches!(layer.base, Base::Dense(_)));
    }

    #[test]
    #[should_panic(expected = "has an update already")]
    fn a_trained_update_is_not_lost_to_a_second_one() {
        let layer = trained(base(false, &Device::flex()), 2);
        layer.attach(&update(2, false), &mut ChaCha8Rng::seed_from_u64(3));
    }

    #[test]
    #[should_panic(expected = "rank 0")]
    fn an_update_of_rank_zero_is_none() {
        let config = UpdateConfig { rank: 0, ..update(2, false) };
        LoraLinear::new(base(false, &Device::flex()))
            .attach(&config, &mut ChaCha8Rng::seed_from_u64(3));
    }

    #[test]
    fn merging_a_layer_without_an_update_changes_nothing() {
        let base = base(true, &Device::flex());
        let merged = LoraLinear::new(base.clone()).merge().base.dequantized();
        assert_eq!(numbers(merged.weight.val()), numbers(base.weight.val()));
    }

    #[test]
    fn only_the_update_of_an_attached_layer_is_trained() {
        let device = Device::flex().autodiff();
        let layer = attached(base(true, &device), 2);
        let x = random([4, D_INPUT], 9, &device);
        let gradients = layer.forward(x, None).sum().backward();

        let base = layer.base.dequantized();
        assert!(base.weight.val().grad(&gradients).is_none());
        assert!(base.bias.unwrap().val().grad(&gradients).is_none());
        let update = layer.update.unwrap();
        let d_a = numbers(update.lora_a.val().grad(&gradients).unwrap());
        let d_b = numbers(update.lora_b.val().grad(&gradients).unwrap());
        assert!(d_a.iter().all(|&gradient| gradient == 0.0), "B is zero, so A cannot matter yet");
        assert!(d_b.iter().all(|&gradient| gradient != 0.0));
    }

    fn fresh_dora(base: Linear, dropout: f64) -> LoraLinear {
        let config = UpdateConfig { dropout, ..update(2, true) };
        LoraLinear::new(base).attach(&config, &mut ChaCha8Rng::seed_from_u64(3))
    }

    /// As if it had been trained: B is no longer zero, magnitudes are no longer those of the weight.
    fn trained_dora(base: Linear, dropout: f64) -> LoraLinear {
        let device = base.weight.device();
        let mut layer = fresh_dora(base, dropout);
        let update = layer.update.as_mut().unwrap();
        update.lora_b = Param::from_tensor(random([2, D_OUTPUT], 4, &device));
        update.magnitude = Some(Param::from_tensor(random([D_OUTPUT], 10, &device).add_scalar(2)));
        layer
    }

    /// DoRA with the dense weight, as the paper writes it: `x·W + b` and what changes, of the dropped input.
    fn dense_dora(layer: &LoraLinear, x: Tensor<3>, dropped: Tensor<3>) -> Tensor<3> {
        let update = layer.update.as_ref().unwrap();
        let base = layer.base.clone().dequantized();
        let weight = base.weight.val();
        let composed = weight.clone() + update.dense();
        let norm = composed.clone().powi_scalar(2).sum_dim(0).sqrt().detach();
        let magnitude = update.magnitude.as_ref().unwrap().val().unsqueeze::<2>();
        let change = composed * (magnitude / norm) - weight;
        base.forward(x) + dropped.matmul(change.unsqueeze())
    }

    /// The slow twin sums in another order. Measured: 3.0e-7, in `dx` with dropout.
    #[track_caller]
    fn check_dora(bias: bool, probability: f64) {
        let device = Device::flex().autodiff();
        let layer = trained_dora(base(bias, &device), probability);
        let update = layer.update.clone().unwrap();
        let x = random([2, 3, D_INPUT], 5, &device).require_grad();
        let cotangent = random([2, 3, D_OUTPUT], 6, &device);
        let source = Some(Dropout::new(7));
        let ours = layer.forward(x.clone(), source);
        let dropped = update.drop_entries(x.clone(), source);
        let theirs = dense_dora(&layer, x.clone(), dropped);
        let our_gradients = (ours.clone() * cotangent.clone()).sum().backward();
        let their_gradients = (theirs.clone() * cotangent).sum().backward();

        let magnitude = update.magnitude.unwrap().val();
        let errors = [
            error(ours, theirs),
            error(x.grad(&our_gradients).unwrap(), x.grad(&their_gradients).unwrap()),
            error(
                update.lora_a.val().grad(&our_gradients).unwrap(),
                update.lora_a.val().grad(&their_gradients).unwrap(),
            ),
            error(
                update.lora_b.val().grad(&our_gradients).unwrap(),
                update.lora_b.val().grad(&their_gradients).unwrap(),
            ),
            error(
                magnitude.grad(&our_gradients).unwrap(),
                magnitude.grad(&their_gradients).unwrap(),
            ),
        ];
        assert!(errors.iter().all(|&error| error <= 8e-7), "y, dx, dA, dB, dm: {errors:?}");
        assert!(layer.base.dequantized().weight.val().grad(&our_gradients).is_none());
    }

    #[test]
    fn dora_is_that_of_the_dense_weight_with_every_gradient() {
        for probability in [0.0, 0.4] {
            check_dora(false, probability);
            check_dora(true, probability);
        }
    }

    #[test]
    fn a_fresh_dora_leaves_the_layer_as_it_was_to_the_bit() {
        let device = Device::flex();
        for bias in [false, true] {
            let x = random([4, D_INPUT], 7, &device);
            let before = base(bias, &device).forward(x.clone());
            let after = fresh_dora(base(bias, &device), 0.0).forward(x, None);
            assert_eq!(numbers(before), numbers(after));
        }
    }

    /// The sums have another order. Measured: 1.8e-7.
    #[test]
    fn a_merged_dora_is_the_same_function_without_an_update() {
        let device = Device::flex();
        let x = random([2, 3, D_INPUT], 8, &device);
        let layer = trained_dora(base(true, &device), 0.4);
        let before = layer.forward(x.clone(), None);
        let merged = layer.merge();
        assert!(merged.update.is_none());
        let error = error(merged.forward(x, None), before);
        assert!(error <= 3e-7, "off by {error:e}");
    }

    #[test]
    fn an_output_without_a_direction_stays_zero_under_dora() {
        let device = Device::flex();
        let mut base = base(false, &device);
        base.weight = Param::from_tensor(Tensor::zeros([D_INPUT, D_OUTPUT], &device));
        let y = fresh_dora(base, 0.0).forward(random([4, D_INPUT], 7, &device), None);
        assert!(numbers(y).iter().all(|&entry| entry == 0.0));
    }

    #[test]
    fn the_size_of_a_dora_is_that_of_its_factors_and_magnitudes() {
        let layer = fresh_dora(base(true, &Device::flex()), 0.0);
        assert_eq!(layer.update.unwrap().num_params(), 2 * (D_INPUT + D_OUTPUT) + D_OUTPUT);
    }

    #[test]
    fn the_size_of_an_update_is_that_of_its_factors() {
        let layer = attached(base(true, &Device::flex()), 3);
        assert_eq!(layer.update.unwrap().num_params(), 3 * (D_INPUT + D_OUTPUT));
    }
}
