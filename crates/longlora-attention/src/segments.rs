//! Spans of positions inside which attention is causal.

use std::ops::Range;
use std::sync::Arc;

use crate::group_size::GroupSize;
use crate::layout::{Layout, Row};

/// The spans of one row, for each half of the query heads. Each list covers every position exactly once, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spans {
    /// Of the query heads below `heads / 2`, rounded down.
    pub(crate) first_half: Vec<Range<usize>>,
    /// Of the query heads from `heads / 2` on.
    pub(crate) second_half: Vec<Range<usize>>,
}

/// Where attention may look, for every row and each half of the heads.
///
/// A query at position `i` of a span sees the keys at positions `j` of the same span with `j <= i` and, with a window
/// `w`, `j > i - w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    pub(crate) seq: usize,
    pub(crate) rows: Vec<Spans>,
    pub(crate) window: Option<usize>,
}

/// The segments of each layer of a model.
#[derive(Debug, Clone)]
pub struct AttentionPlan {
    even: Arc<Segments>,
    odd: Arc<Segments>,
}

impl AttentionPlan {
    pub(crate) fn same(segments: Segments) -> Self {
        let even = Arc::new(segments);
        Self { odd: even.clone(), even }
    }

    pub(crate) fn alternate(even: Segments, odd: Segments) -> Self {
        Self { even: Arc::new(even), odd: Arc::new(odd) }
    }

    /// The segments of layer `index`, counted from 0.
    pub fn layer(&self, index: usize) -> &Arc<Segments> {
        if index.is_multiple_of(2) { &self.even } else { &self.odd }
    }

    /// The same spans, none of whose queries sees more than `window` tokens.
    pub fn with_window(self, window: usize) -> Self {
        let narrow = |segments: Arc<Segments>| Arc::unwrap_or_clone(segments).with_window(window);
        Self::alternate(narrow(self.even), narrow(self.odd))
    }
}

impl Segments {
    /// Each document is one span.
    ///
    /// # Panics
    /// If a row is longer than `layout.seq`.
    pub fn full(layout: &Layout) -> Self {
        let rows = layout.rows.iter().map(|row| {
            let spans = documents(row, layout.seq);
            Spans { first_half: spans.clone(), second_half: spans }
        });
        Self { seq: layout.seq, rows: rows.collect(), window: None }
    }

    /// Groups of `group_size`, for each half of the heads shifted by half a group or not.
    ///
    /// S²-Attn (LongLoRA, arXiv:2309.12307, alg. 1) without its wrap-around: a shifted half has spans of
    /// `group_size / 2, group_size, …`, so no position ever sees a later one. The paper measures no loss for it
    /// (table 8, variant 2). Groups are counted from the start of each document, whose tokens so see the same whether it
    /// is packed with others or alone; one that fits into a group is not cut at all.
    ///
    /// # Panics
    /// If a group has an odd number of tokens or none, its ratio is not in (0, 1], or a row is longer than `layout.seq`.
    pub fn grouped(layout: &Layout, group_size: GroupSize, shifted: [bool; 2]) -> Self {
        let spans = |row: &Row, shifted: bool| {
            let group = group_size.tokens(row.length);
            if let GroupSize::Ratio(ratio) = group_size {
                assert!(ratio > 0.0 && ratio <= 1.0, "needs a ratio in (0, 1], got {ratio}");
            }
            assert!(group >= 2 && group.is_multiple_of(2), "needs even groups, got {group}");
            let documents = documents(row, layout.seq).into_iter();
            documents.flat_map(|document| groups(document, group, shifted)).collect()
        };
        let rows = layout.rows.iter().map(|row| Spans {
            first_half: spans(row, shifted[0]),
            second_half: spans(row, shifted[1]),
        });
        Self { seq: layout.seq, rows: rows.collect(), window: None }
    }

    /// The same spans, none of whose queries sees more than `window` tokens.
    ///
    /// # Panics
    /// If `window` is 0.
    pub fn with_window(self, window: usize) -> Self {
        assert!(window > 0, "needs a window of at least 1 token, got 0");
        Self { window: Some(self.window.map_or(window, |narrow| narrow.min(window))), ..self }
    }

    /// Tokens per row.
    pub fn seq(&self) -> usize {
        self.seq
    }

    /// Rows.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// Tokens that a query sees at most, itself included.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// The spans of query head `head` of `heads` in row `row`: each position is in one, in order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn spans(&self, row: usize, head: usize, heads: usize) -> &[Range<usize>] {
        let spans = &self.rows[row];
        if head < heads / 2 { &spans.first_half } else { &spans.second_half }
    }

    /// The first key that a query at `position` of a span starting at `start` may see.
    pub(crate) fn first_visible(&self, position: usize, start: usize) -> usize {
        self.window.map_or(start, |window| start.max((position + 1).saturating_sub(window)))
    }
}

