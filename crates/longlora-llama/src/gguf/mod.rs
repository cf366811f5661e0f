//! GGUF files, llama.cpp's format, as models: read into ours, and written from them.
//!
//! ```text
//! metadata  ─► config.json's keys ─► LlamaConfig ─► Llama ─► metadata
//! blk.0.attn_q.weight  ─► model.layers.0.self_attn.q_proj.weight  ─► blk.0.attn_q.weight
//! ```
//!
//! llama.cpp rotates interleaved pairs where a LLaMA's weights are made for half-split ones, so the files of that
//! architecture hold the rows of q and k in another order; [`rows`] has both directions.

mod config;
mod names;
mod read;
mod rope;
mod rows;
mod shortest;
mod write;

pub(crate) use read::{load, read_config};
pub use write::save_gguf;
