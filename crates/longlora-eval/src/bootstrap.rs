//! Confidence by resampling.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Pieces of evidence from which on draws from them are about as far apart as they should be. With three pieces, every
/// fourth interval would miss what is true, with eight every ninth.
pub const ENOUGH_PIECES: usize = 16;
/// 97.5th percentiles of Student's t with 1, 2, … degrees of freedom.
const STUDENT: [f64; ENOUGH_PIECES - 2] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145,
];
/// The same of the normal distribution.
const NORMAL: f64 = 1.960;

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
/// With fewer than 16 pieces it is that of Student's t around the mean, since draws from so few are too near to each other.
/// `None` with fewer than two. The same `seed` gives the same interval.
pub fn bootstrap(pieces: &[(f64, f64)], seed: u64) -> Option<Interval> {
    if pieces.len() < 2 {
        return None;
    }
    let ratio = |(weight, sum): (f64, f64)| sum / weight;
    let add = |a: (f64, f64), b: &(f64, f64)| (a.0 + b.0, a.1 + b.1);
    let mean = ratio(pieces.iter().fold((0.0, 0.0), add));
    if pieces.len() < ENOUGH_PIECES {
        let width = half_width(pieces.len()) * standard_error(pieces)?;
        return Some(Interval { mean, low: mean - width, high: mean + width });
    }
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

/// Half of a 95 % interval in standard errors, as far as so many pieces can tell.
pub(crate) fn half_width(pieces: usize) -> f64 {
    if pieces < ENOUGH_PIECES { STUDENT[pieces.saturating_sub(2)] } else { NORMAL }
}

/// That of a ratio of sums; see [`Measurement::nll_standard_error`](crate::Measurement::nll_standard_error). `None` with
/// fewer than two pieces.
pub(crate) fn standard_error(pieces: &[(f64, f64)]) -> Option<f64> {
    if pieces.len() < 2 {
        return None;
    }
    let weight: f64 = pieces.iter().map(|(weight, _)| weight).sum();
    let sum: f64 = pieces.iter().map(|(_, sum)| sum).sum();
    let (count, mean) = (pieces.len() as f64, sum / weight);
    let squares = pieces.iter().map(|(weight, sum)| (sum - weight * mean).powi(2));
    Some((count / (count - 1.0) * squares.sum::<f64>()).sqrt() / weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 400 samples of each size, which differ from nothing by chance alone, about every twentieth interval may exclude
    /// zero.
    #[test]
    fn few_pieces_do_not_pretend_to_know() {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        for (pieces, most) in [(2, 0.07), (3, 0.07), (5, 0.07), (8, 0.07), (16, 0.10), (32, 0.08)] {
            let mut wrong = 0;
            for _ in 0..400 {
                // A sum of twelve uniform draws is nearly normal.
                let mut draw = || (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
                let sample: Vec<(f64, f64)> = (0..pieces).map(|_| (1.0, draw())).collect();
                wrong += usize::from(bootstrap(&sample, 0).unwrap().excludes_zero());
            }
            let share = wrong as f64 / 400.0;
            assert!(share <= most + 0.02, "{pieces} pieces: {share} instead of 0.05");
        }
    }

    /// Nor to know less than they do.
    #[test]
    fn few_pieces_have_the_interval_of_students_t() {
        let check = |last: u32, quantile: f64, deviation: f64| {
            let pieces: Vec<(f64, f64)> = (1..=last).map(|n| (1.0, f64::from(n))).collect();
            let Interval { mean, low, high } = bootstrap(&pieces, 0).unwrap();
            let width = quantile * deviation / f64::from(last).sqrt();
            assert_eq!(mean, f64::from(last + 1) / 2.0);
            for (end, expected) in [(low, mean - width), (high, mean + width)] {
                assert!((end - expected).abs() < 1e-12, "{end} instead of {expected}");
            }
        };
        check(2, 12.706, 0.5f64.sqrt());
        check(3, 4.303, 1.0);
        check(5, 2.776, 2.5f64.sqrt());
        check(15, 2.145, 20f64.sqrt());
        assert_eq!([15, 16, 400].map(half_width), [2.145, 1.960, 1.960]);
    }

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
