//! What a longer context cost at the lengths that the model could read before.

use serde::{Deserialize, Serialize};

use crate::{EvalError, Interval, Measurement, paired_difference};

/// Two perplexities of one length: of the model as it was, and as it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// Tokens per window.
    pub length: usize,
    /// Perplexity before.
    pub before: f64,
    /// Perplexity after.
    pub after: f64,
    /// By what share it rose: 0.02 is 2 %. Negative, if it fell.
    pub increase: f64,
    /// 95 % interval of `increase`: that of the [`Difference`](crate::Difference).
    pub interval: Option<Interval>,
}

impl Retention {
    /// Compares a model with what it was, on the same windows.
    ///
    /// # Errors
    /// [`EvalError::OtherWindows`]
    pub fn of(before: &Measurement, after: &Measurement) -> Result<Self, EvalError> {
        let difference = paired_difference(after, before)?;
        let rise = |nll: f64| nll.exp() - 1.0;
        Ok(Self {
            length: after.length,
            before: before.perplexity(),
            after: after.perplexity(),
            increase: rise(difference.nll),
            interval: difference.interval.map(|Interval { mean, low, high }| Interval {
                mean: rise(mean),
                low: rise(low),
                high: rise(high),
            }),
        })
    }

    /// Whether the perplexity rose by no more than `limit`; something that is no number did not pass.
    pub fn passes(&self, limit: f64) -> bool {
        self.increase <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stretch;

    fn measurement(nlls: &[f64]) -> Measurement {
        let stretch = |(index, nll): (usize, &f64)| Stretch {
            document: 0,
            start: index * 8,
            tokens: 7,
            nll_sum: 7.0 * nll,
        };
        let stretches = nlls.iter().enumerate().map(stretch).collect();
        Measurement::new(8, nlls.len(), "same".to_owned(), stretches)
    }

    #[test]
    fn a_rise_is_a_share_of_what_was() {
        let before = measurement(&[2.0, 3.0, 4.0]);
        let after = measurement(&[2.1, 3.1, 4.1]);
        let retention = Retention::of(&before, &after).unwrap();
        assert!((retention.increase - (0.1f64.exp() - 1.0)).abs() < 1e-12);
        assert!(retention.passes(0.11) && !retention.passes(0.10));
        let Interval { low, high, .. } = retention.interval.unwrap();
        assert!((low - high).abs() < 1e-9, "what is hard for both cancels");
        assert!(Retention::of(&after, &before).unwrap().passes(0.0));
    }

    #[test]
    fn what_is_no_number_does_not_pass() {
        let retention = Retention {
            increase: f64::NAN,
            ..Retention::of(&measurement(&[2.0]), &measurement(&[2.0])).unwrap()
        };
        assert!(!retention.passes(1e9));
    }
}
