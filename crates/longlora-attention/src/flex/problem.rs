//! What is asked of the kernel: sizes, and the pieces that can be computed apart.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};

use crate::qkv::Qkv;
use crate::segments::Segments;

/// Sizes and segments of one call: the queries of the last `seq` positions, the keys of all.
pub(super) struct Problem<'a> {
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) seq: usize,
    /// Positions before the first query; zero but over a cache.
    pub(super) past: usize,
    pub(super) head_dim: usize,
    pub(super) softmax_scale: f32,
    pub(super) segments: &'a Segments,
}

/// One span of one query head of one row.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) row: usize,
    pub(super) head: usize,
    pub(super) span: Range<usize>,
}

impl<'a> Problem<'a> {
    pub(super) fn new(qkv: &Qkv<Flex>, segments: &'a Segments, softmax_scale: f32) -> Self {
        let [batch, heads, seq, head_dim] = qkv.q.shape().dims();
        let [_, kv_heads, _, _] = qkv.k.shape().dims();
        let past = segments.seq - seq;
        Self { batch, heads, kv_heads, seq, past, head_dim, softmax_scale, segments }
    }

    pub(super) fn q_shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.seq, self.head_dim]
    }

    pub(super) fn k_shape(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.segments.seq, self.head_dim]
    }

    pub(super) fn lse_shape(&self) -> [usize; 4] {
        [self.batch, self.heads, self.seq, 1]
    }

    /// Every span of every head and row that holds queries.
    pub(super) fn pieces(&self) -> Vec<Piece> {
        let rows_and_heads =
            (0..self.batch).flat_map(|row| (0..self.heads).map(move |head| (row, head)));
        let pieces = rows_and_heads.flat_map(|(row, head)| {
            let spans = self.segments.spans(row, head, self.heads).iter().cloned();
            let spans = spans.filter(|span| span.end > self.past);
            spans.map(move |span| Piece { row, head, span })
        });
        pieces.collect()
    }

    /// The positions of a piece that have queries.
    pub(super) fn queries(&self, piece: &Piece) -> Range<usize> {
        piece.span.start.max(self.past)..piece.span.end
    }

    /// Query heads per kv head.
    pub(super) fn queries_per_kv(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where positions of a query head lie in a query-shaped array.
    pub(super) fn query_range(&self, piece: &Piece, positions: &Range<usize>) -> Range<usize> {
        let Range { start, end } = self.lse_range(piece, positions);
        start * self.head_dim..end * self.head_dim
    }

    /// Which row of the output holds a position of all heads: it is `[batch, seq, heads, head_dim]`, as the next projection
    /// reads it.
    pub(super) fn out_row(&self, piece: &Piece, position: usize) -> usize {
        piece.row * self.seq + position - self.past
    }

    /// Where positions of a query head lie in an array with one number per query.
    pub(super) fn lse_range(&self, piece: &Piece, positions: &Range<usize>) -> Range<usize> {
        let start = (piece.row * self.heads + piece.head) * self.seq;
        start + positions.start - self.past..start + positions.end - self.past
    }

    /// Where positions of the key head that a query head shares lie in a key-shaped array.
    pub(super) fn key_range(&self, piece: &Piece, positions: &Range<usize>) -> Range<usize> {
        let kv_head = piece.head / self.queries_per_kv();
        let start = (piece.row * self.kv_heads + kv_head) * self.segments.seq;
        (start + positions.start) * self.head_dim..(start + positions.end) * self.head_dim
    }

    /// The keys of a tile that the query at `query` sees, counted from the tile's start.
    ///
    /// With a window the key tiles begin anywhere, so one may lie wholly after the query: then none of it is seen.
    pub(super) fn visible(&self, piece: &Piece, query: usize, keys: &Range<usize>) -> Range<usize> {
        let first = self.segments.first_visible(query, piece.span.start).max(keys.start);
        let end = (query + 1).clamp(keys.start, keys.end);
        first.min(end) - keys.start..end - keys.start
    }

    /// The queries of a tile that see the key at `key`, counted from the tile's start.
    pub(super) fn seeing(&self, piece: &Piece, key: usize, queries: &Range<usize>) -> Range<usize> {
        let first = key.max(piece.span.start).clamp(queries.start, queries.end);
        let end = self.segments.window.map_or(queries.end, |window| key.saturating_add(window));
        first - queries.start..end.clamp(first, queries.end) - queries.start
    }

    /// The position after the last query that sees one of some keys.
    pub(super) fn last_seeing(&self, piece: &Piece, keys: &Range<usize>) -> usize {
        let window = self.segments.window;
        window.map_or(piece.span.end, |window| {
            piece.span.end.min((keys.end - 1).saturating_add(window))
        })
    }

    /// Whether some query of a tile does not see some key of another.
    pub(super) fn has_hidden(
        &self,
        piece: &Piece,
        queries: &Range<usize>,
        keys: &Range<usize>,
    ) -> bool {
        let (Some(last_query), Some(last_key)) = (queries.clone().last(), keys.clone().last())
        else {
            return false;
        };
        last_key > queries.start
            || keys.start < self.segments.first_visible(last_query, piece.span.start)
    }
}

