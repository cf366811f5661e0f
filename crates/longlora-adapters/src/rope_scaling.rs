//! Rotary position embedding (arXiv:2104.09864) as a model's config describes it, and its context
//! scalings.
//!
//! Pair `i` of a head of width `head_dim` turns by `position · inv_freq[i]`. Every scaling is
//! another rule for `inv_freq`, sometimes with a factor on cos and sin; nothing else of the model
//! changes:
//!
//! ```text
//! pair             0 (turns fast: near words)  ···  head_dim / 2 - 1 (turns slowly: far words)
//! linear           every pair slowed by the same factor
//! ntk, dynamic     slowed more and more from left to right
//! yarn, llama3     left: untouched │ ramp │ right: slowed by the factor
//! longrope         every pair slowed by a factor of its own, from a search
//! ```
//!
//! Numbers agree with `transformers` 4.57.1, `modeling_rope_utils.py`, of which the golden file is
//! a printout. Where version 5 reads a config otherwise, `rope_scaling` is read as 4.57 reads it, and `rope_parameters` as 5
//! does: longrope and yarn whose `original_max_position_embeddings` stands beside the dictionary or in it alone.

mod frequencies;
mod validate;
mod hugging_face;
mod error;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use error::RopeError;
pub use frequencies::RopeFrequencies;

/// Hugging Face's name of the pre-trained context, in tokens.
const ORIGINAL: &str = "original_max_position_embeddings";
/// YaRN's α and β for LLaMA, in turns within the pre-trained context (arXiv:2309.00071, sec. 3.2).
const YARN_BETA_SLOW: f64 = 1.0;
const YARN_BETA_FAST: f64 = 32.0;

/// Rotary position embedding of a model: base, width, scaling. Everything a Hugging Face config
/// says about RoPE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeConfig {
    /// Width of one head; even. Every entry is rotated, in half-split pairs
    /// `(x[i], x[i + head_dim / 2])`.
    pub head_dim: usize,
    /// Base of the geometric row of wavelengths; 10,000 in RoPE and LLaMA-2, 500,000 in LLaMA-3.
    pub theta: f64,
    /// Longest sequence the model is meant for, in tokens, after the scaling. Configs of Hugging Face often have the
    /// pre-trained context there instead: see [`RopeConfig::from_hugging_face`].
    pub max_position_embeddings: usize,
    /// How the pre-trained context is stretched.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Context the model was pre-trained with, in tokens.
    ///
    /// What the scaling records, where it does. Without scaling it is the whole context. Of ntk, and of a linear scaling
    /// that records nothing, it is the whole context divided by the factor and rounded.
    pub fn original_context(&self) -> usize {
        match &self.scaling {
            RopeScaling::None => self.max_position_embeddings,
            RopeScaling::Linear { factor, original_max_position_embeddings: None }
            | RopeScaling::Ntk { factor } => {
                (self.max_position_embeddings as f64 / factor).round() as usize
            }
            RopeScaling::Linear { original_max_position_embeddings: Some(original), .. } => {
                *original
            }
            RopeScaling::Dynamic { original_max_position_embeddings, .. }
            | RopeScaling::Yarn { original_max_position_embeddings, .. }
            | RopeScaling::LongRope { original_max_position_embeddings, .. }
            | RopeScaling::Llama3 { original_max_position_embeddings, .. } => {
                *original_max_position_embeddings
            }
        }
    }

    /// The position embedding that reaches `length` tokens: this one where it does already, else the pre-trained one,
    /// stretched. A scaling that the model came with is replaced by one for the whole way, not multiplied.
    ///
    /// # Errors
    /// [`RopeError::UnclearOriginal`], if it has to be stretched further, or perhaps has, and from where is not told.
    pub fn extended(&self, kind: RopeKind, length: usize) -> Result<Self, RopeError> {
        if let RopeScaling::Linear { factor, original_max_position_embeddings: None } = self.scaling
        {
            let said = self.original_context();
            return if length <= said {
                Ok(self.clone())
            } else {
                Err(RopeError::UnclearOriginal { said, factor })
            };
        }
        if length <= self.max_position_embeddings {
            return Ok(self.clone());
        }
        let scaling = RopeScaling::stretch(kind, self.original_context(), length);
        Ok(Self { max_position_embeddings: length, scaling, ..self.clone() })
    }
}

