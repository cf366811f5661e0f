//! No token depends on a later one: the whole model by its Jacobian, and bit by bit.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use longlora_attention::{AttentionPattern, GroupSize, Layout, Row, Shift};
use longlora_llama::Llama;
use serde_json::json;

use crate::random::{config, redraw};

/// Groups of four tokens.
fn groups(shift: Shift) -> AttentionPattern {
    AttentionPattern::Shifted { group_size: GroupSize::Tokens(4), shift }
}

/// Enough layers for information to cross 16 tokens in steps of half a group: one more than needed, so that shifting
/// by layers gets there, too.
fn deep_model(device: &Device) -> Llama {
    let config = config(json!({ "num_hidden_layers": 9 }));
    redraw(config.init(device).train_all(), 5)
}

/// Token ids `0 .. seq`, all different.
fn counting(seq: usize, device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i64> = (0..seq as i64).collect();
    Tensor::from_data(TensorData::new(ids, [1, seq]), device)
}

/// One row: `length` tokens in documents that begin at `starts`, then padding.
fn layout(seq: usize, length: usize, starts: &[usize]) -> Layout {
    Layout { seq, rows: vec![Row { length, document_starts: starts.to_vec() }] }
}

/// The Jacobian of all logits by all input embeddings, position by position: zero above the diagonal and between
/// documents, and nowhere else.
///
/// Every token id occurs once, so the gradient by the embedding table has one row per position. The head is not tied:
/// the table reaches the logits through the blocks alone.
#[track_caller]
fn check(pattern: AttentionPattern, layout: &Layout) {
    let device = Device::default().autodiff();
    let llama = deep_model(&device);
    let (seq, row) = (layout.seq, &layout.rows[0]);
    let borders = row.document_starts.iter().copied().chain([row.length]);
    let document_of = |position: usize| borders.clone().filter(|&b| b <= position).count();
    for position in 0..seq {
        let logits = llama.logits(counting(seq, &device), &llama.pass(pattern, layout));
        let grads = logits.narrow(1, position, 1).sum().backward();
        let by_table = llama.model.embed_tokens.weight.grad(&grads).unwrap();
        let by_embedding = by_table.abs().sum_dim(1).into_data();
        for (other, gradient) in by_embedding.iter::<f32>().take(seq).enumerate() {
            let reaches = other <= position && document_of(other) == document_of(position);
            assert_eq!(
                gradient != 0.0,
                reaches,
                "{pattern:?}, {layout:?}: logits {position} by embedding {other} have {gradient}"
            );
        }
    }
}

#[test]
fn shifted_groups_reach_every_earlier_token_and_no_later_one() {
    check(groups(Shift::HalfHeads), &layout(16, 16, &[0]));
    check(groups(Shift::AlternateLayers), &layout(16, 16, &[0]));
}

#[test]
fn a_ragged_tail_changes_nothing_about_it() {
    check(groups(Shift::HalfHeads), &layout(15, 15, &[0]));
    check(groups(Shift::AlternateLayers), &layout(13, 13, &[0]));
}

#[test]
fn full_attention_and_sliding_windows_are_causal() {
    check(AttentionPattern::Full, &layout(15, 15, &[0]));
    check(AttentionPattern::SlidingWindow { window: 3 }, &layout(15, 15, &[0]));
}

#[test]
fn nothing_crosses_the_border_of_a_document_or_comes_from_padding() {
    let packed = layout(16, 14, &[0, 5, 6]);
    check(AttentionPattern::Full, &packed);
    check(groups(Shift::HalfHeads), &packed);
    check(groups(Shift::AlternateLayers), &packed);
}

/// Changes all tokens from `cut` on, and expects the very bits of all logits before.
#[track_caller]
fn check_bits(pattern: AttentionPattern, layout: &Layout, cut: usize) {
    let llama = deep_model(&Device::default()).valid();
    let seq = layout.seq;
    let ids = counting(seq, &llama.device());
    let later = ids.clone().narrow(1, cut, seq - cut).add_scalar(20);
    let changed = Tensor::cat(vec![ids.clone().narrow(1, 0, cut), later], 1);
    let earlier = |ids| {
        let logits = llama.logits(ids, &llama.pass(pattern, layout));
        logits.narrow(1, 0, cut).into_data()
    };
    assert_eq!(earlier(ids), earlier(changed), "{pattern:?}, {layout:?}, cut at {cut}");
}

#[test]
fn a_changed_token_changes_no_bit_of_an_earlier_logit() {
    let patterns = [
        AttentionPattern::Full,
        AttentionPattern::SlidingWindow { window: 3 },
        groups(Shift::HalfHeads),
        groups(Shift::AlternateLayers),
    ];
    for pattern in patterns {
        for cut in 1..15 {
            check_bits(pattern, &layout(15, 15, &[0]), cut);
        }
        check_bits(pattern, &layout(16, 14, &[0, 5, 6]), 8);
    }
}
