//! Segments as two lists that a kernel can read.
//!
//! Spans are causal and lie in order, so what a query sees is a run of keys that ends with its own, and what sees a key is
//! a run of queries that begins with its own. Both ends only ever grow along the positions: a tile of queries sees the
//! keys from its first query's first one to its last query's own. That is all that a kernel has to know of groups,
//! documents, padding and windows.

use std::ops::Range;

use crate::segments::Segments;

/// The first key that each query of the last `queries` positions sees: `[rows, 2 halves of the heads, queries]`
pub(super) fn first_keys(segments: &Segments, queries: usize) -> Vec<u32> {
    let past = segments.seq - queries;
    of_spans(segments, |span| {
        let start = span.start;
        let of_query = move |query| segments.first_visible(query, start) as u32;
        (start.max(past)..span.end).map(of_query)
    })
}

/// The last query, by its position, that sees each key: `[rows, 2 halves of the heads, positions]`
pub(super) fn last_queries(segments: &Segments) -> Vec<u32> {
    let window = segments.window.unwrap_or(segments.seq);
    of_spans(segments, |span| {
        let end = span.end;
        span.map(move |key| end.min(key.saturating_add(window)) as u32 - 1)
    })
}

/// One number for each position of each span, row by row and half by half.
fn of_spans<N: Iterator<Item = u32>>(
    segments: &Segments,
    numbers: impl Fn(Range<usize>) -> N,
) -> Vec<u32> {
    let halves = segments.rows.iter().flat_map(|row| [&row.first_half, &row.second_half]);
    halves.flatten().cloned().flat_map(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group_size::GroupSize;
    use crate::layout::{Layout, Row};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn both_lists_say_what_the_segments_say(
            seq in 1..40usize,
            half_group in 1..8usize,
            starts in prop::collection::vec(0..40usize, 0..3),
            window in prop::option::of(prop_oneof![1..20usize, Just(usize::MAX)]),
        ) {
            let layout = Layout { seq, rows: vec![Row { length: seq, document_starts: starts }] };
            let segments = Segments::grouped(&layout, GroupSize::Tokens(2 * half_group), [false, true]);
            let segments = match window {
                Some(window) => segments.with_window(window),
                None => segments,
            };
            let (first, last) = (first_keys(&segments, seq), last_queries(&segments));
            for half in 0..2 {
                for span in segments.spans(0, half, 2) {
                    for (query, key) in span.clone().flat_map(|i| (0..seq).map(move |j| (i, j))) {
                        let seen = (segments.first_visible(query, span.start)..=query).contains(&key);
                        let first = first[half * seq + query] as usize;
                        prop_assert_eq!(seen, (first..=query).contains(&key));
                        let last = last[half * seq + key] as usize;
                        prop_assert_eq!(seen, (key..=last).contains(&query));
                    }
                }
            }
        }

        #[test]
        fn over_a_cache_only_the_new_queries_are_listed(past in 0..30usize, queries in 1..10usize) {
            let segments = Segments::full(&Layout::dense(2, past + queries)).with_window(7);
            let all = first_keys(&segments, past + queries);
            let rows = all.chunks(past + queries).flat_map(|row| row[past..].to_vec());
            prop_assert_eq!(first_keys(&segments, queries), rows.collect::<Vec<_>>());
        }
    }
}
