//! What holds for every pattern and every layout.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::TensorData;
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;

use super::answer::{Answer, Inputs};
use crate::{AttentionPattern, GroupSize, Layout, Row, Segments, Shift};

/// One call, described so that a failure can be read.
#[derive(Debug, Clone)]
struct Call {
    pattern: AttentionPattern,
    layer: usize,
    layout: Layout,
    heads: [usize; 2],
    head_dim: usize,
    seed: u64,
}

impl Call {
    fn inputs(&self) -> Inputs {
        self.inputs_under(self.pattern)
    }

    fn inputs_under(&self, pattern: AttentionPattern) -> Inputs {
        let plan = pattern.plan(&self.layout);
        Inputs::random(plan.layer(self.layer), self.heads, self.head_dim, self.seed)
    }
}

prop_compose! {
    fn calls(pattern: BoxedStrategy<AttentionPattern>)(
        pattern in pattern,
        layer in 0..2usize,
        layout in layouts(),
        heads in prop::sample::select(vec![[1, 1], [3, 1], [4, 2], [9, 3]]),
        head_dim in 1..10usize,
        seed: u64,
    ) -> Call {
        Call { pattern, layer, layout, heads, head_dim, seed }
    }
}

fn any_pattern() -> BoxedStrategy<AttentionPattern> {
    let ratio = (0.01..1.0f64).prop_map(GroupSize::Ratio);
    prop_oneof![pattern_of_any_length(), shifted(ratio)].boxed()
}

/// What does not depend on the length of the row.
fn pattern_of_any_length() -> BoxedStrategy<AttentionPattern> {
    let tokens = (1..40usize).prop_map(|half| GroupSize::Tokens(2 * half));
    prop_oneof![ungrouped_pattern(), shifted(tokens)].boxed()
}

fn shifted(
    group_size: impl Strategy<Value = GroupSize> + 'static,
) -> BoxedStrategy<AttentionPattern> {
    let shift =
        prop_oneof![Just(Shift::HalfHeads), Just(Shift::AlternateLayers), Just(Shift::Unshifted)];
    (group_size, shift)
        .prop_map(|(group_size, shift)| AttentionPattern::Shifted { group_size, shift })
        .boxed()
}

fn ungrouped_pattern() -> BoxedStrategy<AttentionPattern> {
    let window = (1..90usize).prop_map(|window| AttentionPattern::SlidingWindow { window });
    prop_oneof![Just(AttentionPattern::Full), window].boxed()
}

/// One to three rows of at most 139 tokens, which is more than two tiles of the kernel.
fn layouts() -> impl Strategy<Value = Layout> {
    let rows = |seq: usize| {
        let starts = prop::collection::btree_set(0..seq, 0..4);
        let row = (0..=seq, starts).prop_map(|(length, starts)| Row {
            length,
            document_starts: starts.into_iter().collect(),
        });
        (Just(seq), prop::collection::vec(row, 1..4))
    };
    (1..140usize).prop_flat_map(rows).prop_map(|(seq, rows)| Layout { seq, rows })
}

/// The positions of one row, in all heads, of an array `[batch, heads, seq, width]`.
fn part<T: Copy>(x: &[T], shape: [usize; 4], row: usize, positions: &Range<usize>) -> Vec<T> {
    let [_, heads, seq, width] = shape;
    let of_head = |head| {
        let start = (row * heads + head) * seq;
        &x[(start + positions.start) * width..(start + positions.end) * width]
    };
    (0..heads).flat_map(of_head).copied().collect()
}

impl Inputs {
    /// The positions of one row, as a batch of its own.
    fn part(&self, row: usize, positions: &Range<usize>, segments: Segments) -> Self {
        let part = |x: &TensorData| {
            let [batch, heads, seq, width] = x.shape().dims();
            let entries: Vec<f32> = x.iter().collect();
            let entries = part(&entries, [batch, heads, seq, width], row, positions);
            TensorData::new(entries, [1, heads, positions.len(), width])
        };
        Self {
            q: part(&self.q),
            k: part(&self.k),
            v: part(&self.v),
            cotangent: part(&self.cotangent),
            segments: Arc::new(segments),
            softmax_scale: self.softmax_scale,
        }
    }

