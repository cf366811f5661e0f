//! Dropout that can be repeated.

use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The random source of one layer's dropout in one training step.
///
/// A block is run twice, once forward without a graph and once more for its gradient, and has to drop the same entries
/// both times: the mask is a function of this seed alone.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    seed: u64,
}

impl Dropout {
    /// From the seed of a run.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// An independent source for part `index` of whatever this one is for: a step of a run, a micro-batch of a step, a layer.
    pub fn part(self, index: u64) -> Self {
        // Mixed before it is moved: sources of neighbouring seeds or parts would be each other's parts.
        Self { seed: mixed(mixed(self.seed).wrapping_add(index)) }
    }

    /// Each entry is dropped with `probability`, and the others grow by `1 / (1 - probability)`. The same source drops the same
    /// entries of every tensor of one shape.
    ///
    /// # Panics
    /// If `probability` is not in [0, 1].
    pub fn apply<const D: usize>(self, x: Tensor<D>, probability: f64) -> Tensor<D> {
        let shape = x.shape();
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let kept = (1.0 / (1.0 - probability)) as f32;
        let mask: Vec<f32> = (0..shape.num_elements())
            .map(|_| if random.random_bool(probability) { 0.0 } else { kept })
            .collect();
        let device = x.device();
        let dtype = x.dtype();
        x * Tensor::<D>::from_data(TensorData::new(mask, shape), &device).cast(dtype)
    }
}

/// Another number for every number: a step of splitmix64.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use burn::tensor::Device;

    use super::*;
    use crate::testing::{numbers, random};

    fn mask(dropout: Dropout, probability: f64) -> Vec<f64> {
        numbers(dropout.apply(Tensor::<2>::ones([37, 11], &Device::flex()), probability))
    }

    #[test]
    fn a_seed_drops_the_same_entries_again_and_another_seed_others() {
        assert_eq!(mask(Dropout::new(5), 0.4), mask(Dropout::new(5), 0.4));
        assert_ne!(mask(Dropout::new(5), 0.4), mask(Dropout::new(6), 0.4));
    }

    #[test]
    fn the_parts_of_a_source_differ_from_it_and_from_each_other() {
        let whole = Dropout::new(0);
        let sources = [
            whole,
            whole.part(0),
            whole.part(1),
            whole.part(31),
            whole.part(0).part(1),
            whole.part(1).part(0),
            Dropout::new(1).part(0),
        ];
        for (i, one) in sources.iter().enumerate() {
            for other in &sources[..i] {
                assert_ne!(mask(*one, 0.5), mask(*other, 0.5), "{one:?}, {other:?}");
            }
        }
    }

    /// Of neighbouring seeds, steps, micro-batches and layers, which are all small numbers.
    #[test]
    fn no_two_sources_of_a_run_are_the_same() {
        let mut seeds = HashSet::new();
        for path in (0..20_u64.pow(4)).map(|i| [i % 20, i / 20 % 20, i / 400 % 20, i / 8000]) {
            let [run, step, micro_batch, layer] = path;
            let source = Dropout::new(run).part(step).part(micro_batch).part(layer);
            assert!(seeds.insert(source.seed), "{path:?} has another's seed");
        }
    }

    /// The share of 40,000 draws is normal with a deviation of √(p (1 - p) / 40,000) < 0.0025; four times that is
    /// allowed.
    #[test]
    fn the_kept_entries_make_up_for_the_dropped_ones() {
        for probability in [0.05, 0.3, 0.9] {
            let ones = Tensor::<1>::ones([40_000], &Device::flex());
            let kept = numbers(Dropout::new(7).apply(ones, probability));
            let scale = f64::from((1.0 / (1.0 - probability)) as f32);
            assert!(kept.iter().all(|&entry| entry == 0.0 || entry == scale));
            let dropped = kept.iter().filter(|&&entry| entry == 0.0).count() as f64 / 40_000.0;
            assert!((dropped - probability).abs() < 0.01, "{dropped} of {probability} dropped");
        }
    }

    #[test]
    fn probability_zero_changes_no_bit() {
        let x = random([3, 5, 2], 1, &Device::flex());
        assert_eq!(numbers(Dropout::new(9).apply(x.clone(), 0.0)), numbers(x));
    }

    #[test]
    fn the_gradient_is_dropped_where_the_entries_are() {
        let x = random([37, 11], 1, &Device::flex().autodiff()).require_grad();
        let gradients = Dropout::new(5).apply(x.clone(), 0.4).sum().backward();
        assert_eq!(numbers(x.grad(&gradients).unwrap()), mask(Dropout::new(5), 0.4));
    }
}
