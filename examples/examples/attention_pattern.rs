//! Draws who sees whom under shifted sparse attention, asking the operation itself.
//! `cargo run --release -p longlora-examples --example attention_pattern`
//!
//! ```text
//! 16 tokens in groups of 4; each row is a token, each mark a token that it sees
//!
//!    first half of the heads             second half, shifted by 2
//!  0 ● · · · · · · · · · · · · · · ·     ● · · · · · · · · · · · · · · ·
//!  1 ● ● · · · · · · · · · · · · · ·     ● ● · · · · · · · · · · · · · ·
//!  2 ● ● ● · · · · · · · · · · · · ·     · · ● · · · · · · · · · · · · ·
//!  3 ● ● ● ● · · · · · · · · · · · ·     · · ● ● · · · · · · · · · · · ·
//!  4 · · · · ● · · · · · · · · · · ·     · · ● ● ● · · · · · · · · · · ·
//! ```
//!
//! and so on: nothing right of the diagonal, and the last two tokens of the right half are by themselves.

#![expect(clippy::print_stdout, reason = "an example shows something")]

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use longlora_attention::{AttentionPattern, GroupSize, Layout, Shift, attention};

const SEQ: usize = 16;
const GROUP_SIZE: usize = 4;

fn main() -> Result<()> {
    let device = Device::default();
    let pattern = AttentionPattern::Shifted {
        group_size: GroupSize::Tokens(GROUP_SIZE),
        shift: Shift::HalfHeads,
    };
    pattern.validate(SEQ)?;
    let plan = pattern.plan(&Layout::dense(1, SEQ));

    // With q = k = 0 all that is visible weighs the same, and v = identity copies the weights out.
    // Two query heads, one for each half, share one key and value head.
    let q = Tensor::<4>::zeros([1, 2, SEQ, SEQ], &device);
    let k = Tensor::<4>::zeros([1, 1, SEQ, SEQ], &device);
    let v = Tensor::<2>::eye(SEQ, &device).reshape([1, 1, SEQ, SEQ]);
    let weights = attention(q, k, v, plan.layer(0), 1.0);
    let weights: Vec<f32> = weights.into_data().iter().collect();

    println!(
        "{SEQ} tokens in groups of {GROUP_SIZE}; each row is a token, each mark a token that it sees\n"
    );
    println!("   {:<36}second half, shifted by {}", "first half of the heads", GROUP_SIZE / 2);
    let (first_half, second_half) = weights.split_at(SEQ * SEQ);
    let rows = first_half.chunks(SEQ).zip(second_half.chunks(SEQ));
    for (token, (first, second)) in rows.enumerate() {
        println!("{token:>2} {}     {}", draw(first), draw(second));
    }
    Ok(())
}

/// One mark per token that weighs something.
fn draw(weights: &[f32]) -> String {
    let marks: Vec<&str> = weights.iter().map(|&w| if w > 0.0 { "●" } else { "·" }).collect();
    marks.join(" ")
}
