//! Rotating queries and keys.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use crate::rope_offset::RopeOffset;
use crate::rope_scaling::RopeConfig;

/// Rotary position embedding of one forward pass: its positions, and the frequencies after scaling.
#[derive(Debug, Clone)]
pub struct Rotary {
    inv_freq: Tensor<1>,
    positions: Tensor<1>,
    attention_factor: f32,
    plain: RotaryTables,
}

/// Cosines and sines: `[kv_heads or 1, seq, head_dim / 2]` each.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Rotary {
    /// Prepares the positions `0 .. seq` of a text of `seq` tokens.
    pub fn new(config: &RopeConfig, seq: usize, device: &Device) -> Self {
        Self::at(config, 0..seq, seq, device)
    }

    /// Prepares some positions of a text of `length` tokens, by which dynamic and longrope choose their frequencies.
    /// Angles are f32, as in transformers.
    pub fn at(
        config: &RopeConfig,
        positions: Range<usize>,
        length: usize,
        device: &Device,
    ) -> Self {
        let frequencies = config.frequencies(length);
        let seq = positions.len();
        let pairs = frequencies.inv_freq.len();
        let inv_freq =
            Tensor::<1>::from_data(TensorData::new(frequencies.inv_freq, [pairs]), device);
        let positions: Vec<f32> = positions.map(|position| position as f32).collect();
        let positions = Tensor::<1>::from_data(TensorData::new(positions, [seq]), device);
        let attention_factor = frequencies.attention_factor;
        let plain = tables(inv_freq.clone().unsqueeze(), positions.clone(), attention_factor);
        Self { inv_freq, positions, attention_factor, plain }
    }

    /// The tables of a layer, whose frequencies a learnable offset may have moved.
    pub fn tables(&self, offset: Option<&RopeOffset>) -> RotaryTables {
        match offset {
            None => self.plain.clone(),
            Some(offset) => tables(
                offset.apply(self.inv_freq.clone()),
                self.positions.clone(),
                self.attention_factor,
            ),
        }
    }
}

/// `cos` and `sin` of `position · θ'`, times the attention factor; `inv_freq`: `[heads, pairs]`.
fn tables(inv_freq: Tensor<2>, positions: Tensor<1>, attention_factor: f32) -> RotaryTables {
    let angles = positions.unsqueeze_dim::<2>(1).unsqueeze::<3>() * inv_freq.unsqueeze_dim(1);
    let (cos, sin) = (angles.clone().cos(), angles.sin());
    if attention_factor == 1.0 {
        return RotaryTables { cos, sin };
    }
    RotaryTables { cos: cos.mul_scalar(attention_factor), sin: sin.mul_scalar(attention_factor) }
}

impl RotaryTables {
    /// Rotates half-split pairs `(x[i], x[i + head_dim / 2])`, as Hugging Face's weights need it (burn's own
    /// `RotaryEncoding` rotates neighbours).
    ///
    /// ```text
    /// y[i]                = x[i] · cos - x[i + head_dim / 2] · sin
    /// y[i + head_dim / 2] = x[i + head_dim / 2] · cos + x[i] · sin
    /// ```
    ///
    /// # Shapes
    /// - `x`, result: `[batch, heads, seq, head_dim]`, `heads` a multiple of the tables' heads
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        longlora_kernels::rotate(x, self.cos.clone(), self.sin.clone())
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;

    use super::*;
    use crate::rope_offset::{RopeGranularity, RopeOffsetConfig};
    use crate::rope_scaling::{RopeKind, RopeScaling};
    use crate::testing::{error, numbers, random};

    const KV_HEADS: usize = 2;
    const HEAD_DIM: usize = 6;
    const SEQ: usize = 11;
    const GRANULARITIES: [RopeGranularity; 3] =
        [RopeGranularity::Head, RopeGranularity::Pair, RopeGranularity::Shared];

    fn config(head_dim: usize, scaling: RopeScaling) -> RopeConfig {
        RopeConfig { head_dim, theta: 10_000.0, max_position_embeddings: SEQ, scaling }
    }

    fn rotary(device: &Device) -> Rotary {
        Rotary::new(&config(HEAD_DIM, RopeScaling::None), SEQ, device)
    }

    fn yarn(device: &Device) -> Rotary {
        Rotary::new(&config(HEAD_DIM, RopeScaling::stretch(RopeKind::Yarn, 5, SEQ)), SEQ, device)
    }

    fn offset(granularity: RopeGranularity, seed: u64, device: &Device) -> RopeOffset {
        let config = RopeOffsetConfig::new(granularity);
        let mut offset = RopeOffset::new(config, KV_HEADS, HEAD_DIM, device);
        offset.delta = Param::from_tensor(random(offset.delta.dims(), seed, device));
        offset
    }

    /// No offset, and one of each granularity.
    fn offsets(device: &Device) -> Vec<Option<RopeOffset>> {
        let offsets = GRANULARITIES.map(|granularity| Some(offset(granularity, 1, device)));
        [None].into_iter().chain(offsets).collect()
    }

