use std::iter;

use crate::DataError;

/// A piece of the corpus that the model sees at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Token ids, at least two.
    pub tokens: Vec<u32>,
    /// Where a document begins, strictly increasing. The first is always 0, whether a document
    /// begins there or goes on from the window before: it starts a piece.
    pub document_starts: Vec<usize>,
}

/// Documents laid end to end and cut into windows of one length.
///
/// Tokens are stored once; a [`Window`] is made when it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    tokens: Vec<u32>,
    /// Positions in `tokens`, strictly increasing.
    document_starts: Vec<usize>,
    context_length: usize,
}

impl Windows {
    /// Packs documents in their order into windows of `context_length` tokens.
    ///
    /// The last window is shorter if it has to be. A single token left over is dropped: nothing
    /// could be predicted in its window.
    ///
    /// # Errors
    /// A context length below 2, or fewer than 2 tokens in all documents together.
    pub fn pack(documents: Vec<Vec<u32>>, context_length: usize) -> Result<Self, DataError> {
        if context_length < 2 {
            return Err(DataError::ShortContext { context_length });
        }
        let mut tokens = Vec::with_capacity(documents.iter().map(Vec::len).sum());
        let mut document_starts = Vec::with_capacity(documents.len());
        for document in documents.into_iter().filter(|document| !document.is_empty()) {
            document_starts.push(tokens.len());
            tokens.extend(document);
        }
        if tokens.len() < 2 {
            return Err(DataError::TooFewTokens { tokens: tokens.len() });
        }
        if tokens.len() % context_length == 1 {
            tokens.pop();
            document_starts.pop_if(|start| *start == tokens.len());
        }
        Ok(Self { tokens, document_starts, context_length })
    }

    /// How many windows there are.
    pub fn len(&self) -> usize {
        self.tokens.len().div_ceil(self.context_length)
    }

    /// Whether there is no window; true only of a validation part that took none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many tokens there are in all windows together.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens in every window but the last, which may have fewer.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The window at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Window {
        assert!(index < self.len(), "window {index} of {}", self.len());
        let start = index * self.context_length;
        let end = self.tokens.len().min(start + self.context_length);

