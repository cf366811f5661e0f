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
mod write;

use std::path::Path;

pub(crate) use read::{load, read_config};
pub use write::save_gguf;

/// Whether a path is a GGUF file by its name, rather than a model folder.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}
