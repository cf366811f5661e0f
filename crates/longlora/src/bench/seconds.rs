//! Wall-clock times of something that is repeated.

use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::Device;

use crate::device::is_processor;

/// Wall-clock seconds of each of some repetitions of the same work; at least one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seconds(pub(super) Vec<f64>);

impl Seconds {
    /// Does `work` so many times, but at least once, and waits for the device each time. On a GPU it is done once more
    /// before, since kernels are compiled at their first use.
    pub(super) fn of(repeat: usize, device: &Device, mut work: impl FnMut()) -> Result<Self> {
        let mut once = || {
            let start = Instant::now();
            work();
            device.sync().context("the device did not finish its work")?;
            Ok(start.elapsed().as_secs_f64())
        };
        for _ in 0..warm_up(device) {
            once()?;
        }
        (0..repeat.max(1)).map(|_| once()).collect::<Result<_>>().map(Self)
    }

    /// The middle one, or the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        } else {
            sorted[middle]
        }
    }

    pub(super) fn shortest(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// To the millisecond, for a line of JSON.
    pub(super) fn rounded(&self) -> Vec<f64> {
        self.0.iter().map(|seconds| (seconds * 1000.0).round() / 1000.0).collect()
    }
}

/// How often something is done before its time is taken.
pub(super) fn warm_up(device: &Device) -> usize {
    usize::from(!is_processor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |seconds: &[f64]| Seconds(seconds.to_vec()).median();
        assert_eq!(median(&[3.0, 1.0, 8.0]), 3.0);
        assert_eq!(median(&[3.0, 1.0, 8.0, 4.0]), 3.5);
        assert_eq!(median(&[2.0]), 2.0);
    }
}
