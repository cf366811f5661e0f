use std::iter;
use std::ops::Range;

use crate::{DataError, Lesson};

/// A piece of the corpus that the model sees at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Token ids, at least two.
    pub tokens: Vec<u32>,
    /// Where a document begins, strictly increasing. The first is always 0, whether a document
    /// begins there or goes on from the window before: it starts a piece.
    pub document_starts: Vec<usize>,
    /// Positions of tokens that are read and never predicted, ascending: none in text.
    pub unlearned: Vec<Range<usize>>,
}

impl Window {
    /// A window of text, of which everything is learned.
    pub fn new(tokens: Vec<u32>, document_starts: Vec<usize>) -> Self {
        Self { tokens, document_starts, unlearned: vec![] }
    }
}

/// Documents laid end to end and cut into windows.
///
/// Tokens are stored once; a [`Window`] is made when it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    tokens: Vec<u32>,
    /// Positions in `tokens`, strictly increasing.
    document_starts: Vec<usize>,
    /// Positions in `tokens`, ascending.
    unlearned: Vec<Range<usize>>,
    /// Where windows begin: positions in `tokens`, strictly increasing.
    starts: Vec<usize>,
    context_length: usize,
}

/// Windows of conversations, and what became of those that did not fit.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedLessons {
    /// Each begins with the beginning of a conversation, and has something to learn.
    pub windows: Windows,
    /// How many conversations are longer than a window, and lost their ends.
    pub cut: usize,
    /// How many were left out: nothing of their answers is within a window.
    pub left_out: usize,
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
        let starts = (0..tokens.len()).step_by(context_length).collect();
        Ok(Self { tokens, document_starts, unlearned: vec![], starts, context_length })
    }

    /// Packs conversations in their order into windows of at most `context_length` tokens: each goes behind the one before
    /// if it fits there as a whole, else into the next window. One that is longer than a window loses its end, as in
    /// LongLoRA's `supervised-fine-tune.py`, and is left out if nothing of its answers remains.
    ///
    /// # Errors
    /// A context length below 2, and conversations that would all be left out.
    pub fn pack_lessons(
        lessons: Vec<Lesson>,
        context_length: usize,
    ) -> Result<PackedLessons, DataError> {
        if context_length < 2 {
            return Err(DataError::ShortContext { context_length });
        }
        let (conversations, mut cut, mut left_out) = (lessons.len(), 0, 0);
        let mut windows = Self {
            tokens: vec![],
            document_starts: vec![],
            unlearned: vec![],
            starts: vec![],
            context_length,
        };
        for mut lesson in lessons {
            let is_longer = lesson.tokens.len() > context_length;
            lesson.cut(context_length);
            if lesson.targets() == 0 {
                left_out += 1;
                continue;
            }
            cut += usize::from(is_longer);
            windows.add(lesson);
        }
        if windows.is_empty() {
            return Err(DataError::NothingToLearn { conversations, context_length });
        }
        Ok(PackedLessons { windows, cut, left_out })
    }

    /// Puts a conversation behind the last one, in its window if there is room.
    fn add(&mut self, lesson: Lesson) {
        let start = self.tokens.len();
        let end = start + lesson.tokens.len();
        if self.starts.last().is_none_or(|window| end - window > self.context_length) {
            self.starts.push(start);
        }
        self.document_starts.push(start);
        self.unlearned.extend(moved(lesson.unlearned, start));
        self.tokens.extend(lesson.tokens);
    }

    /// The windows of both, these first.
    ///
    /// # Panics
    /// If they are not of one context length.
    pub fn and(mut self, other: Self) -> Self {
        let lengths = [self.context_length, other.context_length];
        assert!(lengths[0] == lengths[1], "windows of one length are needed, got {lengths:?}");
        let offset = self.tokens.len();
        let behind = |positions: Vec<usize>| positions.into_iter().map(move |it| it + offset);
        // What goes on from a part that is not there is no document of these.
        if !other.is_empty() && other.document_starts.first() != Some(&0) {
            self.document_starts.push(offset);
        }
        self.document_starts.extend(behind(other.document_starts));
        self.starts.extend(behind(other.starts));
        self.unlearned.extend(moved(other.unlearned, offset));
        self.tokens.extend(other.tokens);
        self
    }

    /// How many windows there are.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no window; true only of a validation part that took none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many tokens there are in all windows together.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens in the longest window that there may be; of text, only the last has fewer.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The window at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Window {
        assert!(index < self.len(), "window {index} of {}", self.len());
        let start = self.starts[index];
        let end = self.starts.get(index + 1).copied().unwrap_or(self.tokens.len());

        // A document that begins at `start` itself is covered by the leading 0.
        let first = self.document_starts.partition_point(|position| *position <= start);
        let last = self.document_starts.partition_point(|position| *position < end);
        let inside = self.document_starts[first..last].iter().map(|position| position - start);

        // A conversation is in one window, and so is what is not learned of it.
        let first = self.unlearned.partition_point(|range| range.start < start);
        let last = self.unlearned.partition_point(|range| range.start < end);
        let unlearned = self.unlearned[first..last].iter();
        Window {
            tokens: self.tokens[start..end].to_vec(),
            document_starts: iter::once(0).chain(inside).collect(),
            unlearned: unlearned.map(|range| range.start - start..range.end - start).collect(),
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
        let short = usize::from(self.ends_short());
        let wanted = match fraction {
            0.0 => 0,
            _ => ((self.len() as f64 * fraction).round() as usize).max(1) + short,
        };
        let kept = self.len() - wanted.min(self.len().saturating_sub(1));
        let cut = self.starts.get(kept).copied().unwrap_or(self.tokens.len());

        let tokens = self.tokens.split_off(cut);
        let first = self.document_starts.partition_point(|position| *position < cut);
        let mut document_starts = self.document_starts.split_off(first);
        let mut starts = self.starts.split_off(kept);
        document_starts.iter_mut().chain(&mut starts).for_each(|position| *position -= cut);
        let first = self.unlearned.partition_point(|range| range.start < cut);
        let mut unlearned = self.unlearned.split_off(first);
        for range in &mut unlearned {
            *range = range.start - cut..range.end - cut;
        }
        let context_length = self.context_length;
        (self, Self { tokens, document_starts, unlearned, starts, context_length })
    }

    /// Whether all windows are full but the last, as where a text ends.
    fn ends_short(&self) -> bool {
        let full = self.len().saturating_sub(1) * self.context_length;
        self.starts.last() == Some(&full) && self.tokens.len() < full + self.context_length
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

fn moved(ranges: Vec<Range<usize>>, by: usize) -> impl Iterator<Item = Range<usize>> {
    ranges.into_iter().map(move |range| range.start + by..range.end + by)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn window(tokens: &[u32], document_starts: &[usize]) -> Window {
        Window::new(tokens.into(), document_starts.into())
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

    /// So many tokens of a question, and so many of its answer.
    fn lesson(token: u32, asked: usize, answered: usize) -> Lesson {
        let mut lesson = Lesson::default();
        (0..asked + answered).for_each(|at| lesson.push(token, at >= asked));
        lesson
    }

    /// Four in two windows, one that is too long, and one of which nothing could be learned.
    fn lessons() -> Vec<Lesson> {
        [(1, 2, 2), (2, 1, 3), (3, 3, 2), (4, 1, 1), (5, 9, 1), (6, 2, 9)]
            .map(|(token, asked, answered)| lesson(token, asked, answered))
            .to_vec()
    }

    #[test]
    fn conversations_are_packed_whole() {
        let PackedLessons { windows, cut, left_out } = Windows::pack_lessons(lessons(), 8).unwrap();
        assert_eq!((cut, left_out), (1, 1));
        let expected = [
            Window { unlearned: vec![0..2, 4..5], ..window(&[1, 1, 1, 1, 2, 2, 2, 2], &[0, 4]) },
            Window { unlearned: vec![0..3, 5..6], ..window(&[3, 3, 3, 3, 3, 4, 4], &[0, 5]) },
            Window { unlearned: lesson(6, 2, 9).unlearned, ..window(&[6; 8], &[0]) },
        ];
        assert_eq!(all(&windows), expected);
        assert_eq!((windows.len(), windows.tokens(), windows.context_length()), (3, 23, 8));
        assert!(windows.check_vocabulary(6).is_err());
    }

    #[test]
    fn conversations_are_held_out_by_windows_and_stand_behind_text() {
        let text = || Windows::pack(vec![vec![7; 9], vec![9; 10]], 8).unwrap();
        let chats = || Windows::pack_lessons(lessons(), 8).unwrap().windows;
        let (kept, held_out) = chats().split_validation(0.3);
        assert_eq!([all(&kept), all(&held_out)].concat(), all(&chats()));
        assert_eq!((kept.len(), held_out.len()), (2, 1));

        assert_eq!(all(&text().and(chats())), [all(&text()), all(&chats())].concat());
        assert_eq!(all(&chats().and(text())), [all(&chats()), all(&text())].concat());
        // A part of a text that goes on from before its beginning.
        let rest = text().split_validation(0.5).1;
        let both = chats().and(rest.clone());
        assert_eq!(both.documents().len(), chats().documents().len() + rest.documents().len());
        assert_eq!(chats().and(chats().split_validation(0.0).1), chats());
    }

    #[test]
    fn conversations_without_anything_to_learn_are_an_error() {
        let error = Windows::pack_lessons(vec![lesson(1, 9, 1)], 8).unwrap_err().to_string();
        assert!(error.contains("none of `1`") && error.contains("`8` tokens"), "{error}");
        let short = Windows::pack_lessons(lessons(), 1);
        assert!(matches!(short, Err(DataError::ShortContext { context_length: 1 })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Each window begins with a conversation and ends with one, and there is something to learn in it.
        #[test]
        fn every_conversation_is_in_one_window(
            sizes in vec((0..5usize, 0..5usize), 1..9), context_length in 2..12usize,
        ) {
            let lessons = (0..).zip(&sizes).map(|(token, &(asked, answered))| lesson(token, asked, answered));
            let Ok(packed) = Windows::pack_lessons(lessons.collect(), context_length) else {
                return Ok(());
            };
            let windows = all(&packed.windows);
            let mut seen = vec![];
            for window in &windows {
                prop_assert!((2..=context_length).contains(&window.tokens.len()));
                let batch = crate::TokenBatch::from_windows(std::slice::from_ref(window), 0);
                prop_assert!(batch.num_targets() > 0);
                for (index, &start) in window.document_starts.iter().enumerate() {
                    let next = window.document_starts.get(index + 1).copied();
                    let tokens = &window.tokens[start..next.unwrap_or(window.tokens.len())];
                    let (asked, answered) = sizes[tokens[0] as usize];
                    prop_assert_eq!(tokens.len(), (asked + answered).min(context_length));
                    prop_assert!(tokens.iter().all(|token| *token == tokens[0]));
                    seen.push(tokens[0]);
                }
            }
            prop_assert!(seen.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(seen.len() + packed.left_out, sizes.len());
        }

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
