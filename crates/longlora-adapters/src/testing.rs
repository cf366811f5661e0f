//! What the tests of several files need.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Uniform in ±1.
pub(crate) fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let entries = 0..shape.iter().product();
    let entries: Vec<f32> = entries.map(|_| random.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(entries, shape), device)
}

pub(crate) fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter().collect()
}

/// The largest difference, relative to the largest entry of `theirs` where that is above one.
pub(crate) fn error<const D: usize>(ours: Tensor<D>, theirs: Tensor<D>) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let (ours, theirs) = (numbers(ours), numbers(theirs));
    let largest = theirs.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
    let differences = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs());
    // Unlike `f64::max`, this keeps a NaN.
    differences.fold(0.0, |error, x| if x > error || x.is_nan() { x } else { error }) / largest
}