/// Heads of a tensor, read where they lie: entries side by side, anything else where the strides say.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    data: &'a [f32],
    /// Between rows of the batch, heads, positions.
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    /// Of a tensor `[batch, heads, positions, head_dim]`, unless it has to be copied first.
    pub(super) fn of(x: &'a FloatTensor<Flex>) -> Option<Self> {
        let [_, _, _, head_dim] = x.shape().dims();
        let [row, head, position, entry] = <[isize; 4]>::try_from(x.layout().strides()).ok()?;
        let stride = |stride| usize::try_from(stride).ok();
        let strides = [stride(row)?, stride(head)?, stride(position)?];
        let data = &x.storage::<f32>()[x.layout().start_offset()..];
        (entry == 1 || head_dim == 1).then_some(Self { data, strides })
    }

    /// Of a tensor whose positions also follow one another within a head, as those of a cache do, which has room for more.
    pub(super) fn in_runs(x: &'a FloatTensor<Flex>) -> Option<Self> {
        let [_, _, positions, head_dim] = x.shape().dims();
        let Self { data, strides: [row, head, position] } = Self::of(x)?;
        let in_runs = position == head_dim || positions == 1;
        in_runs.then_some(Self { data, strides: [row, head, head_dim] })
    }

    /// A head from a position on, and how far its positions are apart.
    pub(super) fn from(&self, row: usize, head: usize, position: usize) -> (&'a [f32], usize) {
        let [of_row, of_head, of_position] = self.strides;
        let start = row * of_row + head * of_head + position * of_position;
        (&self.data[start..], of_position)
    }

    /// Some positions of a head, one after the other; of heads [in runs](Self::in_runs).
    pub(super) fn run(&self, row: usize, head: usize, positions: &Range<usize>) -> &'a [f32] {
        let (from, stride) = self.from(row, head, positions.start);
        &from[..positions.len() * stride]
    }
}

/// The tiles of `size` that a range is cut into.
pub(super) fn tiles(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size).map(move |start| start..end.min(start + size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    /// One span of 200 positions.
    #[track_caller]
    fn check(window: Option<usize>, query: usize, keys: Range<usize>, expected: Range<usize>) {
        let mut segments = Segments::full(&Layout::dense(1, 200));
        segments.window = window;
        let problem = Problem {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            seq: 200,
            past: 0,
            head_dim: 8,
            softmax_scale: 1.0,
            segments: &segments,
        };
        let piece = Piece { row: 0, head: 0, span: 0..200 };
        assert_eq!(problem.visible(&piece, query, &keys), expected);
    }

    /// `seeing`, `has_hidden` and `last_seeing` are `visible` asked from the other side.
    #[test]
    fn keys_are_seen_by_the_queries_that_see_them() {
        for window in [None, Some(1), Some(70), Some(200)] {
            let mut segments = Segments::full(&Layout::dense(1, 200));
            segments.window = window;
            let problem = Problem {
                batch: 1,
                heads: 1,
                kv_heads: 1,
                seq: 200,
                past: 0,
                head_dim: 8,
                softmax_scale: 1.0,
                segments: &segments,
            };
            let piece = Piece { row: 0, head: 0, span: 20..190 };
            for (queries, keys) in [(20..84, 20..84), (84..148, 20..84), (84..90, 70..89)] {
                let sees = |query: usize, key: usize| {
                    problem.visible(&piece, query, &keys).contains(&(key - keys.start))
                };
                for key in keys.clone() {
                    let seeing = problem.seeing(&piece, key, &queries);
                    for query in queries.clone() {
                        let expected = sees(query, key);
                        assert_eq!(seeing.contains(&(query - queries.start)), expected);
                        assert!(!expected || query < problem.last_seeing(&piece, &keys));
                    }
                }
                let all = queries.clone().all(|query| keys.clone().all(|key| sees(query, key)));
                assert_eq!(problem.has_hidden(&piece, &queries, &keys), !all);
            }
        }
    }

    #[test]
    fn a_query_sees_the_keys_up_to_itself() {
        check(None, 70, 0..64, 0..64);
        check(None, 70, 64..128, 0..7);
        check(None, 63, 64..128, 0..0);
    }

    #[test]
    fn a_window_hides_the_keys_before_it() {
        check(Some(5), 70, 0..64, 64..64);
        check(Some(9), 70, 0..64, 62..64);
        check(Some(5), 70, 64..128, 2..7);
    }

    /// It wrapped around: a sliding window over more than one tile of queries panicked.
    #[test]
    fn a_query_far_before_a_tile_sees_none_of_it() {
        check(None, 20, 64..128, 0..0);
        check(Some(70), 64, 123..187, 0..0);
    }
}
