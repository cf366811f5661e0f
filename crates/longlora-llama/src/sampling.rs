//! Choosing the next token: filters on the logits as transformers has them, and a draw from a seed.

use std::cmp::Ordering;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the next token is chosen. The filters work in this order, that of transformers: repetition penalty, temperature,
/// top-k, top-p, min-p; each sees what the one before has left.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; at 0 the likeliest token is taken, and only the repetition penalty counts.
    pub temperature: f64,
    /// Only the likeliest tokens, this many, and those as likely as the last of them.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability (arXiv:1904.09751).
    pub top_p: Option<f64>,
    /// Only tokens at least this likely, relative to the likeliest one (arXiv:2407.01082).
    pub min_p: Option<f64>,
    /// Makes tokens that the text has already less likely (arXiv:1909.05858, sec. 4.1); 1 leaves them as they are.
    pub repetition_penalty: f64,
    /// Of the draws.
    pub seed: u64,
}

/// The likeliest token, always.
impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Why tokens cannot be chosen so.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum SamplingError {
    /// No number to divide by.
    #[error(
        "temperature `{temperature}` is neither 0 nor a number of at least 0.0001; 0 takes the likeliest token"
    )]
    Temperature {
        /// What was asked for.
        temperature: f64,
    },
    /// Nothing would be left.
    #[error("top-k `0` leaves no token; use at least 1, or leave it out")]
    NoTopK,
    /// Not a probability to reach.
    #[error("top-p `{top_p}` is not in (0, 1]; 1 keeps every token")]
    TopP {
        /// What was asked for.
        top_p: f64,
    },
    /// Not a share.
    #[error("min-p `{min_p}` is not in [0, 1]; 0 keeps every token")]
    MinP {
        /// What was asked for.
        min_p: f64,
    },
    /// Not a factor.
    #[error(
        "repetition penalty `{repetition_penalty}` is not in [0.001, 1000]; 1 leaves repetitions as they are"
    )]
    RepetitionPenalty {
        /// What was asked for.
        repetition_penalty: f64,
    },
}

impl Sampling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`SamplingError`], naming the number.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, seed: _ } = *self;
        // Below that, differences of logits are no longer f32.
        if temperature != 0.0 && !(temperature >= 1e-4 && temperature.is_finite()) {
            return Err(SamplingError::Temperature { temperature });
        }
        if top_k == Some(0) {
            return Err(SamplingError::NoTopK);
        }
        if let Some(top_p) = top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
            return Err(SamplingError::TopP { top_p });
        }
        if let Some(min_p) = min_p.filter(|min_p| !(0.0..=1.0).contains(min_p)) {
            return Err(SamplingError::MinP { min_p });
        }
        if !(1e-3..=1e3).contains(&repetition_penalty) {
            return Err(SamplingError::RepetitionPenalty { repetition_penalty });
        }
        Ok(())
    }

    /// Passes logits through all filters; what is filtered out becomes minus infinity.
    fn filter(&self, logits: &mut [f32], text: &[u32]) {
        penalize_repetition(logits, text, self.repetition_penalty);
        if self.temperature == 0.0 {
            return;
        }
        logits.iter_mut().for_each(|logit| *logit /= self.temperature as f32);
        if let Some(k) = self.top_k {
            keep_top_k(logits, k);
        }
        if let Some(p) = self.top_p {
            keep_top_p(logits, p);
        }
        if let Some(p) = self.min_p {
            keep_min_p(logits, p);
        }
    }
}

/// A sampling with its random source.
#[derive(Debug, Clone)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(sampling: &Sampling) -> Self {
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Self { sampling: sampling.clone(), random }
    }

    /// The token after `text`, from the logits of every token of the vocabulary.
    pub(crate) fn next(&mut self, mut logits: Vec<f32>, text: &[u32]) -> u32 {
        self.sampling.filter(&mut logits, text);
        if self.sampling.temperature == 0.0 {
            return likeliest(&logits);
        }
        let weights = softmax(&logits);
        let mut left = self.random.random::<f64>();
        for (id, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            left -= weight;
            if left < 0.0 {
                return id as u32;
            }
        }
        // The weights add up to a little less than one.
        likeliest(&logits)
    }
}