        // A document that begins at `start` itself is covered by the leading 0.
        let first = self.document_starts.partition_point(|position| *position <= start);
        let last = self.document_starts.partition_point(|position| *position < end);
        let inside = self.document_starts[first..last].iter().map(|position| position - start);
        Window {
            tokens: self.tokens[start..end].to_vec(),
            document_starts: iter::once(0).chain(inside).collect(),
        }
    }

    /// The documents, each of them whole again; one that was begun in another part, from where it goes on here.
    pub fn documents(&self) -> Vec<&[u32]> {
        let cuts = self.document_starts.iter().copied().filter(|&start| start > 0);
        let starts = iter::once(0).chain(cuts.clone());
        let ends = cuts.chain(iter::once(self.tokens.len()));
        let documents = starts.zip(ends).map(|(start, end)| &self.tokens[start..end]);
        documents.filter(|document| !document.is_empty()).collect()
    }

    /// Keeps whole windows from the end for validation; returns the training part first.
    ///
    /// Takes the nearest number of windows to `fraction`, but at least one if `fraction` is not 0, a short last one
    /// besides, since it cannot fill the context; and never the only window there is.
    ///
    /// # Panics
    /// If `fraction` is not in `0.0..1.0`.
    pub fn split_validation(mut self, fraction: f64) -> (Self, Self) {
        assert!((0.0..1.0).contains(&fraction), "the fraction must be in 0..1, got {fraction}");
        let short = usize::from(!self.tokens.len().is_multiple_of(self.context_length));
        let wanted = match fraction {
            0.0 => 0,
            _ => ((self.len() as f64 * fraction).round() as usize).max(1) + short,
        };
        let kept = self.len() - wanted.min(self.len().saturating_sub(1));
        let cut = self.tokens.len().min(kept * self.context_length);

        let tokens = self.tokens.split_off(cut);
        let first = self.document_starts.partition_point(|position| *position < cut);
        let mut document_starts = self.document_starts.split_off(first);
        document_starts.iter_mut().for_each(|position| *position -= cut);
        let context_length = self.context_length;
        (self, Self { tokens, document_starts, context_length })
    }

    /// Checks that a model with `vocab_size` tokens knows every token of the corpus.
    ///
    /// # Errors
    /// The first token that it does not know.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<(), DataError> {
        match self.tokens.iter().max() {
            Some(&token) if token as usize >= vocab_size => {
                Err(DataError::TokenOutsideVocabulary { token, vocab_size })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn window(tokens: &[u32], document_starts: &[usize]) -> Window {
        Window { tokens: tokens.into(), document_starts: document_starts.into() }
    }

    fn all(windows: &Windows) -> Vec<Window> {
        (0..windows.len()).map(|index| windows.get(index)).collect()
    }

    #[test]
    fn documents_of_a_part_are_those_that_it_was_packed_of() {
        let documents = vec![vec![3, 1, 4, 1, 5], vec![], vec![9, 2, 6], vec![5, 3]];
        let whole = Windows::pack(documents, 4).unwrap();
        let documents: [&[u32]; 3] = [&[3, 1, 4, 1, 5], &[9, 2, 6], &[5, 3]];
        assert_eq!(whole.documents(), documents);
        let (kept, held_out) = whole.split_validation(0.4);
        assert_eq!(kept.documents(), [&[3, 1, 4, 1]]);
        let documents: [&[u32]; 3] = [&[5], &[9, 2, 6], &[5, 3]];
        assert_eq!(held_out.documents(), documents);
        let nothing = held_out.split_validation(0.0).1;
        assert!(nothing.documents().is_empty());
    }

    #[test]
    fn documents_are_cut_where_a_window_is_full() {
        let documents = vec![vec![3, 1, 4, 1, 5], vec![], vec![9, 2, 6], vec![5, 3]];
        let windows = Windows::pack(documents, 4).unwrap();

        let expected =
            [window(&[3, 1, 4, 1], &[0]), window(&[5, 9, 2, 6], &[0, 1]), window(&[5, 3], &[0])];
        assert_eq!(all(&windows), expected);
        assert_eq!((windows.len(), windows.tokens(), windows.context_length()), (3, 10, 4));
    }

    #[test]
    fn a_single_token_left_over_is_dropped() {
        let windows = Windows::pack(vec![vec![1, 2, 3], vec![4]], 3).unwrap();
        assert_eq!(all(&windows), [window(&[1, 2, 3], &[0])]);
        assert_eq!(windows.tokens(), 3);
    }

    #[test]
    fn nothing_to_predict_is_an_error() {
        let short = Windows::pack(vec![vec![1, 2]], 1);
        assert!(matches!(short, Err(DataError::ShortContext { context_length: 1 })));
        let few = Windows::pack(vec![vec![], vec![1]], 4);
        assert!(matches!(few, Err(DataError::TooFewTokens { tokens: 1 })));
    }

    #[test]
    fn validation_takes_whole_windows_from_the_end() {
        let windows = Windows::pack(vec![(0..6).collect(), (6..13).collect()], 3).unwrap();
        let check = |fraction, expected: [usize; 2]| {
            let (train, valid) = windows.clone().split_validation(fraction);
            assert_eq!([train.len(), valid.len()], expected, "{fraction}");
            assert_eq!([all(&train), all(&valid)].concat(), all(&windows));
        };
        assert_eq!(windows.len(), 4); // the thirteenth token is dropped
        check(0.0, [4, 0]);
        check(0.01, [3, 1]);
        check(0.25, [3, 1]);
        check(0.5, [2, 2]);
        check(0.99, [1, 3]);

        let (train, valid) = windows.split_validation(0.5).0.split_validation(0.9);
        assert_eq!([train.len(), valid.len()], [1, 1]);
        let (train, valid) = train.split_validation(0.9);
        assert!(valid.is_empty() && train.len() == 1);
    }

    #[test]
    fn a_token_of_another_model_is_an_error_that_says_so() {
        let windows = Windows::pack(vec![vec![3, 511, 4]], 4).unwrap();
        assert!(windows.check_vocabulary(512).is_ok());
        let error = windows.check_vocabulary(511).unwrap_err().to_string();
        for part in ["`511`", "do not belong together"] {
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// No token is lost, none is seen twice, and documents begin where they did.
        #[test]
        fn every_token_is_in_exactly_one_window(
            lengths in vec(0..12usize, 1..9), context_length in 2..8usize, fraction in 0.0..0.99,
        ) {
            let total: usize = lengths.iter().sum();
            prop_assume!(total >= 2);
            // Each token says its document and whether it is the first of it.
            let document = |(n, length): (usize, &usize)| -> Vec<u32> {
                (0..*length).map(|i| 2 * n as u32 + u32::from(i == 0)).collect()
            };
            let documents: Vec<_> = lengths.iter().enumerate().map(document).collect();
            let mut expected = documents.concat();
            expected.truncate(total - usize::from(total % context_length == 1));

            let (train, valid) =
                Windows::pack(documents, context_length).unwrap().split_validation(fraction);
            let windows = [all(&train), all(&valid)].concat();

            let seen: Vec<_> = windows.iter().flat_map(|window| window.tokens.clone()).collect();
            prop_assert_eq!(train.tokens() + valid.tokens(), seen.len());
            prop_assert_eq!(seen, expected);
            for (n, window) in windows.iter().enumerate() {
                let full = window.tokens.len() == context_length;
                prop_assert!(full || (n + 1 == windows.len() && window.tokens.len() >= 2));
                let begins = |position: &usize| *position == 0 || window.tokens[*position] % 2 == 1;
                let starts: Vec<_> = (0..window.tokens.len()).filter(begins).collect();
                prop_assert_eq!(&window.document_starts, &starts);
            }
        }
    }
}
