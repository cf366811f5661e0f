use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::Window;

/// The target that asks for nothing; Hugging Face's number.
pub const IGNORED_TARGET: i64 = -100;

/// Windows side by side, with what the model is to predict at each position.
///
/// Inputs and targets are shifted against each other here and nowhere else:
///
/// ```text
/// document_starts   0     2
/// unlearned                  3..4
/// inputs            a  b  c  d  e  0   padded on the right to the longest window
/// targets           b  ·  ·  e  ·  ·   · is IGNORED_TARGET
/// ```
///
/// A window of `n` tokens has `n` inputs and at most `n - 1` targets, as in Hugging Face. Differs
/// from Hugging Face: no target crosses into another document. What is [unlearned](Window::unlearned) is no target.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// Number of windows.
    pub batch: usize,
    /// Length of the longest window, in tokens.
    pub seq: usize,
    /// Where documents begin in each window; see [`Window::document_starts`].
    pub document_starts: Vec<Vec<usize>>,
    /// Tokens of each window; what lies right of them is padding.
    pub lengths: Vec<usize>,
    /// `[batch, seq]`, row by row.
    inputs: Vec<i64>,
    /// `[batch, seq]`, row by row.
    targets: Vec<i64>,
}

impl TokenBatch {
    /// Lays windows side by side; `padding` is the input on the right of the shorter ones.
    ///
    /// # Panics
    /// If there is no window, or no token in any.
    pub fn from_windows(windows: &[Window], padding: u32) -> Self {
        let lengths: Vec<usize> = windows.iter().map(|window| window.tokens.len()).collect();
        let (batch, seq) = (windows.len(), lengths.iter().copied().max().unwrap_or(0));
        assert!(seq > 0, "a batch needs tokens, got {batch} windows without any");

        let mut inputs = vec![i64::from(padding); batch * seq];
        let mut targets = vec![IGNORED_TARGET; batch * seq];
        for (row, window) in windows.iter().enumerate() {
            for (position, &token) in window.tokens.iter().enumerate() {
                inputs[row * seq + position] = i64::from(token);
                let begins_document = window.document_starts.binary_search(&position).is_ok();
                if position > 0 && !begins_document {
                    targets[row * seq + position - 1] = i64::from(token);
                }
            }
            for position in window.unlearned.iter().cloned().flatten().filter(|it| *it > 0) {
                targets[row * seq + position - 1] = IGNORED_TARGET;
            }
        }
        let document_starts = windows.iter().map(|window| window.document_starts.clone()).collect();
        Self { batch, seq, document_starts, lengths, inputs, targets }
    }

    /// Token ids in the device's own integer type: `[batch, seq]`.
    pub fn inputs(&self, device: &Device) -> Tensor<2, Int> {
        self.tensor(&self.inputs, device)
    }

    /// Target of each position, row after row, [`IGNORED_TARGET`] where there is none: `batch · seq` entries.
    pub fn target_ids(&self) -> &[i64] {
        &self.targets
    }

    /// How many positions have a target: what a sum of losses is divided by. May be 0.
    pub fn num_targets(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORED_TARGET).count()
    }

    /// How many tokens the model reads, padding left out.
    pub fn tokens_seen(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn tensor(&self, values: &[i64], device: &Device) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [self.batch, self.seq]), device)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::Windows;

    const NONE: i64 = IGNORED_TARGET;

    fn values(tensor: Tensor<2, Int>) -> Vec<i64> {
        tensor.into_data().try_into_vec_as().unwrap()
    }

    #[test]
    fn targets_are_the_next_tokens_of_the_same_document() {
        let windows = Windows::pack(vec![vec![3, 1, 4, 1, 5], vec![9, 2, 6]], 5).unwrap();
        let batch = TokenBatch::from_windows(&[windows.get(0), windows.get(1)], 7);

        assert_eq!((batch.batch, batch.seq), (2, 5));
        assert_eq!(batch.inputs, [3, 1, 4, 1, 5, /**/ 9, 2, 6, 7, 7]);
        assert_eq!(batch.targets, [1, 4, 1, 5, NONE, /**/ 2, 6, NONE, NONE, NONE]);
        assert_eq!(batch.lengths, [5, 3]);
        assert_eq!((batch.num_targets(), batch.tokens_seen()), (6, 8));
    }

    #[test]
    fn no_target_crosses_into_another_document() {
        let window = Window::new(vec![1, 2, 3, 4, 5], vec![0, 1, 3]);
        let batch = TokenBatch::from_windows(&[window], 0);

        assert_eq!(batch.targets, [NONE, 3, NONE, 5, NONE]);
        assert_eq!(batch.num_targets(), 2);
    }

    /// Two conversations side by side, the second of them in a row of its own, too.
    #[test]
    fn what_is_unlearned_is_read_and_no_target() {
        let two =
            Window { unlearned: vec![0..2, 4..6], ..Window::new((1..9).collect(), vec![0, 4]) };
        let one = Window {
            unlearned: (0..2).map(|at| at..at + 1).collect(),
            ..Window::new(vec![5, 6, 7, 8], vec![0])
        };
        let batch = TokenBatch::from_windows(&[two, one], 9);

        assert_eq!(batch.inputs, [1, 2, 3, 4, 5, 6, 7, 8, /**/ 5, 6, 7, 8, 9, 9, 9, 9]);
        let of_one = [NONE, 7, 8, NONE];
        let of_two = [NONE, 3, 4, NONE, NONE, 7, 8, NONE];
        assert_eq!(batch.targets, [&of_two[..], &of_one, &[NONE; 4]].concat());
        assert_eq!((batch.num_targets(), batch.tokens_seen()), (6, 12));
        assert_eq!(batch.document_starts, [vec![0, 4], vec![0]]);
    }

    #[test]
    fn tensors_are_shaped_batch_by_seq_and_keep_every_value() {
        let device = Device::default();
        // The largest id in use today is about 2^18; -100 must survive beside it.
        let window = Window::new(vec![262_143, 0, 1], vec![0]);
        let batch = TokenBatch::from_windows(&[window.clone(), window], 0);

        let inputs = batch.inputs(&device);

        assert_eq!(inputs.dims(), [2, 3]);
        assert_eq!(values(inputs), batch.inputs);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn targets_never_cross_documents(
            lengths in vec(1..9usize, 1..7), context_length in 2..12usize, padding: u32,
        ) {
            prop_assume!(lengths.iter().sum::<usize>() >= 2);
            // Every token is the number of its document.
            let documents = lengths.iter().enumerate().map(|(n, length)| vec![n as u32; *length]);
            let windows = Windows::pack(documents.collect(), context_length).unwrap();
            let windows: Vec<_> = (0..windows.len()).map(|n| windows.get(n)).collect();

            let batch = TokenBatch::from_windows(&windows, padding);

            for (input, target) in batch.inputs.iter().zip(&batch.targets) {
                prop_assert!(*target == IGNORED_TARGET || input == target);
            }
            let pieces: usize = windows.iter().map(|window| window.document_starts.len()).sum();
            prop_assert_eq!(batch.num_targets(), batch.tokens_seen() - pieces);
        }
    }
}
