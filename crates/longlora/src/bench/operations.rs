//! What one training step has to compute and to move, counted from the model's sizes.
//!
//! Counted are the products of matrices: a multiplication and an addition are 2 operations. The base is frozen, so no
//! weight gets a gradient but the matrices of LoRA on q, k, v and o. Bytes are those that have to pass at least once: each
//! matrix and each result of a product once per direction, in f32; scores of attention and logits never.
//! `docs/performance.md` has the derivation.

use std::ops::Add;

use longlora_attention::{AttentionPlan, Segments};
use longlora_llama::LlamaConfig;

const F32: u64 = size_of::<f32>() as u64;

/// Widths of a model with one MLP per block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) hidden: u64,
    pub(super) intermediate: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) vocab: u64,
}

/// A training step over one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Tokens of the window; all but the last have a target.
    pub(super) tokens: u64,
    /// Pairs of query and visible key over all heads, for each block.
    pub(super) pairs: Vec<u64>,
    /// Rank of LoRA on q, k, v and o.
    pub(super) rank: u64,
    /// Blocks, from the first, that are run forward once more in the backward.
    pub(super) rerun_blocks: usize,
}

/// Operations and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Work {
    pub(super) flop: u64,
    pub(super) bytes: u64,
}

/// The work of a training step, by part, over all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct StepWork {
    /// q, k, v and o: forward, and the gradient by their inputs.
    pub(super) projections: Work,
    /// LoRA's products, and the gradients of its matrices.
    pub(super) updates: Work,
    /// gate, up and down: forward, and the gradient by their inputs.
    pub(super) mlp: Work,
    /// Scores and sums of values: forward and backward.
    pub(super) attention: Work,
    /// The head: scores, and the gradient by the hidden states.
    pub(super) head: Work,
    /// The forward of the blocks that are run again.
    pub(super) recomputation: Work,
}

impl Sizes {
    pub(super) fn of(config: &LlamaConfig) -> Self {
        Self {
            hidden: config.hidden_size as u64,
            intermediate: config.intermediate_size as u64,
            heads: config.num_attention_heads as u64,
            kv_heads: config.num_key_value_heads as u64,
            head_dim: config.rope.head_dim as u64,
            vocab: config.vocab_size as u64,
        }
    }
}

impl StepWork {
    pub(super) fn of(sizes: &Sizes, request: &Request) -> Self {
        let mut step = Self { head: head(sizes, request.tokens), ..Self::default() };
        for (block, &pairs) in request.pairs.iter().enumerate() {
            let [forward, backward] = block_work(sizes, request, pairs);
            step.add_block(forward);
            step.add_block(backward);
            if block < request.rerun_blocks {
                step.recomputation = step.recomputation + forward.total();
            }
        }
        step
    }

    fn add_block(&mut self, block: BlockWork) {
        self.projections = self.projections + block.projections;
        self.updates = self.updates + block.updates;
        self.mlp = self.mlp + block.mlp;
        self.attention = self.attention + block.attention;
    }