/// How the context of a pre-trained model is stretched.
///
/// `factor` is, but for rounding, the stretched context over the pre-trained one, and at least 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Plain RoPE.
    #[default]
    None,
    /// Position interpolation (arXiv:2306.15595, eq. 4): positions are divided by `factor`. What
    /// LongLoRA trains with.
    Linear {
        /// Every frequency is divided by it.
        factor: f64,
        /// Pre-trained context in tokens; `None` if a config does not tell, as few do: nothing that is computed depends
        /// on it, but how far the model reaches does.
        original_max_position_embeddings: Option<usize>,
    },
    /// NTK-aware interpolation with a fixed base (bloc97, 2023; told in arXiv:2309.00071, sec.
    /// 3.1): `theta' = theta · factor^(head_dim / (head_dim - 2))`, so that the last pair is slowed
    /// by exactly `factor`.
    Ntk {
        /// How much the slowest pair is slowed.
        factor: f64,
    },
    /// Dynamic NTK (emozilla, 2023; told in arXiv:2309.00071, sec. 3.3): the base grows with the
    /// sequence at hand.
    ///
    /// Up to `original_max_position_embeddings` tokens it is plain RoPE. Keys rotated at one length do not match queries of
    /// another: a cache has to hold them before their rotation.
    Dynamic {
        /// Steepness of the growth past the pre-trained context; the base is multiplied by
        /// `(factor · seq / original - (factor - 1))^(head_dim / (head_dim - 2))`.
        factor: f64,
        /// Pre-trained context in tokens.
        original_max_position_embeddings: usize,
    },
    /// NTK by parts with a temperature (YaRN, arXiv:2309.00071, sec. 3.2 and 3.4).
    Yarn {
        /// The slow pairs are slowed by it.
        factor: f64,
        /// Pre-trained context in tokens.
        original_max_position_embeddings: usize,
        /// Pairs that turn at least this often within the pre-trained context keep their frequency;
        /// the paper has 32.
        beta_fast: f64,
        /// Pairs that turn at most this often are fully slowed; the paper has 1.
        beta_slow: f64,
        /// Factor on cos and sin; `None` means `0.1 · ln(factor) + 1` (sec. 3.4), unless both
        /// `mscale` are given.
        attention_factor: Option<f64>,
        /// DeepSeek's numerator `0.1 · mscale · ln(factor) + 1`; counts only together with
        /// `mscale_all_dim`.
        mscale: Option<f64>,
        /// DeepSeek's denominator `0.1 · mscale_all_dim · ln(factor) + 1`.
        mscale_all_dim: Option<f64>,
        /// Whether the ends of the ramp are widened to whole pairs, as YaRN's own code does.
        truncate: bool,
    },
    /// One searched factor per pair (LongRoPE, arXiv:2402.13753): a set for short sequences, a set
    /// for long ones.
    ///
    /// The sequence at hand chooses: up to `original_max_position_embeddings` tokens the short
    /// factors, above the long ones. The factor on cos and sin is the same for both.
    LongRope {
        /// `head_dim / 2` divisors of the frequencies, for sequences within the pre-trained
        /// context.
        short_factor: Vec<f64>,
        /// `head_dim / 2` divisors of the frequencies, for longer sequences.
        long_factor: Vec<f64>,
        /// Stretch of the context, only used for the factor on cos and sin; `None` means
        /// `max_position_embeddings / original_max_position_embeddings`.
        factor: Option<f64>,
        /// Pre-trained context in tokens.
        original_max_position_embeddings: usize,
        /// Factor on cos and sin; `None` means
        /// `sqrt(1 + ln(factor) / ln(original_max_position_embeddings))`.
        attention_factor: Option<f64>,
    },
    /// Interpolation by wavelength of LLaMA 3.1 (arXiv:2407.21783; the formula is in Meta's
    /// `llama-models`).
    Llama3 {
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched by
        /// it; LLaMA 3.1 has 8.
        factor: f64,
        /// See `factor`; LLaMA 3.1 has 1.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` stay; LLaMA 3.1
        /// has 4.
        high_freq_factor: f64,
        /// Pre-trained context in tokens; LLaMA 3.1 has 8,192.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// Scaling that stretches a context of `original` tokens to `target`, everything else as its
    /// paper has it.
    ///
    /// [`RopeKind::Linear`] takes LongLoRA's whole factor, `target / original` rounded up; the
    /// others take the exact ratio. A target within the original context needs no scaling: the
    /// result is [`RopeScaling::None`].
    ///
    /// # Panics
    /// If `original` is zero.
    pub fn stretch(kind: RopeKind, original: usize, target: usize) -> Self {
        assert!(original > 0, "the pre-trained context needs at least one token, got {original}");
        if target <= original {
            return Self::None;
        }
        let factor = target as f64 / original as f64;
        match kind {
            RopeKind::None => Self::None,
            RopeKind::Linear => Self::Linear {
                factor: factor.ceil(),
                original_max_position_embeddings: Some(original),
            },
            RopeKind::Ntk => Self::Ntk { factor },
            RopeKind::Dynamic => {
                Self::Dynamic { factor, original_max_position_embeddings: original }
            }
            RopeKind::Yarn => Self::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast: YARN_BETA_FAST,
                beta_slow: YARN_BETA_SLOW,
                attention_factor: None,
                mscale: None,
                mscale_all_dim: None,
                truncate: true,
            },
            RopeKind::Llama3 => Self::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: original,
            },
        }
    }

    /// The name in our own files: `none`, `linear`, `ntk`, `dynamic`, `yarn`, `longrope` or
    /// `llama3`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Linear { .. } => "linear",
            Self::Ntk { .. } => "ntk",
            Self::Dynamic { .. } => "dynamic",
            Self::Yarn { .. } => "yarn",
            Self::LongRope { .. } => "longrope",
            Self::Llama3 { .. } => "llama3",
        }
    }
}

