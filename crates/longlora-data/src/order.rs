use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// In which order a run sees its windows, epoch after epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// As they lie in the corpus, every epoch the same.
    Sequential,
    /// Shuffled anew for every epoch.
    Shuffled {
        /// Where all randomness comes from; the same seed gives the same order on every machine.
        seed: u64,
    },
}

impl Order {
    /// The windows of consecutive draws, counted from 0 since training began and across epochs.
    ///
    /// Depends on the arguments alone.
    ///
    /// # Panics
    /// If `windows` is 0.
    pub fn windows_at(self, draws: Range<u64>, windows: usize) -> Vec<usize> {
        assert!(windows > 0, "there is no window to draw");
        let per_epoch = windows as u64;
        let mut drawn = Vec::new();
        let mut next = draws.start;
        while next < draws.end {
            let epoch = next / per_epoch;
            let first = (next % per_epoch) as usize;
            let take = ((draws.end - next) as usize).min(windows - first);
            match self {
                Self::Sequential => drawn.extend(first..first + take),
                Self::Shuffled { seed } => {
                    drawn.extend_from_slice(&permutation(seed, epoch, windows)[first..first + take])
                }
            }
            next += take as u64;
        }
        drawn
    }
}

/// Fisher–Yates, written out, on a generator that is named: nothing here changes with a release
/// of `rand`, so an old run can be resumed by a new program.
fn permutation(seed: u64, epoch: u64, windows: usize) -> Vec<usize> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);

    let mut order: Vec<usize> = (0..windows).collect();
    for last in (1..windows).rev() {
        // The high half of a 128-bit product is uniform in 0..=last up to windows / 2^64.
        let product = u128::from(random.next_u64()) * (last as u128 + 1);
        order.swap(last, (product >> 64) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sequential_starts_again_at_the_end() {
        assert_eq!(Order::Sequential.windows_at(2..8, 3), [2, 0, 1, 2, 0, 1]);
    }

    /// If this fails, runs made with an earlier version cannot be resumed. The numbers come from
    /// ChaCha with 8 rounds, block by block as RFC 8439 has it (there: 20), written in Python.
    #[test]
    fn the_order_of_a_seed_never_changes() {
        let order = Order::Shuffled { seed: 42 };
        assert_eq!(order.windows_at(0..8, 8), [4, 5, 0, 3, 6, 7, 1, 2]);
        assert_eq!(order.windows_at(8..16, 8), [6, 0, 5, 3, 7, 2, 1, 4]);
    }

    #[test]
    fn seeds_and_epochs_differ() {
        let epoch = |seed, epoch: u64| {
            Order::Shuffled { seed }.windows_at(epoch * 99..(epoch + 1) * 99, 99)
        };
        assert_ne!(epoch(1, 0), epoch(2, 0));
        assert_ne!(epoch(1, 0), epoch(1, 1));
        assert_ne!(epoch(1, 2), epoch(2, 1));
    }

    /// Each of the 24 orders of four windows comes up; a biased shuffle misses this by far.
    #[test]
    fn all_orders_are_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..2400 {
            *counts.entry(permutation(seed, 0, 4)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        // 100 expected, standard deviation below 10: five of them.
        assert!(counts.values().all(|count| (50..=150).contains(count)), "{counts:?}");
    }

    #[test]
    fn it_is_written_as_people_write_it() {
        let check = |order: Order, json: &str| {
            assert_eq!(serde_json::to_string(&order).unwrap(), json);
            assert_eq!(serde_json::from_str::<Order>(json).unwrap(), order);
        };
        check(Order::Sequential, r#""sequential""#);
        check(Order::Shuffled { seed: 7 }, r#"{"shuffled":{"seed":7}}"#);
        assert!(serde_json::from_str::<Order>(r#"{"shuffled":{"sed":7}}"#).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn each_epoch_visits_each_window_once(seed: u64, epoch in 0..1000u64, windows in 1..40usize) {
            let start = epoch * windows as u64;
            let mut visited =
                Order::Shuffled { seed }.windows_at(start..start + windows as u64, windows);
            visited.sort();
            prop_assert_eq!(visited, (0..windows).collect::<Vec<_>>());
        }

        /// However a run is cut into calls, it draws the same windows.
        #[test]
        fn a_draw_depends_on_its_number_alone(seed: u64, start in 0..500u64, windows in 1..20usize) {
            let order = Order::Shuffled { seed };
            let together = order.windows_at(start..start + 50, windows);
            let draw = |number| order.windows_at(number..number + 1, windows);
            let alone: Vec<_> = (start..start + 50).flat_map(draw).collect();
            prop_assert_eq!(together, alone);
        }
    }
}
