//! Loss by position: what a longer context is worth.

use serde::{Deserialize, Serialize};

use crate::measurement::standard_error;

/// Bins of equal width behind the doubling ones.
const EQUAL: usize = 16;

/// The scored tokens with about as many tokens before them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionBin {
    /// Fewest tokens before one of them in its window.
    pub start: usize,
    /// One more than the most.
    pub end: usize,
    /// Predictions scored.
    pub tokens: usize,
    /// Sum of their negative log-likelihoods, in nats.
    pub nll_sum: f64,
    /// Standard error of [`nll`](Self::nll) over windows; `None` with fewer than two, or where they overlap.
    pub nll_standard_error: Option<f64>,
}

impl PositionBin {
    /// Mean negative log-likelihood, in nats per token.
    pub fn nll(&self) -> f64 {
        self.nll_sum / self.tokens as f64
    }
}

/// Where bins begin for windows of `length` tokens: at powers of two, then, from a sixteenth of the length on, at its
/// sixteenths. Context is worth most where there is least of it, and it is the end of the window that is asked about.
fn starts(length: usize) -> Vec<usize> {
    let step = length.div_ceil(EQUAL).max(1);
    let doubling =
        std::iter::successors(Some(1), |start| Some(2 * start)).take_while(|&start| start < step);
    let equal = (step.max(1)..length).step_by(step);
    doubling.chain(equal).collect()
}

/// Counts scored tokens by how many stand before them.
#[derive(Debug)]
pub(crate) struct PositionTally {
    length: usize,
    starts: Vec<usize>,
    /// For each bin, the scored tokens of each window and their sum.
    windows: Vec<Vec<(usize, f64)>>,
}

impl PositionTally {
    pub(crate) fn new(length: usize) -> Self {
        let starts = starts(length);
        let windows = vec![vec![]; starts.len()];
        Self { length, starts, windows }
    }

    /// Adds a window whose scored tokens are the last ones; the first of them has `first` tokens before it.
    pub(crate) fn add(&mut self, first: usize, nll: &[f32]) {
        let end = first + nll.len();
        for (bin, windows) in self.windows.iter_mut().enumerate() {
            let bin_end = self.starts.get(bin + 1).copied().unwrap_or(self.length);
            let [from, to] = [self.starts[bin], bin_end].map(|position| position.clamp(first, end));
            let scored = &nll[from - first..to - first];
            if !scored.is_empty() {
                let sum = scored.iter().map(|&nll| f64::from(nll)).sum();
                windows.push((scored.len(), sum));
            }
        }
    }

    /// The bins in which anything was scored.
    ///
    /// Windows that overlap are no pieces of evidence, and give no standard error.
    pub(crate) fn finish(self, windows_overlap: bool) -> Vec<PositionBin> {
        let ends = self.starts[1..].iter().copied().chain([self.length]);
        let bins = self.starts.iter().zip(ends).zip(&self.windows);
        bins.filter(|(_, windows)| !windows.is_empty())
            .map(|((&start, end), windows)| PositionBin {
                start,
                end,
                tokens: windows.iter().map(|(tokens, _)| tokens).sum(),
                nll_sum: windows.iter().map(|(_, sum)| sum).sum(),
                nll_standard_error: if windows_overlap { None } else { standard_error(windows) },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_double_and_then_are_equal() {
        assert_eq!(starts(64), [1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60]);
        assert_eq!(starts(2), [1]);
        assert_eq!(starts(5), [1, 2, 3, 4]);
    }

    #[test]
    fn a_token_counts_where_it_stands_in_its_window() {
        let mut tally = PositionTally::new(32);
        tally.add(1, &[1.0; 31]);
        tally.add(20, &[3.0; 4]);
        let bins = tally.finish(false);
        let at = |start| bins.iter().find(|bin| bin.start == start).unwrap();
        assert_eq!((at(1).end, at(1).tokens, at(1).nll()), (2, 1, 1.0));
        assert_eq!((at(20).end, at(20).tokens, at(20).nll()), (22, 4, 2.0));
        assert_eq!((at(24).tokens, at(24).nll_standard_error), (2, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn bins_cover_every_position_once(length in 2..5000usize) {
            let mut tally = PositionTally::new(length);
            tally.add(1, &vec![0.5; length - 1]);
            let bins = tally.finish(false);
            prop_assert_eq!(bins[0].start, 1);
            prop_assert_eq!(bins[bins.len() - 1].end, length);
            for pair in bins.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
            for bin in &bins {
                prop_assert_eq!(bin.tokens, bin.end - bin.start);
            }
        }
    }
}
