//! The problems on which every implementation has to agree.

use std::sync::Arc;

use crate::{AttentionPattern, AttentionPlan, GroupSize, Layout, Row, Segments, Shift};

/// Who sees whom in one layer, and how large everything is.
pub(super) struct Problem {
    pub(super) name: &'static str,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    plan: AttentionPlan,
    layer: usize,
}

/// Small, odd and unequal sizes; tiles hold 64 tokens in the CPU kernel, a task of its backward at least
/// 1,024 keys, and tiles of the plain path 128.
pub(super) fn catalogue() -> Vec<Problem> {
    use AttentionPattern::Full;
    let dense = Layout::dense;
    vec![
        Problem::new("one token", Full, dense(1, 1), [4, 2], 3),
        Problem::new("one token in a row of padding", Full, rows(9, &[(1, &[])]), [3, 1], 8),
        Problem::new("two tokens, one head", half_heads(2), dense(1, 2), [1, 1], 3),
        Problem::new("full, three rows", Full, dense(3, 13), [4, 2], 8),
        Problem::new("full, no head shared", Full, dense(1, 21), [8, 8], 24),
        Problem::new("groups that fit", half_heads(6), dense(2, 24), [4, 2], 8),
        Problem::new("groups with a ragged tail", half_heads(6), dense(2, 31), [9, 3], 16),
        Problem::new("groups with a tail of one", half_heads(8), dense(1, 25), [3, 1], 3),
        Problem::new("groups of two", half_heads(2), dense(1, 11), [4, 2], 3),
        Problem::new("a single head is shifted", half_heads(4), dense(1, 15), [1, 1], 8),
        Problem::new("one group", half_heads(32), dense(2, 19), [4, 2], 8),
        Problem::new("groups of a ratio", ratio(0.25), dense(2, 37), [9, 3], 8),
        Problem::new("ratio, unequal rows", ratio(0.3), unequal_rows(), [4, 2], 24),
        Problem::new("documents, full", Full, unequal_rows(), [9, 3], 3),
        Problem::new("documents, groups", half_heads(10), unequal_rows(), [4, 2], 16),
        Problem::new("documents, window", window(6), unequal_rows(), [3, 1], 8),
        Problem::new("alternate, still layer", alternate(6), unequal_rows(), [4, 2], 8),
        Problem::new("alternate, shifted layer", alternate(6), unequal_rows(), [4, 2], 8)
            .in_layer(1),
        Problem::new("window of one", window(1), dense(2, 7), [4, 2], 3),
        Problem::new("window", window(5), dense(2, 23), [8, 8], 24),
        Problem::new("window wider than the row", window(usize::MAX), dense(1, 17), [9, 3], 8),
        Problem::new("window in groups", half_heads(12), dense(2, 41), [9, 3], 8).with_window(5),
        Problem::new("window in alternate layers", alternate(8), dense(1, 29), [4, 2], 3)
            .in_layer(1)
            .with_window(3),
        Problem::new("one below a tile", Full, dense(1, 63), [4, 2], 64),
        Problem::new("a tile", Full, dense(1, 64), [3, 1], 80),
        Problem::new("one above a tile", Full, dense(2, 65), [4, 2], 24),
        Problem::new("two tiles and a tail", Full, dense(1, 130), [3, 1], 16),
        Problem::new("groups of a tile and a bit", half_heads(66), dense(1, 150), [9, 3], 8),
        Problem::new("window over many tiles", window(70), dense(1, 203), [3, 1], 8),
        Problem::new("window within a tile", window(9), dense(1, 131), [4, 2], 80),
        Problem::new("keys in parts", Full, dense(1, 2100), [2, 1], 3),
        Problem::new("keys in parts, window", window(1100), dense(1, 2300), [1, 1], 3),
        Problem::new("documents, full, tiles", Full, tile_documents(), [4, 2], 8),
        Problem::new("documents, groups, tiles", half_heads(64), tile_documents(), [9, 3], 3),
        Problem::new("documents, window, tiles", half_heads(140), tile_documents(), [4, 2], 16)
            .with_window(67),
    ]
}

impl Problem {
    fn new(
        name: &'static str,
        pattern: AttentionPattern,
        layout: Layout,
        [heads, kv_heads]: [usize; 2],
        head_dim: usize,
    ) -> Self {
        Self { name, heads, kv_heads, head_dim, plan: pattern.plan(&layout), layer: 0 }
    }

    fn in_layer(self, layer: usize) -> Self {
        Self { layer, ..self }
    }

    fn with_window(self, window: usize) -> Self {
        Self { plan: self.plan.with_window(window), ..self }
    }

    pub(super) fn segments(&self) -> &Arc<Segments> {
        self.plan.layer(self.layer)
    }
}

pub(super) fn half_heads(tokens: usize) -> AttentionPattern {
    let group_size = GroupSize::Tokens(tokens);
    AttentionPattern::Shifted { group_size, shift: Shift::HalfHeads }
}

fn ratio(ratio: f64) -> AttentionPattern {
    AttentionPattern::Shifted { group_size: GroupSize::Ratio(ratio), shift: Shift::HalfHeads }
}

fn alternate(tokens: usize) -> AttentionPattern {
    let group_size = GroupSize::Tokens(tokens);
    AttentionPattern::Shifted { group_size, shift: Shift::AlternateLayers }
}

fn window(window: usize) -> AttentionPattern {
    AttentionPattern::SlidingWindow { window }
}

/// Of each row its length and its document starts.
pub(super) fn rows(seq: usize, rows: &[(usize, &[usize])]) -> Layout {
    let row =
        |&(length, starts): &(usize, &[usize])| Row { length, document_starts: starts.to_vec() };
    Layout { seq, rows: rows.iter().map(row).collect() }
}

fn unequal_rows() -> Layout {
    rows(29, &[(29, &[0, 7, 12]), (17, &[5, 16]), (0, &[])])
}

fn tile_documents() -> Layout {
    rows(201, &[(195, &[0, 1, 65, 129])])
}
