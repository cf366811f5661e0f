//! Random numbers of one question, whatever else is asked.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// Those of a question at a length, a depth and in a trial: another length in the list changes none of the others.
pub(crate) fn draws(
    seed: u64,
    task: &str,
    (length, depth, trial): (usize, f64, usize),
) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    for number in [seed, length as u64, depth.to_bits(), trial as u64] {
        hash.update(number.to_le_bytes());
    }
    hash.update(task);
    ChaCha8Rng::from_seed(hash.finalize().into())
}