    /// Names and work of the parts.
    pub(super) fn parts(&self) -> [(&'static str, Work); 6] {
        [
            ("projections", self.projections),
            ("low-rank updates", self.updates),
            ("MLP", self.mlp),
            ("attention", self.attention),
            ("head and loss", self.head),
            ("recomputation", self.recomputation),
        ]
    }

    /// All of it.
    pub(super) fn total(&self) -> Work {
        self.parts().into_iter().map(|(_, work)| work).fold(Work::default(), Work::add)
    }

    /// What a step would be if nothing were computed twice.
    pub(super) fn without_recomputation(&self) -> Work {
        Self { recomputation: Work::default(), ..*self }.total()
    }
}

/// One direction of one block.
#[derive(Debug, Clone, Copy)]
struct BlockWork {
    projections: Work,
    updates: Work,
    mlp: Work,
    attention: Work,
}

impl BlockWork {
    fn total(self) -> Work {
        self.projections + self.updates + self.mlp + self.attention
    }
}

/// `[forward, backward]`
fn block_work(sizes: &Sizes, request: &Request, pairs: u64) -> [BlockWork; 2] {
    let Sizes { hidden, intermediate, heads, kv_heads, head_dim, .. } = *sizes;
    let tokens = request.tokens;
    let [queries, keys] = [heads, kv_heads].map(|heads| heads * head_dim);
    // Layers that share their input read it once.
    let projections =
        product(tokens, hidden, queries + 2 * keys) + product(tokens, queries, hidden);
    let mlp = product(tokens, hidden, 2 * intermediate) + product(tokens, intermediate, hidden);
    let updated = [[hidden, queries], [hidden, keys], [hidden, keys], [queries, hidden]];
    let [update_forward, update_backward] = updates(tokens, request.rank, updated);
    // The inputs of q, k and v and of o, once more: the gradients of A are made from them.
    let inputs = Work { flop: 0, bytes: F32 * tokens * (hidden + queries) };
    let [attention_forward, attention_backward] = attention(sizes, tokens, pairs);
    let forward =
        BlockWork { projections, updates: update_forward, mlp, attention: attention_forward };
    // Of a frozen layer the gradient by its input alone: as much as its forward.
    let updates = if request.rank == 0 { Work::default() } else { update_backward + inputs };
    let backward = BlockWork { projections, updates, mlp, attention: attention_backward };
    [forward, backward]
}

/// A product with a frozen matrix, in one direction.
fn product(rows: u64, d_input: u64, d_output: u64) -> Work {
    Work {
        flop: 2 * rows * d_input * d_output,
        bytes: F32 * (rows * (d_input + d_output) + d_input * d_output),
    }
}

/// `[forward, backward]` of LoRA, where the products of the layers themselves have inputs and outputs at hand.
fn updates(rows: u64, rank: u64, layers: [[u64; 2]; 4]) -> [Work; 2] {
    let layers = layers.into_iter().map(|[d_input, d_output]| rank * (d_input + d_output));
    let matrices: u64 = layers.sum();
    let low = 4 * rows * rank;
    [
        // x·A, and that by B; A and B are read, x·A is written.
        Work { flop: 2 * rows * matrices, bytes: F32 * (matrices + low) },
        // By x as forward, and the gradients of A and B; A, B and x·A are read, the gradients of A and B written.
        Work { flop: 4 * rows * matrices, bytes: F32 * (2 * matrices + low) },
    ]
}

/// `[forward, backward]`
fn attention(sizes: &Sizes, tokens: u64, pairs: u64) -> [Work; 2] {
    let [queries, keys] = [sizes.heads, sizes.kv_heads].map(|heads| heads * sizes.head_dim);
    let [forward, backward] = attention_flop(pairs, sizes.head_dim);
    [
        // q, k, v in; the output and its log-sum-exp out.
        Work { flop: forward, bytes: F32 * tokens * (2 * queries + 2 * keys + sizes.heads) },
        // q, k, v, the output, its gradient and the log-sum-exp in; gradients by q, k and v out.
        Work { flop: backward, bytes: F32 * tokens * (4 * queries + 4 * keys + sizes.heads) },
    ]
}

/// Operations of attention, `[forward, backward]`: two products per pair forward, q·k and p·v; five backward, since the
/// scores are computed again (FlashAttention-2, arXiv:2307.08691, alg. 2).
pub(super) fn attention_flop(pairs: u64, head_dim: u64) -> [u64; 2] {
    [4 * head_dim * pairs, 10 * head_dim * pairs]
}

/// The scores of every token with a target, and the gradient by its hidden state.
fn head(sizes: &Sizes, tokens: u64) -> Work {
    let Sizes { hidden, vocab, .. } = *sizes;
    let targets = tokens.saturating_sub(1);
    Work {
        flop: 4 * targets * hidden * vocab,
        bytes: F32 * 2 * (targets * hidden + hidden * vocab),
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { flop: self.flop + other.flop, bytes: self.bytes + other.bytes }
    }
}

/// Visible pairs of query and key of each block, where `windows` are the tokens that each sees at most.
pub(super) fn pairs_of_blocks(
    plan: &AttentionPlan,
    windows: &[Option<usize>],
    heads: usize,
) -> Vec<u64> {
    let pairs = |(block, window): (usize, &Option<usize>)| {
        let segments = plan.layer(block);
        match *window {
            None => visible_pairs(segments, heads),
            Some(window) => visible_pairs(&(**segments).clone().with_window(window), heads),
        }
    };
    windows.iter().enumerate().map(pairs).collect()
}

/// Pairs of query and visible key, over all rows and heads.
pub(super) fn visible_pairs(segments: &Segments, heads: usize) -> u64 {
    let of_span = |span: usize| {
        let window = segments.window().unwrap_or(span).min(span) as u64;
        // The first queries see as many keys as there are, the others a window.
        window * (window + 1) / 2 + (span as u64 - window) * window
    };
    let of_head = |(row, head): (usize, usize)| -> u64 {
        segments.spans(row, head, heads).iter().map(|span| of_span(span.len())).sum()
    };
    let rows = 0..segments.batch();
    rows.flat_map(|row| (0..heads).map(move |head| (row, head))).map(of_head).sum()
}

#[cfg(test)]
mod tests {
    use longlora_attention::{AttentionPattern, GroupSize, Layout, Shift};

    use super::*;

    /// Widths that are all different, so that a wrong one is seen.
    const SMALL: Sizes =
        Sizes { hidden: 6, intermediate: 10, heads: 4, kv_heads: 2, head_dim: 3, vocab: 50 };
    const SMOLLM2: Sizes = Sizes {
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49_152,
    };