/// A scaling by name, as a command line or a run file asks for it; [`RopeScaling::stretch`] fills
/// in the numbers.
///
/// LongRoPE is absent: its factors come from a search, so it is only ever read from a model's
/// config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeKind {
    /// [`RopeScaling::None`].
    None,
    /// [`RopeScaling::Linear`], LongLoRA's choice.
    #[default]
    Linear,
    /// [`RopeScaling::Ntk`].
    Ntk,
    /// [`RopeScaling::Dynamic`].
    Dynamic,
    /// [`RopeScaling::Yarn`].
    Yarn,
    /// [`RopeScaling::Llama3`].
    Llama3,
}

impl RopeKind {
    /// Every kind, in the order in which help texts list them.
    pub const ALL: [Self; 6] =
        [Self::None, Self::Linear, Self::Ntk, Self::Dynamic, Self::Yarn, Self::Llama3];

    /// The name that [`FromStr`] reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Ntk => "ntk",
            Self::Dynamic => "dynamic",
            Self::Yarn => "yarn",
            Self::Llama3 => "llama3",
        }
    }
}

impl fmt::Display for RopeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for RopeKind {
    type Err = RopeError;

    fn from_str(name: &str) -> Result<Self, RopeError> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            RopeError::UnknownKind {
                kind: name.to_owned(),
                known: Self::ALL.map(Self::name).join(", "),
            }
        })
    }
}

#[cfg(test)]
mod tests;