/// The first of the largest logits.
fn likeliest(logits: &[f32]) -> u32 {
    let first = (0, f32::NEG_INFINITY);
    let larger = |best: (usize, f32), (id, &logit): (usize, &f32)| {
        if logit > best.1 { (id, logit) } else { best }
    };
    logits.iter().enumerate().fold(first, larger).0 as u32
}

/// In f64; zero where a logit is minus infinity.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials = logits.iter().map(|&logit| (f64::from(logit) - f64::from(max)).exp());
    let mut weights: Vec<f64> = exponentials.collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// Once per token of the text, however often it is there.
fn penalize_repetition(logits: &mut [f32], text: &[u32], penalty: f64) {
    if penalty == 1.0 {
        return;
    }
    let penalty = penalty as f32;
    let mut text = text.to_vec();
    text.sort_unstable();
    text.dedup();
    for id in text {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

fn keep_top_k(logits: &mut [f32], k: usize) {
    if k >= logits.len() {
        return;
    }
    let mut sorted = logits.to_vec();
    let (_, threshold, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let threshold = *threshold;
    remove(logits, |_, logit| logit < threshold);
}

/// Removes the least likely tokens that together have at most `1 - p`; the likeliest stays.
fn keep_top_p(logits: &mut [f32], p: f64) {
    if p == 1.0 {
        return;
    }
    let weights = softmax(logits);
    let mut ids: Vec<usize> = (0..logits.len()).filter(|&id| weights[id] > 0.0).collect();
    ids.sort_by(|&a, &b| weights[a].partial_cmp(&weights[b]).unwrap_or(Ordering::Equal));
    let mut removed = vec![false; logits.len()];
    let mut sum = 0.0;
    for &id in ids.iter().rev().skip(1).rev() {
        sum += weights[id];
        removed[id] = sum <= 1.0 - p;
    }
    remove(logits, |id, _| removed[id]);
}

fn keep_min_p(logits: &mut [f32], p: f64) {
    let weights = softmax(logits);
    let threshold = p * weights.iter().copied().fold(0.0, f64::max);
    remove(logits, |id, _| weights[id] < threshold);
}

fn remove(logits: &mut [f32], unwanted: impl Fn(usize, f32) -> bool) {
    for (id, logit) in logits.iter_mut().enumerate() {
        if unwanted(id, *logit) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn number(value: &Value) -> f32 {
        value.as_f64().map_or(f32::NEG_INFINITY, |number| number as f32)
    }

    fn floats(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(number).collect()
    }

    /// Step by step, so that a filter of two that are wrong together shows. Measured: no difference.
    #[test]
    fn every_filter_leaves_what_transformers_leaves() {
        let golden = include_str!("../../../tests/golden/sampling.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let mut logits = floats(&case["logits"]);
            let text: Vec<u32> = case["text"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap() as u32)
                .collect();
            for step in ["repetition_penalty", "temperature", "top_k", "top_p", "min_p"] {
                let Some(theirs) = case["after"].get(step) else { continue };
                let value = case[step].as_f64().unwrap();
                match step {
                    "repetition_penalty" => penalize_repetition(&mut logits, &text, value),
                    "temperature" => logits.iter_mut().for_each(|logit| *logit /= value as f32),
                    "top_k" => keep_top_k(&mut logits, value as usize),
                    "top_p" => keep_top_p(&mut logits, value),
                    _ => keep_min_p(&mut logits, value),
                }
                assert_eq!(logits, floats(theirs), "{}, {step}", case["name"]);
            }
            let sampling = sampling_of(case);
            let mut at_once = floats(&case["logits"]);
            sampling.filter(&mut at_once, &text);
            assert_eq!(at_once, logits, "{}", case["name"]);
        }
    }

    fn sampling_of(case: &Value) -> Sampling {
        Sampling {
            temperature: case["temperature"].as_f64().unwrap(),
            top_k: case["top_k"].as_u64().map(|k| k as usize),
            top_p: case["top_p"].as_f64(),
            min_p: case["min_p"].as_f64(),
            repetition_penalty: case["repetition_penalty"].as_f64().unwrap(),
            seed: 0,
        }
    }

    /// Logits of the probabilities 1/2, 1/4, 1/8, 1/8.
    fn halves() -> Vec<f32> {
        [0.5_f32, 0.25, 0.125, 0.125].map(f32::ln).to_vec()
    }

    /// How often each token is drawn in 4,000 draws; the deviation of a share is below 0.008, four times that is allowed.
    #[track_caller]
    fn check(sampling: Sampling, text: &[u32], expected: [f64; 4]) {
        let mut sampler = Sampler::new(&Sampling { seed: 3, ..sampling });
        let mut counts = [0.0; 4];
        for _ in 0..4000 {
            counts[sampler.next(halves(), text) as usize] += 1.0 / 4000.0;
        }
        for (share, expected) in counts.into_iter().zip(expected) {
            let exact = expected == 0.0 || expected == 1.0;
            let allowed = if exact { 1e-9 } else { 0.032 };
            assert!((share - expected).abs() <= allowed, "{counts:?}");
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_computed_by_hand() {
        let warm = || Sampling { temperature: 1.0, ..Sampling::default() };
        check(Sampling::default(), &[], [1.0, 0.0, 0.0, 0.0]);
        check(warm(), &[], [0.5, 0.25, 0.125, 0.125]);
        // Probabilities to the power of two, as many times 64: 16, 4, 1, 1.
        let cold = Sampling { temperature: 0.5, ..Sampling::default() };
        check(cold, &[], [16.0 / 22.0, 4.0 / 22.0, 1.0 / 22.0, 1.0 / 22.0]);
        check(Sampling { top_k: Some(2), ..warm() }, &[], [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check(Sampling { top_k: Some(3), ..warm() }, &[], [0.5, 0.25, 0.125, 0.125]);
        check(Sampling { top_p: Some(0.7), ..warm() }, &[], [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        check(Sampling { top_p: Some(0.4), ..warm() }, &[], [1.0, 0.0, 0.0, 0.0]);
        check(Sampling { min_p: Some(0.4), ..warm() }, &[], [2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        // A negative logit is multiplied: 1/2 becomes 1/4, beside 1/4, 1/8 and 1/8, of 3/4.
        let penalty = Sampling { repetition_penalty: 2.0, ..warm() };
        check(penalty, &[0, 0], [1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0]);
    }

    #[test]
    fn a_seed_draws_the_same_tokens_again_and_another_seed_others() {
        let draws = |seed| -> Vec<u32> {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
            let mut sampler = Sampler::new(&sampling);
            (0..40).map(|_| sampler.next(halves(), &[])).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    /// A broken model must not bring the program down.
    #[test]
    fn logits_that_are_no_numbers_choose_some_token() {
        for temperature in [0.0, 1.0] {
            let sampling = Sampling {
                temperature,
                top_k: Some(2),
                top_p: Some(0.5),
                min_p: Some(0.5),
                ..Sampling::default()
            };
            assert!(Sampler::new(&sampling).next(vec![f32::NAN; 4], &[1]) < 4);
        }
    }

    #[track_caller]
    fn check_refusal(sampling: Sampling, expected: &str) {
        assert_eq!(sampling.validate().unwrap_err().to_string(), expected);
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused_by_name() {
        let fine = Sampling::default;
        fine().validate().unwrap();
        check_refusal(
            Sampling { temperature: -1.0, ..fine() },
            "temperature `-1` is neither 0 nor a number of at least 0.0001; 0 takes the likeliest token",
        );
        check_refusal(
            Sampling { top_k: Some(0), ..fine() },
            "top-k `0` leaves no token; use at least 1, or leave it out",
        );
        check_refusal(
            Sampling { top_p: Some(1.5), ..fine() },
            "top-p `1.5` is not in (0, 1]; 1 keeps every token",
        );
        check_refusal(
            Sampling { min_p: Some(f64::NAN), ..fine() },
            "min-p `NaN` is not in [0, 1]; 0 keeps every token",
        );
        check_refusal(
            Sampling { repetition_penalty: 0.0, ..fine() },
            "repetition penalty `0` is not in [0.001, 1000]; 1 leaves repetitions as they are",
        );
    }
}
