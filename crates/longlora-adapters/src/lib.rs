//! What LongLoRA trains, for burn: LoRA in activation space (arXiv:2106.09685) and rotary position embeddings
//! (arXiv:2104.09864) with every context scaling in use and a learnable offset of their frequencies.
//!
//! ```text
//!            x ──────────────┬──────────────┐
//!                            │              │
//!                     W (frozen)        A [d_input, rank]
//!                            │              │
//!                            │          B [rank, d_output], zero at first
//!                            │              │
//!            y ◄──────────── + ◄── scale · ─┘        scale = alpha / rank
//! ```
//!
//! DoRA (arXiv:2402.09353) gives the columns of `W + scale·A·B` trained lengths.
//!
//! The crate knows nothing of LLaMA: a model holds [`LoraLinear`] where it had a linear layer, rotates its queries and
//! keys with [`Rotary`], and asks an [`AdapterConfig`] what to attach.

mod base;
mod config;
mod dropout;
mod low_rank;
mod lora_linear;
mod rope_scaling;
mod rope_offset;
mod rotary;
#[cfg(test)]
mod testing;

pub use base::{Base, Nf4Linear};
pub use config::{AdapterConfig, AdapterError, LoraConfig, TargetModule, UpdateConfig};
pub use dropout::Dropout;
pub use lora_linear::LoraLinear;
pub use low_rank::LowRank;
pub use rope_offset::{RopeGranularity, RopeOffset, RopeOffsetConfig};
pub use rope_scaling::{RopeConfig, RopeError, RopeFrequencies, RopeKind, RopeScaling};
pub use rotary::{Rotary, RotaryTables};