    /// By hand: theta 10,000 and head_dim 4 make the angles 1 and 0.01 at position 1. Measured: no difference in f32.
    #[test]
    fn an_entry_turns_with_the_one_half_a_head_further() {
        let device = Device::flex();
        let x = Tensor::<4>::from_data([[[[9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]]]], &device);
        let y = Rotary::new(&config(4, RopeScaling::None), 2, &device).tables(None).rotate(x);
        let expected = [
            [9.0, 9.0, 9.0, 9.0],
            [
                1.0_f64.cos() - 3.0 * 1.0_f64.sin(),
                2.0 * 0.01_f64.cos() - 4.0 * 0.01_f64.sin(),
                3.0 * 1.0_f64.cos() + 1.0_f64.sin(),
                4.0 * 0.01_f64.cos() + 2.0 * 0.01_f64.sin(),
            ],
        ];
        let expected = Tensor::<4>::from_data([[expected]], &device);
        let error = error(y, expected);
        assert!(error <= 1e-7, "off by {error:e}");
    }

    /// `x · cos + rotate_half(x) · sin`, with cos and sin doubled to the width of a head.
    #[test]
    fn the_rotation_is_that_of_transformers_to_the_bit() {
        let device = Device::flex();
        let x = random([3, 2 * KV_HEADS, SEQ, HEAD_DIM], 2, &device);
        for rotary in [rotary(&device), yarn(&device)] {
            let tables = rotary.tables(None);
            let double = |table: &Tensor<3>| {
                Tensor::cat(vec![table.clone(), table.clone()], 2).unsqueeze::<4>()
            };
            let (low, high) = (
                x.clone().narrow(3, 0, HEAD_DIM / 2),
                x.clone().narrow(3, HEAD_DIM / 2, HEAD_DIM / 2),
            );
            let half_rotated = Tensor::cat(vec![high.neg(), low], 3);
            let theirs = x.clone() * double(&tables.cos) + half_rotated * double(&tables.sin);
            assert_eq!(numbers(tables.rotate(x.clone())), numbers(theirs));
        }
    }

    /// Dynamic scaling has other frequencies for every length: those of the whole text count.
    #[test]
    fn a_part_of_a_text_turns_as_it_does_within_the_whole_to_the_bit() {
        let device = Device::flex();
        let dynamic = RopeScaling::Dynamic { factor: 4.0, original_max_position_embeddings: 5 };
        for scaling in [RopeScaling::None, dynamic] {
            let config = config(HEAD_DIM, scaling);
            for offset in offsets(&device) {
                let x = random([1, 2 * KV_HEADS, SEQ, HEAD_DIM], 11, &device);
                let whole = Rotary::new(&config, SEQ, &device).tables(offset.as_ref());
                let part = Rotary::at(&config, 4..9, SEQ, &device).tables(offset.as_ref());
                let ours = part.rotate(x.clone().narrow(2, 4, 5));
                assert_eq!(numbers(ours), numbers(whole.rotate(x).narrow(2, 4, 5)));
            }
        }
    }

    #[test]
    fn an_offset_of_zero_is_plain_rope_to_the_bit() {
        let device = Device::flex();
        let x = random([2, 2 * KV_HEADS, SEQ, HEAD_DIM], 3, &device);
        for rotary in [rotary(&device), yarn(&device)] {
            let plain = numbers(rotary.tables(None).rotate(x.clone()));
            for granularity in GRANULARITIES {
                let config = RopeOffsetConfig::new(granularity);
                let offset = RopeOffset::new(config, KV_HEADS, HEAD_DIM, &device);
                let moved = rotary.tables(Some(&offset)).rotate(x.clone());
                assert_eq!(numbers(moved), plain, "{granularity}");
            }
        }
    }

    /// The same query and the same key at every position. Angles up to 20 are rounded to 1e-6. Measured: 4.9e-7.
    #[test]
    fn scores_depend_on_the_distance_alone() {
        let device = Device::flex();
        let everywhere = |heads, seed| {
            random([1, heads, 1, HEAD_DIM], seed, &device).expand([1, heads, SEQ, HEAD_DIM])
        };
        let (q, k) = (everywhere(2 * KV_HEADS, 4), everywhere(KV_HEADS, 5));
        for rotary in [rotary(&device), yarn(&device)] {
            for offset in offsets(&device) {
                let tables = rotary.tables(offset.as_ref());
                let k = tables.rotate(k.clone());
                // [kv_heads, queries per kv head · seq, head_dim], so that query heads meet their key head
                let k = k.reshape([KV_HEADS, SEQ, HEAD_DIM]).swap_dims(1, 2);
                let q = tables.rotate(q.clone()).reshape([KV_HEADS, 2 * SEQ, HEAD_DIM]);
                let scores = q.matmul(k).reshape([2 * KV_HEADS, SEQ, SEQ]);
                let part = |start: usize| {
                    scores.clone().narrow(1, start, SEQ - 5).narrow(2, start, SEQ - 5)
                };
                let error = error(part(0), part(5));
                assert!(error <= 1.5e-6, "{offset:?}: off by {error:e}");
                assert!(spread(scores) > 0.1, "scores do depend on the distance");
            }
        }
    }

