//! From a config to the numbers that rotate. f32 and f64 alternate as in transformers, whose
//! tensors are f32 and whose loose numbers are f64: a model is to see the very frequencies it was
//! trained with.

use std::f64::consts::TAU;

use super::{RopeConfig, RopeScaling};

/// What turns a position into cos and sin, for one length of the sequence at hand.
///
/// `cos[position, i] = attention_factor · cos(position · inv_freq[i])`, and sin alike.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies {
    /// Angle per position of each of the `head_dim / 2` pairs, in radians.
    pub inv_freq: Vec<f32>,
    /// Factor on cos and on sin, hence its square on every attention score.
    pub attention_factor: f32,
}

impl RopeConfig {
    /// Frequencies for a sequence of `seq` tokens; only dynamic and longrope depend on `seq`.
    ///
    /// ```text
    /// inv_freq[i] = theta^(-2i / head_dim)
    /// ```
    /// (RoPE, arXiv:2104.09864, sec. 3.2.2), changed as each [`RopeScaling`] says.
    ///
    /// A config that [`RopeConfig::validate`] refuses gives meaningless numbers, NaN among them.
    pub fn frequencies(&self, seq: usize) -> RopeFrequencies {
        let (inv_freq, attention_factor) = match &self.scaling {
            RopeScaling::None => (self.plain(self.theta), 1.0),
            RopeScaling::Linear { factor, .. } => (
                self.plain(self.theta).into_iter().map(|freq| freq / *factor as f32).collect(),
                1.0,
            ),
            RopeScaling::Ntk { factor } => (self.plain(self.stretched_theta(*factor)), 1.0),
            &RopeScaling::Dynamic { factor, original_max_position_embeddings: original } => {
                let grown = factor * seq.max(original) as f64 / original as f64 - (factor - 1.0);
                (self.plain(self.stretched_theta(grown)), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: original,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => {
                let ramp = self.yarn_ramp(*original, [*beta_fast, *beta_slow], *truncate);
                let temperature = attention_factor
                    .unwrap_or_else(|| yarn_attention_factor(*factor, *mscale, *mscale_all_dim));
                (self.yarn(*factor, ramp), temperature)
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                factor,
                original_max_position_embeddings: original,
                attention_factor,
            } => {
                let divisors = if seq > *original { long_factor } else { short_factor };
                let temperature = attention_factor
                    .unwrap_or_else(|| self.longrope_attention_factor(*factor, *original));
                (self.longrope(divisors), temperature)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => (self.llama3(*factor, [*low_freq_factor, *high_freq_factor], *original), 1.0),
        };
        RopeFrequencies { inv_freq, attention_factor: attention_factor as f32 }
    }

    /// The longest sequence that has the frequencies of one of `seq` tokens; `None`, if one token more changes them.
    pub fn steady_until(&self, seq: usize) -> Option<usize> {
        match self.scaling {
            RopeScaling::Dynamic { original_max_position_embeddings: original, .. } => {
                (seq <= original).then_some(original)
            }
            RopeScaling::LongRope { original_max_position_embeddings: original, .. }
                if seq <= original =>
            {
                Some(original)
            }
            _ => Some(usize::MAX),
        }
    }

    /// By what each plain frequency `theta^(-2i / head_dim)` is divided: the `longrope` factors that say the same.
    ///
    /// For scalings that do not depend on the sequence at hand; of LongRoPE, the long factors.
    pub fn divisors(&self) -> Vec<f64> {
        let scaled = self.frequencies(usize::MAX).inv_freq;
        let plain = self.plain(self.theta).into_iter();
        plain.zip(scaled).map(|(plain, scaled)| f64::from(plain) / f64::from(scaled)).collect()
    }

    /// `theta · factor^(head_dim / (head_dim - 2))`: then pair 0 keeps its frequency, the last is
    /// slowed by `factor`.
    pub(super) fn stretched_theta(&self, factor: f64) -> f64 {
        let head_dim = self.head_dim as f64;
        self.theta * factor.powf(head_dim / (head_dim - 2.0))
    }

    /// LongRoPE's factor on cos and sin, `sqrt(1 + ln(stretch) / ln(original))`; its authors' Phi-3
    /// and transformers have it so.
    pub(super) fn longrope_attention_factor(&self, factor: Option<f64>, original: usize) -> f64 {
        let original = original as f64;
        let stretch = factor.unwrap_or(self.max_position_embeddings as f64 / original);
        if stretch <= 1.0 { 1.0 } else { (1.0 + stretch.ln() / original.ln()).sqrt() }
    }

    fn plain(&self, theta: f64) -> Vec<f32> {
        self.periods(theta).map(|period| 1.0 / period).collect()
    }

    /// Positions per radian, `theta^(2i / head_dim)`; the wavelength is 2π of them.
    fn periods(&self, theta: f64) -> impl Iterator<Item = f32> {
        let (theta, head_dim) = (theta as f32, self.head_dim as f32);
        (0..self.head_dim / 2).map(move |pair| theta.powf((2 * pair) as f32 / head_dim))
    }

    /// YaRN, arXiv:2309.00071, sec. 3.2: `(1 - γ) · freq / factor + γ · freq`, where
    /// `γ = 1 - ramp`.
    fn yarn(&self, factor: f64, ramp: impl Iterator<Item = f32>) -> Vec<f32> {
        let blend = |(period, ramp): (f32, f32)| {
            let kept = 1.0 - ramp;
            1.0 / (factor as f32 * period) * (1.0 - kept) + 1.0 / period * kept
        };
        self.periods(self.theta).zip(ramp).map(blend).collect()
    }

    /// How far each pair is on its way from untouched, 0, to fully slowed, 1.
    ///
    /// Differs from the paper, where the ramp is linear in the number of turns: YaRN's code and
    /// everyone after it let it be linear in the pair's index, between the pairs that turn
    /// `beta_fast` and `beta_slow` times.
    fn yarn_ramp(
        &self,
        original: usize,
        [beta_fast, beta_slow]: [f64; 2],
        truncate: bool,
    ) -> impl Iterator<Item = f32> {
        let head_dim = self.head_dim as f64;
        let pair_turning = |turns: f64| {
            head_dim * (original as f64 / (turns * TAU)).ln() / (2.0 * self.theta.ln())
        };
        let (first, last) = (pair_turning(beta_fast), pair_turning(beta_slow));
        let (first, last) = if truncate { (first.floor(), last.ceil()) } else { (first, last) };
        let (first, last) = (first.max(0.0), last.min(head_dim - 1.0));
        // Where both ends fall together transformers makes the ramp a step this wide.
        let width = if first == last { 0.001 } else { last - first };
        (0..self.head_dim / 2)
            .map(move |pair| ((pair as f32 - first as f32) / width as f32).clamp(0.0, 1.0))
    }

    fn longrope(&self, divisors: &[f64]) -> Vec<f32> {
        let slow = |(period, divisor): (f32, &f64)| 1.0 / (*divisor as f32 * period);
        self.periods(self.theta).zip(divisors).map(slow).collect()
    }

    /// LLaMA 3.1: long waves stretched by `factor`, short ones kept, a blend linear in the
    /// frequency between.
    fn llama3(&self, factor: f64, [low, high]: [f64; 2], original: usize) -> Vec<f32> {
        let original = original as f64;
        let (longest_kept, shortest_slowed) = ((original / high) as f32, (original / low) as f32);
        let slow = |freq: f32| {
            // PyTorch divides a number by a tensor as `reciprocal · number`; these agree with it to
            // the last bit.
            let wavelength = freq.recip() * TAU as f32;
            if wavelength < longest_kept {
                freq
            } else if wavelength > shortest_slowed {
                freq / factor as f32
            } else {
                let kept =
                    (wavelength.recip() * original as f32 - low as f32) / (high - low) as f32;
                (1.0 - kept) * freq / factor as f32 + kept * freq
            }
        };
        self.plain(self.theta).into_iter().map(slow).collect()
    }
}

/// YaRN's `1 / sqrt(t) = 0.1 · ln(factor) + 1` (arXiv:2309.00071, sec. 3.4), or DeepSeek's quotient
/// of two such terms.
///
/// As in transformers a zero counts as absent, and one of the two without the other does too.
fn yarn_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
    let term = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let given = |mscale: Option<f64>| mscale.filter(|mscale| *mscale != 0.0);
    match (given(mscale), given(mscale_all_dim)) {
        (Some(numerator), Some(denominator)) => term(numerator) / term(denominator),
        _ => term(1.0),
    }
}
