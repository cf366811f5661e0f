//! Which configs make sense: everything the frequencies rely on, checked before any tensor exists.

use super::{ORIGINAL, RopeConfig, RopeError, RopeScaling};

/// Tokens that no model reaches; GGUF counts them in 32 bits.
const LONGEST: usize = 1 << 31;

impl RopeConfig {
    /// Checks everything [`RopeConfig::frequencies`] relies on. Call it once, before any tensor
    /// exists.
    ///
    /// Stricter than transformers, which only warns of a factor below 1 or of bounds in the wrong
    /// order.
    ///
    /// # Errors
    /// [`RopeError::OutOfRange`] or [`RopeError::WrongLength`], naming the field.
    pub fn validate(&self) -> Result<(), RopeError> {
        let least = self.scaling.least_head_dim();
        let even = self.head_dim.is_multiple_of(2) && self.head_dim >= least;
        require(even, "head_dim", self.head_dim as f64, || format!("even and at least {least}"))?;
        require(self.theta.is_finite() && self.theta > 1.0, "rope_theta", self.theta, || {
            "finite and above 1".to_owned()
        })?;
        some_tokens("max_position_embeddings", self.max_position_embeddings)?;
        self.scaling.validate(self.head_dim)
    }
}

impl RopeScaling {
    /// A changed base divides by `head_dim - 2`; the others need one pair.
    fn least_head_dim(&self) -> usize {
        match self {
            Self::Ntk { .. } | Self::Dynamic { .. } => 4,
            _ => 2,
        }
    }

    fn validate(&self, head_dim: usize) -> Result<(), RopeError> {
        match self {
            Self::None => Ok(()),
            Self::Ntk { factor } => stretches("factor", *factor),
            Self::Linear { factor, original_max_position_embeddings } => {
                stretches("factor", *factor)?;
                let original = *original_max_position_embeddings;
                original.map_or(Ok(()), |original| some_tokens(ORIGINAL, original))
            }
            Self::Dynamic { factor, original_max_position_embeddings } => {
                stretches("factor", *factor)?;
                some_tokens(ORIGINAL, *original_max_position_embeddings)
            }
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate: _,
            } => {
                stretches("factor", *factor)?;
                some_tokens(ORIGINAL, *original_max_position_embeddings)?;
                positive("beta_slow", *beta_slow)?;
                let ordered = beta_fast.is_finite() && beta_fast >= beta_slow;
                require(ordered, "beta_fast", *beta_fast, || {
                    format!("finite and at least beta_slow, {beta_slow}")
                })?;
                optional("attention_factor", *attention_factor, positive)?;
                optional("mscale", *mscale, not_negative)?;
                optional("mscale_all_dim", *mscale_all_dim, not_negative)
            }
            Self::LongRope {
                short_factor,
                long_factor,
                factor,
                original_max_position_embeddings,
                attention_factor,
            } => {
                divisors("short_factor", short_factor, head_dim)?;
                divisors("long_factor", long_factor, head_dim)?;
                optional("factor", *factor, stretches)?;
                let original = *original_max_position_embeddings;
                // ln(1) is zero, and it divides.
                require(original >= 2, ORIGINAL, original as f64, || "at least 2".to_owned())?;
                optional("attention_factor", *attention_factor, positive)
            }
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                stretches("factor", *factor)?;
                some_tokens(ORIGINAL, *original_max_position_embeddings)?;
                positive("low_freq_factor", *low_freq_factor)?;
                let above = high_freq_factor.is_finite() && high_freq_factor > low_freq_factor;
                require(above, "high_freq_factor", *high_freq_factor, || {
                    format!("finite and above low_freq_factor, {low_freq_factor}")
                })
            }
        }
    }
}

fn require(
    holds: bool,
    field: &'static str,
    value: f64,
    wanted: impl FnOnce() -> String,
) -> Result<(), RopeError> {
    if holds { Ok(()) } else { Err(RopeError::OutOfRange { field, value, wanted: wanted() }) }
}

fn stretches(field: &'static str, value: f64) -> Result<(), RopeError> {
    require(value.is_finite() && value >= 1.0, field, value, || "finite and at least 1".to_owned())
}

fn positive(field: &'static str, value: f64) -> Result<(), RopeError> {
    require(value.is_finite() && value > 0.0, field, value, || "finite and above 0".to_owned())
}

fn not_negative(field: &'static str, value: f64) -> Result<(), RopeError> {
    require(value.is_finite() && value >= 0.0, field, value, || "finite and at least 0".to_owned())
}

fn some_tokens(field: &'static str, tokens: usize) -> Result<(), RopeError> {
    let fine = (1..=LONGEST).contains(&tokens);
    require(fine, field, tokens as f64, || format!("at least 1 and at most {LONGEST}"))
}

fn optional(
    field: &'static str,
    value: Option<f64>,
    check: impl FnOnce(&'static str, f64) -> Result<(), RopeError>,
) -> Result<(), RopeError> {
    value.map_or(Ok(()), |value| check(field, value))
}

fn divisors(field: &'static str, values: &[f64], head_dim: usize) -> Result<(), RopeError> {
    let (expected, actual) = (head_dim / 2, values.len());
    if actual != expected {
        return Err(RopeError::WrongLength { field, expected, actual });
    }
    values.iter().try_for_each(|&value| positive(field, value))
}