    fn spread(scores: Tensor<3>) -> f64 {
        let scores = numbers(scores);
        let largest = scores.iter().fold(f64::MIN, |largest, &x| largest.max(x));
        largest - scores.iter().fold(f64::MAX, |smallest, &x| smallest.min(x))
    }

    /// Without a factor on cos and sin; YaRN's lengthens queries and keys by it. Measured: 1.2e-7.
    #[test]
    fn a_rotation_keeps_lengths_but_for_the_attention_factor() {
        let device = Device::flex();
        let x = random([2, KV_HEADS, SEQ, HEAD_DIM], 6, &device);
        let lengths = |x: Tensor<4>| x.square().sum_dim(3).sqrt();
        for (rotary, factor) in [(rotary(&device), 1.0), (yarn(&device), 0.1 * 2.2_f64.ln() + 1.0)]
        {
            for offset in offsets(&device) {
                let y = rotary.tables(offset.as_ref()).rotate(x.clone());
                let error = error(lengths(y), lengths(x.clone()).mul_scalar(factor));
                assert!(error <= 4e-7, "{offset:?}: off by {error:e}");
            }
        }
    }

    #[test]
    fn the_offset_of_a_kv_head_turns_its_own_query_heads_alone() {
        let device = Device::flex();
        let rotary = rotary(&device);
        let x = random([1, 3 * KV_HEADS, SEQ, HEAD_DIM], 7, &device);
        let turned = |first: f32| {
            let config = RopeOffsetConfig::new(RopeGranularity::Head);
            let mut offset = RopeOffset::new(config, KV_HEADS, HEAD_DIM, &device);
            let delta = Tensor::from_data([[first], [0.3]], &device);
            offset.delta = Param::from_tensor(delta);
            rotary.tables(Some(&offset)).rotate(x.clone())
        };
        let (one, other) = (turned(0.1), turned(0.2));
        for head in 0..3 * KV_HEADS {
            let [one, other] =
                [&one, &other].map(|turned| numbers(turned.clone().narrow(1, head, 1)));
            assert_eq!(one == other, head >= 3, "head {head}");
        }
    }

    /// Against `(loss(δ + h) - loss(δ - h)) / 2h`, relative to slopes above one. Angles up to 20 make large third
    /// derivatives, so h is small, and the rounding of the losses shows: 1.2e-4 was measured.
    #[test]
    fn the_gradient_of_an_offset_is_the_slope_of_the_loss() {
        for granularity in GRANULARITIES {
            let device = Device::flex().autodiff();
            let x = random([2, 2 * KV_HEADS, SEQ, HEAD_DIM], 8, &device);
            let cotangent = random(x.dims(), 9, &device);
            let rotary = rotary(&device);
            let offset = offset(granularity, 10, &device);
            let products = |offset: &RopeOffset| {
                rotary.tables(Some(offset)).rotate(x.clone()) * cotangent.clone()
            };
            let gradients = products(&offset).sum().backward();
            let gradient = numbers(offset.delta.val().grad(&gradients).unwrap());

            let (h, shape) = (2e-3, offset.delta.dims());
            let point = numbers(offset.delta.val());
            for (entry, gradient) in gradient.into_iter().enumerate() {
                let loss_at = |step: f64| -> f64 {
                    let mut moved = point.clone();
                    moved[entry] += step;
                    let mut offset = offset.clone();
                    let moved = Tensor::from_data(TensorData::new(moved, shape), &device);
                    offset.delta = Param::from_tensor(moved);
                    numbers(products(&offset)).iter().sum()
                };
                let slope = (loss_at(h) - loss_at(-h)) / (2.0 * h);
                let error = (gradient - slope).abs() / slope.abs().max(1.0);
                assert!(error <= 4e-4, "{granularity}, entry {entry}: off by {error:e}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "needs heads of 6 entries, got 8")]
    fn heads_of_another_width_are_refused() {
        let device = Device::flex();
        rotary(&device).tables(None).rotate(Tensor::zeros([1, KV_HEADS, SEQ, 8], &device));
    }

    #[test]
    #[should_panic(expected = "needs a multiple of 2 heads, got 3")]
    fn heads_that_do_not_share_kv_heads_evenly_are_refused() {
        let device = Device::flex();
        let offset = offset(RopeGranularity::Head, 1, &device);
        let x = Tensor::zeros([1, 3, SEQ, HEAD_DIM], &device);
        rotary(&device).tables(Some(&offset)).rotate(x);
    }
}