    /// The positions of one row of the answer to these inputs.
    fn part_of_answer(&self, answer: &Answer, row: usize, positions: &Range<usize>) -> Answer {
        let (q, k) = (self.q.shape().dims(), self.k.shape().dims());
        Answer {
            out: part(&answer.out, q, row, positions),
            dq: part(&answer.dq, q, row, positions),
            dk: part(&answer.dk, k, row, positions),
            dv: part(&answer.dv, k, row, positions),
        }
    }

    fn batch(&self) -> usize {
        self.segments.rows.len()
    }
}

/// Changes the entries at and after position `cut` of every row.
fn change_from(x: &TensorData, cut: usize, change: impl Fn(f32) -> f32) -> TensorData {
    let [_, _, seq, width] = x.shape().dims();
    let entries = x.iter::<f32>().enumerate();
    let entries = entries.map(|(i, x)| if i / width % seq < cut { x } else { change(x) });
    TensorData::new(entries.collect::<Vec<f32>>(), x.shape().clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_comes_later_never_changes_what_came_before(
        call in calls(any_pattern()),
        cut in any::<prop::sample::Index>(),
    ) {
        let inputs = call.inputs();
        let cut = cut.index(call.layout.seq);
        let mut later = inputs.clone();
        later.q = change_from(&inputs.q, cut, |x| 9.0 - x);
        later.k = change_from(&inputs.k, cut, |x| 5.0 - x);
        later.v = change_from(&inputs.v, cut, |x| 7.0 - x);
        for implementation in [Inputs::by_kernel, Inputs::by_tiles] {
            let (before, after): (Answer, Answer) = (implementation(&inputs), implementation(&later));
            for row in 0..inputs.batch() {
                let [before, after] = [&before, &after]
                    .map(|answer| inputs.part_of_answer(answer, row, &(0..cut)).out);
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn no_gradient_of_what_came_before_reaches_what_comes_later(
        call in calls(any_pattern()),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut inputs = call.inputs();
        let cut = cut.index(call.layout.seq);
        inputs.cotangent = change_from(&inputs.cotangent, cut, |_| 0.0);
        for implementation in [Inputs::by_kernel, Inputs::by_tiles] {
            let answer: Answer = implementation(&inputs);
            for row in 0..inputs.batch() {
                let later = inputs.part_of_answer(&answer, row, &(cut..call.layout.seq));
                let gradients = [later.dq, later.dk, later.dv].concat();
                prop_assert!(gradients.iter().all(|&gradient| gradient == 0.0));
            }
        }
    }

    #[test]
    fn one_group_is_full_attention_to_the_bit(call in calls(any_pattern()), extra in 0..9usize) {
        let group_size = GroupSize::Tokens(2 * (call.layout.seq.div_ceil(2) + extra));
        let shift = Shift::HalfHeads;
        let one_group = call.inputs_under(AttentionPattern::Shifted { group_size, shift });
        let full = call.inputs_under(AttentionPattern::Full);
        prop_assert_eq!(one_group.by_kernel(), full.by_kernel());
    }

    #[test]
    fn each_row_of_a_batch_is_computed_as_if_alone(call in calls(any_pattern())) {
        let inputs = call.inputs();
        let together = inputs.by_kernel();
        for row in 0..inputs.batch() {
            let positions = 0..call.layout.seq;
            let rows = vec![inputs.segments.rows[row].clone()];
            let alone = inputs.part(row, &positions, Segments { rows, ..(*inputs.segments).clone() });
            let ours = inputs.part_of_answer(&together, row, &positions);
            prop_assert_eq!(ours, alone.by_kernel());
        }
    }

    #[test]
    fn each_document_of_a_packed_row_is_computed_as_if_alone(
        call in calls(pattern_of_any_length()),
    ) {
        let inputs = call.inputs();
        let together = inputs.by_kernel();
        for row in 0..inputs.batch() {
            for document in &Segments::full(&call.layout).rows[row].first_half {
                let layout = Layout::dense(1, document.len());
                let plan = call.pattern.plan(&layout);
                let segments = (**plan.layer(call.layer)).clone();
                let alone = inputs.part(row, document, segments);
                let ours = inputs.part_of_answer(&together, row, document);
                prop_assert_eq!(ours, alone.by_kernel());
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(call in calls(any_pattern())) {
        let inputs = call.inputs();
        let answer_of = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| inputs.by_kernel())
        };
        prop_assert_eq!(answer_of(1), answer_of(3));
    }
}