    fn pairs(pattern: AttentionPattern, tokens: usize, heads: usize) -> u64 {
        visible_pairs(pattern.plan(&Layout::dense(1, tokens)).layer(0), heads)
    }

    fn shifted(group: usize) -> AttentionPattern {
        AttentionPattern::Shifted { group_size: GroupSize::Tokens(group), shift: Shift::HalfHeads }
    }

    /// Tokens 7, rank 2, two blocks of 100 pairs.
    fn small(rerun_blocks: usize) -> StepWork {
        let request = Request { tokens: 7, pairs: vec![100; 2], rank: 2, rerun_blocks };
        StepWork::of(&SMALL, &request)
    }

    #[test]
    fn each_part_is_what_it_is_by_hand() {
        let step = small(0);
        // Queries are 12 wide, keys and values 6. Entries: q 72, k 36, v 36, o 72.
        assert_eq!(step.projections.flop, 2 * 4 * 7 * 216);
        // Entries of A and B by rank: q 18, k 12, v 12, o 18; three times forward's 2 operations.
        assert_eq!(step.updates.flop, 2 * 6 * 7 * 2 * 60);
        assert_eq!(step.mlp.flop, 2 * 4 * 7 * 3 * 60);
        assert_eq!(step.attention.flop, 2 * 14 * 3 * 100);
        assert_eq!(step.head.flop, 4 * 6 * 300);
        assert_eq!(step.recomputation, Work::default());
    }

    #[test]
    fn bytes_are_those_that_have_to_pass() {
        let step = small(0);
        // [6 -> 24] and [12 -> 6], two directions, two blocks.
        assert_eq!(step.projections.bytes, 4 * 2 * 2 * (7 * 30 + 144 + 7 * 18 + 72));
        // [6 -> 20] and [10 -> 6].
        assert_eq!(step.mlp.bytes, 4 * 2 * 2 * (7 * 26 + 120 + 7 * 16 + 60));
        // q and o are 12 wide, k and v 6, 4 log-sum-exps.
        assert_eq!(step.attention.bytes, 4 * 2 * 7 * (6 * 12 + 6 * 6 + 2 * 4));
        // A and B three times, x·A twice for each of four layers, both inputs once.
        assert_eq!(step.updates.bytes, 4 * 2 * (3 * 120 + 2 * 4 * 7 * 2 + 7 * (6 + 12)));
        assert_eq!(step.head.bytes, 4 * (2 * 6 * 6 + 2 * 300));
    }

    #[test]
    fn a_block_that_is_run_again_adds_its_forward() {
        let forward = 7 * (2 * 216 + 2 * 120 + 2 * 180) + 4 * 3 * 100;
        assert_eq!(small(1).recomputation.flop, forward);
        assert_eq!(small(2).recomputation.flop, 2 * forward);
        assert_eq!(small(2).total().flop, small(0).total().flop + 2 * forward);
        assert_eq!(small(2).without_recomputation(), small(0).total());
    }

    #[test]
    fn a_query_sees_itself_and_what_is_before_it_in_its_span() {
        assert_eq!(pairs(AttentionPattern::Full, 8, 1), 36);
        assert_eq!(pairs(AttentionPattern::Full, 8, 3), 3 * 36);
        // Still: 4 + 4. Shifted: 2 + 4 + 2. The odd head is shifted.
        assert_eq!(pairs(shifted(4), 8, 3), 20 + 2 * 16);
        assert_eq!(pairs(AttentionPattern::SlidingWindow { window: 3 }, 8, 1), 1 + 2 + 6 * 3);
        assert_eq!(pairs(AttentionPattern::SlidingWindow { window: 99 }, 8, 1), 36);
    }

    #[test]
    fn layers_with_a_window_of_their_own_see_less() {
        let plan = AttentionPattern::Full.plan(&Layout::dense(1, 8));
        assert_eq!(pairs_of_blocks(&plan, &[None, Some(3)], 2), [72, 42]);
    }

    /// 592 MFLOP per token in projections, MLP and head with the head run again, and about 250 in attention, are what
    /// was estimated for PyTorch; without that rerun it is 538.
    #[test]
    fn smollm2_at_8192_tokens_is_as_it_was_estimated() {
        let pairs = pairs(shifted(2048), 8192, 9);
        let request = Request { tokens: 8192, pairs: vec![pairs; 30], rank: 8, rerun_blocks: 0 };
        let step = StepWork::of(&SMOLLM2, &request);
        let per_token = |work: Work| work.flop as f64 / 8192.0 / 1e6;
        let products = per_token(step.projections + step.mlp + step.head);
        assert!((products - 537.9).abs() < 0.1, "{products}");
        assert!((per_token(step.attention) - 230.7).abs() < 0.1, "{}", per_token(step.attention));
        assert!((per_token(step.updates) - 5.53).abs() < 0.01, "{}", per_token(step.updates));
    }
}
