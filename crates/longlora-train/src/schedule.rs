//! Learning rate over the steps.

use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// The peak, to the end: LongLoRA's choice.
    Constant,
    /// Down to a tenth of the peak on half a cosine.
    Cosine,
}

/// A linear warm-up, then constant or decaying: a function of the step alone.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Learning rate after the warm-up.
    pub peak: f64,
    /// Steps until the peak is reached; LongLoRA has 20.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
    /// Steps taken so far.
    pub step: u64,
}

impl Schedule {
    /// The rate of step `step`, from 0: `peak · (step + 1) / warmup_steps` at first.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let rest = self.steps.saturating_sub(self.warmup_steps).max(1);
                let done = (step - self.warmup_steps) as f64 / rest as f64;
                let half_cosine = (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()) / 2.0;
                self.peak * (0.1 + 0.9 * half_cosine)
            }
        }
    }
}

impl LrScheduler for Schedule {
    fn step(&mut self) -> f64 {
        let rate = self.rate(self.step);
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("step", self.step)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.step = record.scalar("step").unwrap_or(self.step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_rises_to_the_peak_and_stays() {
        let schedule =
            Schedule { peak: 2.0, warmup_steps: 4, steps: 9, decay: Decay::Constant, step: 0 };
        let rates: Vec<f64> = (0..6).map(|step| schedule.rate(step)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn the_cosine_ends_at_a_tenth() {
        let schedule =
            Schedule { peak: 1.0, warmup_steps: 0, steps: 10, decay: Decay::Cosine, step: 0 };
        assert_eq!(schedule.rate(0), 1.0);
        assert!((schedule.rate(10) - 0.1).abs() < 1e-12);
    }

    /// Cosines of 60, 90 and 120 degrees.
    #[test]
    fn the_cosine_begins_behind_the_warm_up_and_stays_at_its_end() {
        let schedule =
            Schedule { peak: 2.0, warmup_steps: 4, steps: 16, decay: Decay::Cosine, step: 0 };
        let points = [
            (0, 0.5),
            (3, 2.0),
            (4, 2.0),
            (8, 2.0 * (0.1 + 0.9 * 0.75)),
            (10, 2.0 * (0.1 + 0.9 * 0.5)),
            (12, 2.0 * (0.1 + 0.9 * 0.25)),
            (16, 0.2),
            (99, 0.2),
        ];
        for (step, rate) in points {
            let ours = schedule.rate(step);
            assert!((ours - rate).abs() < 1e-12, "step {step}: {ours} instead of {rate}");
        }
    }
}
