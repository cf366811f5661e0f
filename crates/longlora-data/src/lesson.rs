use std::ops::Range;

/// A conversation in token ids, and which of them are learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lesson {
    /// All that is read.
    pub tokens: Vec<u32>,
    /// Positions of tokens that are read and never predicted: ascending, with something learned between any two ranges.
    pub unlearned: Vec<Range<usize>>,
}

impl Lesson {
    /// A text's tokens with the bytes that they stand for, of which those are learned that any of `answers`, in bytes,
    /// has a part in. A token that stands for no byte is added to the text, and not learned.
    pub(crate) fn of_answers(text: Vec<(u32, Range<usize>)>, answers: &[Range<usize>]) -> Self {
        let mut lesson = Self::default();
        for (token, bytes) in text {
            let in_answer =
                |answer: &Range<usize>| bytes.start < answer.end && bytes.end > answer.start;
            lesson.push(token, answers.iter().any(in_answer));
        }
        lesson
    }

    pub(crate) fn push(&mut self, token: u32, is_learned: bool) {
        let at = self.tokens.len();
        self.tokens.push(token);
        if is_learned {
            return;
        }
        match self.unlearned.last_mut() {
            Some(range) if range.end == at => range.end = at + 1,
            _ => self.unlearned.push(at..at + 1),
        }
    }

    /// Leaves out what is beyond so many tokens.
    pub(crate) fn cut(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.unlearned.retain(|range| range.start < length);
        if let Some(last) = self.unlearned.last_mut() {
            last.end = last.end.min(length);
        }
    }

    /// How many tokens are learned. Never the first: nothing stands before it from which it could be predicted.
    pub fn targets(&self) -> usize {
        let unlearned: usize =
            self.unlearned.iter().map(|range| range.end - range.start.max(1)).sum();
        self.tokens.len().saturating_sub(1) - unlearned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 0 to 9 of two bytes each, and answers from the one byte up to the other.
    fn lesson(answers: &[(usize, usize)]) -> Lesson {
        let bytes = |token: u32| 2 * token as usize..2 * token as usize + 2;
        let answers: Vec<_> = answers.iter().map(|&(start, end)| start..end).collect();
        Lesson::of_answers((0..10).map(|token| (token, bytes(token))).collect(), &answers)
    }

    fn unlearned(lesson: &Lesson) -> Vec<(usize, usize)> {
        lesson.unlearned.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn answers_alone_are_learned() {
        assert_eq!(lesson(&[(4, 8)]).tokens, (0..10).collect::<Vec<_>>());
        assert_eq!(unlearned(&lesson(&[(4, 8), (12, 20)])), [(0, 2), (4, 6)]);
        assert!(lesson(&[(0, 20)]).unlearned.is_empty());
        assert_eq!(unlearned(&lesson(&[])), [(0, 10)]);
    }

    /// It says something of the answer, which would have no first word without it.
    #[test]
    fn a_token_across_the_border_is_learned() {
        assert_eq!(unlearned(&lesson(&[(5, 7)])), [(0, 2), (4, 10)]);
        assert_eq!(unlearned(&lesson(&[(4, 4)])), [(0, 10)]);
    }

    #[test]
    fn a_token_that_stands_for_nothing_is_not_learned() {
        let answer = 0..3;
        let text = vec![(0, 0..0), (7, 0..3), (1, 3..3)];
        let lesson = Lesson::of_answers(text, std::slice::from_ref(&answer));
        assert_eq!(lesson.tokens, [0, 7, 1]);
        assert_eq!(unlearned(&lesson), [(0, 1), (2, 3)]);
    }

    #[test]
    fn the_first_token_is_no_target() {
        assert_eq!(lesson(&[(0, 20)]).targets(), 9);
        assert_eq!(lesson(&[(0, 2)]).targets(), 0);
        assert_eq!(lesson(&[(4, 8), (12, 20)]).targets(), 6);
        assert_eq!(Lesson::default().targets(), 0);
    }

    #[test]
    fn what_is_cut_is_neither_read_nor_left_out() {
        let check = |length, tokens, targets, left_out: &[(usize, usize)]| {
            let mut lesson = lesson(&[(4, 8), (12, 20)]);
            lesson.cut(length);
            assert_eq!((lesson.tokens.len(), lesson.targets()), (tokens, targets));
            assert_eq!(unlearned(&lesson), left_out);
        };
        check(99, 10, 6, &[(0, 2), (4, 6)]);
        check(5, 5, 2, &[(0, 2), (4, 5)]);
        check(4, 4, 2, &[(0, 2)]);
        check(2, 2, 0, &[(0, 2)]);
    }
}
