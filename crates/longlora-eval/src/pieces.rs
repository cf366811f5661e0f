//! Pieces of evidence: what standard errors and intervals are about.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bootstrap::ENOUGH_PIECES;

/// Documents from which on they are the pieces of evidence, and not their stretches.
const ENOUGH_DOCUMENTS: usize = 10;

/// Of what a standard error and an interval are made, and of how many.
///
/// Documents, where there are at least 10 of them: two pages of one author are more alike than two of different ones. With
/// fewer it is their [stretches](crate::Stretch), each of a whole window: what is shorter, as the last one of a document
/// may be, or is read by less than half as many windows as others, counts with its neighbour. It would say almost nothing
/// itself, and yet halve the evidence that two pieces seem to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pieces {
    /// So many documents.
    Documents(usize),
    /// So many stretches of text.
    Stretches(usize),
}

/// A stretch: its document, the tokens that are scored in it, and the sum of what they are scored by.
pub(crate) type Part = (usize, (usize, f64));

impl Pieces {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::Documents(count) | Self::Stretches(count) => count,
        }
    }

    /// Whether they are too few to be drawn from, so that an interval is that of Student's t: fewer than 16.
    pub fn are_few(self) -> bool {
        self.count() < ENOUGH_PIECES
    }

    /// By what an interval over them was found.
    pub fn interval_method(self) -> &'static str {
        if self.are_few() { "Student's t" } else { "the paired bootstrap" }
    }

    /// The pieces of stretches in the order of the text, read in windows of `length` tokens: `(weight, sum)` of each.
    pub(crate) fn of(length: usize, stretches: &[Part]) -> (Self, Vec<(f64, f64)>) {
        let mut documents: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for &(document, part) in stretches {
            add(documents.entry(document).or_default(), part);
        }
        if documents.len() >= ENOUGH_DOCUMENTS {
            return (Self::Documents(documents.len()), documents.into_values().collect());
        }
        let whole = whole_ones(length, stretches);
        (Self::Stretches(whole.len()), whole)
    }
}

/// Each piece holds a whole stretch, but for the only one of a text that has none.
fn whole_ones(length: usize, stretches: &[Part]) -> Vec<(f64, f64)> {
    let largest = stretches.iter().map(|(_, (tokens, _))| *tokens).max().unwrap_or_default();
    let is_whole = |tokens: usize| tokens + 1 >= length && 2 * tokens >= largest;
    let mut pieces: Vec<(f64, f64)> = vec![];
    let mut last_is_whole = false;
    for &(_, (tokens, sum)) in stretches {
        match pieces.last_mut() {
            Some(last) if !(last_is_whole && is_whole(tokens)) => add(last, (tokens, sum)),
            _ => pieces.push((tokens as f64, sum)),
        }
        last_is_whole |= is_whole(tokens);
    }
    pieces
}

fn add(piece: &mut (f64, f64), (tokens, sum): (usize, f64)) {
    piece.0 += tokens as f64;
    piece.1 += sum;
}

/// As in «over 63 stretches of text».
impl fmt::Display for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Documents(count) => write!(f, "{count} documents"),
            Self::Stretches(1) => write!(f, "one stretch of text"),
            Self::Stretches(count) => write!(f, "{count} stretches of text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of windows of 10 tokens; each stretch has a sum of as many as stand before it.
    #[track_caller]
    fn check(stretches: &[(usize, usize)], expected: &[(f64, f64)]) {
        let part = |(index, &(document, tokens))| (document, (tokens, index as f64));
        let stretches: Vec<Part> = stretches.iter().enumerate().map(part).collect();
        assert_eq!(whole_ones(10, &stretches), expected);
        let (pieces, sums) = Pieces::of(10, &stretches);
        assert_eq!((pieces, sums.as_slice()), (Pieces::Stretches(expected.len()), expected));
    }

    #[test]
    fn what_is_shorter_than_a_window_counts_with_its_neighbour() {
        check(&[(0, 9), (0, 9), (0, 9)], &[(9.0, 0.0), (9.0, 1.0), (9.0, 2.0)]);
        // The first token of a text is not predicted, the others are; the last stretch is what is left.
        check(&[(0, 9), (0, 10), (0, 1)], &[(9.0, 0.0), (11.0, 3.0)]);
        check(&[(0, 9), (0, 8)], &[(17.0, 1.0)]);
        check(&[(0, 9), (1, 4), (1, 9)], &[(13.0, 1.0), (9.0, 2.0)]);
        check(&[(0, 4), (1, 3), (2, 9), (2, 9)], &[(16.0, 3.0), (9.0, 3.0)]);
        check(&[(0, 4), (1, 3)], &[(7.0, 1.0)]);
        // Overlapping windows: what few of them read weighs little, though it is as long.
        check(&[(0, 36), (0, 64), (0, 12)], &[(36.0, 0.0), (76.0, 3.0)]);
        check(&[], &[]);
    }

    #[test]
    fn ten_documents_are_the_pieces_however_long_they_are() {
        let stretches = |documents: usize| -> Vec<Part> {
            (0..2 * documents).map(|n| (n / 2, (if n == 0 { 1 } else { 9 }, 1.0))).collect()
        };
        let (pieces, sums) = Pieces::of(10, &stretches(10));
        assert_eq!((pieces, sums.len()), (Pieces::Documents(10), 10));
        assert_eq!(sums[..2], [(10.0, 2.0), (18.0, 2.0)]);
        assert_eq!(Pieces::of(10, &stretches(9)).0, Pieces::Stretches(17));
    }

    #[test]
    fn few_pieces_are_students() {
        let check = |pieces: Pieces, words: &str, method: &str| {
            assert_eq!((pieces.to_string().as_str(), pieces.interval_method()), (words, method));
        };
        check(Pieces::Stretches(1), "one stretch of text", "Student's t");
        check(Pieces::Stretches(15), "15 stretches of text", "Student's t");
        check(Pieces::Documents(16), "16 documents", "the paired bootstrap");
    }
}
