//! Shifted sparse attention (S²-Attn, LongLoRA, arXiv:2309.12307) as one differentiable operation on burn tensors.
//!
//! Training attends inside groups of tokens; half of the heads have their groups moved by half a group, so that
//! information crosses the borders. Nothing wraps around: no token ever sees a later one.
//!
//! ```text
//!              position ->  0 1 2 3 4 5 6 7 8 9 . . . . . .
//! heads 0 .. heads/2        [ group 0 ][ group 1 ][ group 2 ][ group 3 ]
//! heads heads/2 .. heads    [half][ group   ][ group   ][ group   ][half]
//! ```
//!
//! A [`AttentionPattern`] is what is asked for; [`AttentionPattern::plan`] turns it, with the lengths and document
//! starts of a batch, into [`Segments`]: the spans of positions inside which attention is causal. Full attention,
//! shifted groups, packed documents and ragged tails are all segments, so there is one operation, [`attention`], and
//! one meaning, spelled out in [`reference::attention`]. [`attention_over_cache`] is the same for new tokens alone, over
//! the keys and values of all: for inference.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use longlora_attention::{AttentionPattern, GroupSize, Layout, Shift, attention};
//!
//! let device = Device::default().autodiff();
//! let group_size = GroupSize::Tokens(16);
//! let pattern = AttentionPattern::Shifted { group_size, shift: Shift::HalfHeads };
//! let plan = pattern.plan(&Layout::dense(1, 64)); // for every batch of this shape
//! let [q, k, v] = [4, 2, 2].map(|heads| {
//!     Tensor::<4>::random([1, heads, 64, 8], Distribution::Default, &device).require_grad()
//! });
//! let out = attention(q.clone(), k, v, plan.layer(0), 8f32.sqrt().recip());
//! let gradients = out.sum().backward();
//! assert_eq!(q.grad(&gradients).unwrap().dims(), [1, 4, 64, 8]);
//! ```

mod pattern;
mod group_size;
mod layout;
mod segments;
mod op;
mod qkv;
mod backend;
mod backward;
mod tiled;
mod flex;
#[cfg(feature = "gpu")]
mod cube;
pub mod reference;
#[cfg(test)]
mod tests;

pub use group_size::GroupSize;
pub use layout::{Layout, Row};
pub use op::{attention, attention_over_cache};
pub use pattern::{AttentionPattern, PatternError, Shift};
pub use segments::{AttentionPlan, Segments};
