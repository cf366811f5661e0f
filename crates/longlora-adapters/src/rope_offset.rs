//! Learnable offsets of the RoPE frequencies.
//!
//! This is our extension, not LongLoRA's. Its closest relatives are AdaRoPE (arXiv:2607.19363: one log-frequency per
//! head and pair) and LeRoPE (arXiv:2607.10134: one per pair, shared by all layers and heads).

use std::fmt;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// What shares one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeGranularity {
    /// One per layer and kv head: all frequencies of the head move together.
    Head,
    /// One per layer, kv head and frequency.
    Pair,
    /// One per frequency for the whole model; it exports exactly as `longrope` factors.
    Shared,
}

impl fmt::Display for RopeGranularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Pair => "pair",
            Self::Shared => "shared",
        })
    }
}

/// Learnable offsets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeOffsetConfig {
    /// What shares one offset.
    pub granularity: RopeGranularity,
    /// Largest change of a log-frequency, in (0, 2]; ln 2 lets a frequency halve or double at most.
    #[serde(default = "default_bound")]
    pub bound: f64,
}

fn default_bound() -> f64 {
    std::f64::consts::LN_2
}

impl RopeOffsetConfig {
    /// The granularity, at the default bound.
    pub fn new(granularity: RopeGranularity) -> Self {
        Self { granularity, bound: default_bound() }
    }
}

/// Offsets δ of log-frequencies, zero at first.
///
/// ```text
/// θ'[h, i] = θ[i] · exp(bound · tanh(δ[h, i] / bound))
/// ```
///
/// The bound keeps a frequency from running away; near zero its slope is 1. Queries and keys of one kv group share the
/// offset, so scores still depend on distances alone. Store and train δ in f32, without weight decay.
#[derive(Module, Debug)]
pub struct RopeOffset {
    /// δ: `[kv_heads or 1, head_dim / 2 or 1]`
    pub delta: Param<Tensor<2>>,
    /// Largest change of a log-frequency.
    #[module(skip)]
    pub bound: f64,
}

impl RopeOffset {
    /// Zero offsets: plain RoPE, to the bit.
    pub fn new(
        config: RopeOffsetConfig,
        kv_heads: usize,
        head_dim: usize,
        device: &Device,
    ) -> Self {
        let shape = Self::shape(config.granularity, kv_heads, head_dim);
        Self { delta: Param::from_tensor(Tensor::zeros(shape, device)), bound: config.bound }
    }

    /// The shape of δ.
    pub fn shape(granularity: RopeGranularity, kv_heads: usize, head_dim: usize) -> [usize; 2] {
        match granularity {
            RopeGranularity::Head => [kv_heads, 1],
            RopeGranularity::Pair => [kv_heads, head_dim / 2],
            RopeGranularity::Shared => [1, head_dim / 2],
        }
    }

    /// The moved frequencies.
    ///
    /// # Shapes
    /// - `inv_freq`: `[head_dim / 2]`; result: `[kv_heads or 1, head_dim / 2]`
    pub fn apply(&self, inv_freq: Tensor<1>) -> Tensor<2> {
        let offset = self.delta.val().div_scalar(self.bound).tanh().mul_scalar(self.bound);
        inv_freq.unsqueeze::<2>() * offset.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{error, numbers, random};

    const GRANULARITIES: [RopeGranularity; 3] =
        [RopeGranularity::Head, RopeGranularity::Pair, RopeGranularity::Shared];

    fn offset(granularity: RopeGranularity, delta: f32, bound: f64) -> RopeOffset {
        let config = RopeOffsetConfig { granularity, bound };
        let mut offset = RopeOffset::new(config, 3, 8, &Device::flex());
        offset.delta = offset.delta.map(|zeros| zeros.add_scalar(delta));
        offset
    }

    /// Of a frequency of 1; the tolerance is two roundings of a number up to e².
    #[track_caller]
    fn check(delta: f32, bound: f64, expected: f64) {
        for granularity in GRANULARITIES {
            let inv_freq = Tensor::ones([4], &Device::flex());
            let moved = offset(granularity, delta, bound).apply(inv_freq);
            for frequency in numbers(moved) {
                assert!((frequency - expected).abs() <= 1e-6, "{granularity}: {frequency}");
            }
        }
    }

    #[test]
    fn an_offset_is_a_change_of_the_log_frequency_within_its_bound() {
        check(0.0, 0.5, 1.0);
        check(0.2, 0.5, (0.5 * (0.2_f64 / 0.5).tanh()).exp());
        check(-0.2, 0.5, (-0.5 * (0.2_f64 / 0.5).tanh()).exp());
        check(100.0, 0.5, 0.5_f64.exp());
        check(-100.0, 0.5, (-0.5_f64).exp());
        check(100.0, 2.0, 2.0_f64.exp());
    }

    #[test]
    fn the_default_bound_lets_a_frequency_halve_or_double() {
        let bound = RopeOffsetConfig::new(RopeGranularity::Head).bound;
        check(100.0, bound, 2.0);
        check(-100.0, bound, 0.5);
    }

    /// One rounding of a frequency below one.
    #[test]
    fn the_slope_at_zero_is_the_frequency() {
        let device = Device::flex().autodiff();
        let offset = RopeOffset::new(RopeOffsetConfig::new(RopeGranularity::Pair), 3, 8, &device);
        let inv_freq = random([4], 1, &device);
        let gradients = offset.apply(inv_freq.clone()).sum().backward();
        let slopes = offset.delta.val().grad(&gradients).unwrap();
        let error = error(slopes, inv_freq.unsqueeze::<2>().expand([3, 4]));
        assert!(error <= 1e-7, "off by {error:e}");
    }

    /// LLaMA-2-7B: 32 layers of 32 heads, each of 64 pairs.
    #[test]
    fn a_llama_2_7b_has_1024_offsets_of_heads() {
        let count = |granularity| RopeOffset::shape(granularity, 32, 128).iter().product::<usize>();
        assert_eq!(32 * count(RopeGranularity::Head), 1024);
        assert_eq!(32 * count(RopeGranularity::Pair), 65_536);
        assert_eq!(count(RopeGranularity::Shared), 64);
    }

    #[test]
    fn a_granularity_is_written_as_it_is_printed() {
        for granularity in GRANULARITIES {
            let json = serde_json::to_string(&granularity).unwrap();
            assert_eq!(json, format!("\"{granularity}\""));
        }
    }
}
