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
    /// From the seed of the run and step.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// An independent source for part `index` of whatever this one is for (splitmix64).
    pub fn part(self, index: u64) -> Self {
        let mut seed = self.seed.wrapping_add((index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        seed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        seed = (seed ^ (seed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self { seed: seed ^ (seed >> 31) }
    }

    /// Each entry is dropped with `probability`, and the others grow by `1 / (1 - probability)`.
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