/// The documents of a row, in order; its padding is the last.
fn documents(row: &Row, seq: usize) -> Vec<Range<usize>> {
    assert!(row.length <= seq, "needs rows of at most {seq} tokens, got {}", row.length);
    let mut cuts = row.document_starts.clone();
    cuts.retain(|&start| start < row.length);
    cuts.extend([0, row.length, seq]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|ends| ends[0]..ends[1]).collect()
}

/// The groups of one document.
fn groups(document: Range<usize>, group: usize, shifted: bool) -> Vec<Range<usize>> {
    if document.len() <= group {
        return vec![document];
    }
    let first = document.start + if shifted { group / 2 } else { group };
    let starts = std::iter::once(document.start).chain((first..document.end).step_by(group));
    let ends = (first..document.end).step_by(group).chain([document.end]);
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{AttentionPattern, Shift};
    use proptest::prelude::*;

    fn lengths(spans: &[Range<usize>]) -> Vec<usize> {
        spans.iter().map(ExactSizeIterator::len).collect()
    }

    #[track_caller]
    fn check(seq: usize, starts: &[usize], group: usize, still: &[usize], shifted: &[usize]) {
        let row = Row { length: seq, document_starts: starts.to_vec() };
        let layout = Layout { seq, rows: vec![row] };
        let segments = Segments::grouped(&layout, GroupSize::Tokens(group), [false, true]);
        assert_eq!(lengths(segments.spans(0, 0, 2)), still);
        assert_eq!(lengths(segments.spans(0, 1, 2)), shifted);
    }

    #[test]
    fn the_shifted_half_begins_and_ends_with_half_a_group() {
        check(16, &[], 4, &[4, 4, 4, 4], &[2, 4, 4, 4, 2]);
    }

    #[test]
    fn a_ragged_tail_is_a_shorter_group() {
        check(15, &[], 4, &[4, 4, 4, 3], &[2, 4, 4, 4, 1]);
        check(13, &[], 4, &[4, 4, 4, 1], &[2, 4, 4, 3]);
    }

    #[test]
    fn groups_are_counted_from_the_start_of_each_document() {
        check(16, &[0, 5], 8, &[5, 8, 3], &[5, 4, 7]);
        check(20, &[10], 4, &[4, 4, 2, 4, 4, 2], &[2, 4, 4, 2, 4, 4]);
    }

    #[test]
    fn one_group_is_full_attention() {
        check(8, &[], 8, &[8], &[8]);
        check(7, &[], 8, &[7], &[7]);
    }

    #[test]
    fn an_odd_head_joins_the_shifted_half() {
        let segments = Segments::grouped(&Layout::dense(1, 8), GroupSize::Tokens(4), [false, true]);
        let shifted: Vec<bool> =
            (0..9).map(|head| segments.spans(0, head, 9)[0].len() == 2).collect();
        assert_eq!(shifted, [false, false, false, false, true, true, true, true, true]);
    }

    #[test]
    fn alternate_layers_shift_all_heads_of_every_second_layer() {
        let group_size = GroupSize::Tokens(4);
        let pattern = AttentionPattern::Shifted { group_size, shift: Shift::AlternateLayers };
        let plan = pattern.plan(&Layout::dense(1, 8));
        assert_eq!(lengths(plan.layer(0).spans(0, 0, 2)), [4, 4]);
        assert_eq!(lengths(plan.layer(0).spans(0, 1, 2)), [4, 4]);
        assert_eq!(lengths(plan.layer(1).spans(0, 0, 2)), [2, 4, 2]);
        assert_eq!(lengths(plan.layer(2).spans(0, 1, 2)), [4, 4]);
    }

    #[test]
    fn unshifted_groups_are_the_same_for_all_heads_and_layers() {
        let group_size = GroupSize::Tokens(4);
        let pattern = AttentionPattern::Shifted { group_size, shift: Shift::Unshifted };
        let plan = pattern.plan(&Layout::dense(1, 8));
        for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            assert_eq!(lengths(plan.layer(layer).spans(0, head, 2)), [4, 4]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn spans_cover_each_position_once(
            seq in 1..70usize,
            padding in 0..9usize,
            half_group in 1..12usize,
            starts in prop::collection::vec(0..70usize, 0..4),
        ) {
            let row = Row { length: seq, document_starts: starts };
            let layout = Layout { seq: seq + padding, rows: vec![row] };
            let segments =
                Segments::grouped(&layout, GroupSize::Tokens(2 * half_group), [false, true]);
            for head in 0..2 {
                let covered: Vec<usize> =
                    segments.spans(0, head, 2).iter().cloned().flatten().collect();
                prop_assert_eq!(covered, (0..seq + padding).collect::<Vec<_>>());
                prop_assert!(segments.spans(0, head, 2).iter().all(|span| !span.is_empty()));
            }
        }
    }
}
