//! Confidence by resampling.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Draws; their 2.5th and 97.5th percentiles have a Monte-Carlo error of a few percent of the interval's width.
const DRAWS: usize = 2000;

/// A 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// What was measured.
    pub mean: f64,
    /// 2.5th percentile of the draws.
    pub low: f64,
    /// 97.5th percentile of the draws.
    pub high: f64,
}

impl Interval {
    /// Whether zero is outside: the difference is told from none.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The 95 % percentile interval of `Σ sum / Σ weight` over pieces of evidence of `(weight, sum)`, by drawing as many of
/// them as there are, with replacement (Efron 1979). With differences of pairs as sums it is the paired bootstrap:
/// what is hard for both cancels within each piece.
///
/// `None` with fewer than two pieces. The same `seed` gives the same interval.
pub fn bootstrap(pieces: &[(f64, f64)], seed: u64) -> Option<Interval> {
    if pieces.len() < 2 {
        return None;
    }
    let ratio = |(weight, sum): (f64, f64)| sum / weight;
    let add = |a: (f64, f64), b: &(f64, f64)| (a.0 + b.0, a.1 + b.1);
    let mean = ratio(pieces.iter().fold((0.0, 0.0), add));
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let mut drawn = (0.0, 0.0);
            for _ in 0..pieces.len() {
                drawn = add(drawn, &pieces[random.random_range(0..pieces.len())]);
            }
            ratio(drawn)
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    let percentile = |share: f64| draws[((DRAWS - 1) as f64 * share).round() as usize];
    Some(Interval { mean, low: percentile(0.025), high: percentile(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_normal_distribution_where_that_holds() {
        let pieces: Vec<(f64, f64)> =
            (0..400).map(|n| (1.0, f64::from(n * 37 % 400) / 400.0)).collect();
        let Interval { mean, low, high } = bootstrap(&pieces, 1).unwrap();
        let error = (1.0f64 / 12.0 / 400.0).sqrt();
        assert!((mean - 0.5).abs() < 0.01);
        for (end, expected) in [(low, mean - 1.96 * error), (high, mean + 1.96 * error)] {
            assert!((end - expected).abs() < 0.15 * error, "{end} instead of {expected}");
        }
        assert_eq!(bootstrap(&pieces, 1), bootstrap(&pieces, 1));
        assert_ne!(bootstrap(&pieces, 1), bootstrap(&pieces, 2));
    }

    #[test]
    fn pieces_weigh_what_they_weigh() {
        let interval = bootstrap(&[(1.0, 2.0), (3.0, 6.0)], 0).unwrap();
        assert_eq!((interval.mean, interval.low, interval.high), (2.0, 2.0, 2.0));
        assert!(interval.excludes_zero());
    }

    #[test]
    fn one_piece_says_nothing_about_others() {
        assert_eq!(bootstrap(&[(1.0, 2.0)], 0), None);
    }
}
