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
