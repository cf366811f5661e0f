use crate::{Order, TokenBatch, Windows};

/// Any id will do: on the right of every token, padding is seen by none, and it has no target.
const PADDING: u32 = 0;

/// The batches of a run, by the number of the optimizer step.
///
/// It has no position of its own: step `n` is the same whatever was asked before, so a resumed run
/// sees what an uninterrupted one would have seen.
#[derive(Clone, Debug)]
pub struct BatchStream {
    windows: Windows,
    order: Order,
    batch_size: usize,
    accumulation: usize,
}

impl BatchStream {
    /// Draws `accumulation` micro-batches of `batch_size` windows for every step.
    ///
    /// # Panics
    /// If there is no window, or if one of the numbers is 0.
    pub fn new(windows: Windows, order: Order, batch_size: usize, accumulation: usize) -> Self {
        assert!(!windows.is_empty(), "a stream needs a window, got none");
        assert!(
            batch_size > 0 && accumulation > 0,
            "batch_size and accumulation must not be 0, got {batch_size} and {accumulation}"
        );
        Self { windows, order, batch_size, accumulation }
    }

    /// The micro-batches of optimizer step `step`, counted from 0.
    ///
    /// An epoch may end anywhere inside: the next one follows at once.
    pub fn step(&self, step: u64) -> Vec<TokenBatch> {
        let draws = self.windows_per_step() as u64;
        let drawn = self.order.windows_at(step * draws..(step + 1) * draws, self.windows.len());
        let micro_batch = |indices: &[usize]| {
            let windows: Vec<_> = indices.iter().map(|index| self.windows.get(*index)).collect();
            TokenBatch::from_windows(&windows, PADDING)
        };
        drawn.chunks(self.batch_size).map(micro_batch).collect()
    }

    /// Windows drawn in each step.
    pub fn windows_per_step(&self) -> usize {
        self.batch_size * self.accumulation
    }

    /// What is drawn from.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Seven windows of four tokens, the last of two; window `n` begins with token `4n`.
    fn windows() -> Windows {
        Windows::pack(vec![(0..11).collect(), (11..26).collect()], 4).unwrap()
    }

    #[test]
    fn micro_batches_follow_each_other() {
        let stream = BatchStream::new(windows(), Order::Sequential, 2, 3);
        let step = stream.step(1); // windows 6 | 0 1 2 3 4

        let all = windows();
        let expected = [[6, 0], [1, 2], [3, 4]]
            .map(|pair| TokenBatch::from_windows(&pair.map(|index| all.get(index)), PADDING));
        assert_eq!(step, expected);
        assert_eq!(step[0].lengths, [2, 4]);
        assert_eq!(stream.windows_per_step(), 6);
    }

    #[test]
    fn a_step_may_hold_more_than_an_epoch() {
        let stream = BatchStream::new(windows(), Order::Shuffled { seed: 1 }, 5, 4);
        let steps = [stream.step(0), stream.step(1)];
        assert!(steps.iter().flatten().all(|batch| batch.batch == 5));
        assert_eq!(steps.concat().len(), 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Drawn from the first window of the run on, one after another, and cut into micro-batches.
        #[test]
        fn a_resumed_run_sees_what_an_uninterrupted_one_saw(
            seed: u64, batch_size in 1..4usize, accumulation in 1..4usize, resumed_at in 0..20usize,
        ) {
            let (order, all) = (Order::Shuffled { seed }, windows());
            let draws = order.windows_at(0..9 * 25, all.len());
            let drawn: Vec<_> = draws.into_iter().map(|index| all.get(index)).collect();
            let uninterrupted =
                drawn.chunks(batch_size).map(|windows| TokenBatch::from_windows(windows, PADDING));
            let steps: Vec<Vec<_>> =
                uninterrupted.collect::<Vec<_>>().chunks(accumulation).map(<[_]>::to_vec).collect();

            let resumed = BatchStream::new(windows(), order, batch_size, accumulation);
            for (step, whole) in steps.iter().enumerate().take(25).skip(resumed_at) {
                prop_assert_eq!(&resumed.step(step as u64), whole);
            }
        }
    }
}
