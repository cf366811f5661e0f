//! LLaMA on burn: one architecture, its weights as Hugging Face stores them, its adapters as PEFT does.
//!
//! ```text
//! config.json ─► LlamaConfig ─► Llama ◄─ model*.safetensors
//!                                 │   ◄─ adapter_model.safetensors
//! token ids ─► embed ─► Block · · · Block ─► norm ─► hidden states ─► cross-entropy, in chunks
//! ```
//!
//! A [`Pass`] carries what all blocks of one forward share: the attention plan, the rotary tables, the dropout. Any
//! pattern can be chosen for any pass; the weights know nothing of it. A [`KvCache`] keeps what was read, for
//! [`Llama::generate`].

mod config;
mod error;
mod pass;
mod cache;
mod attention;
mod mlp;
mod block;
mod llama;
mod cross_entropy;
mod advance;
mod sampling;
mod generate;
pub mod reference;
mod attach;
mod trainable;
mod names;
mod parameters;
mod files;
mod weights;
mod adapter;

pub use adapter::{AdapterFacts, load_adapter, save_adapter};
pub use attention::SelfAttention;
pub use block::Block;
pub use cache::{CacheKind, KvCache, Streaming};
pub use config::LlamaConfig;
pub use cross_entropy::{LossAndGradient, loss_and_gradient};
pub use error::LlamaError;
pub use files::{read_tensors, write_atomically, write_tensors};
pub use generate::{GenerateOptions, Generated, StopReason};
pub use llama::{Llama, LlamaModel};
pub use mlp::Mlp;
pub use parameters::{Selection, collect, restore};
pub use pass::Pass;
pub use sampling::{Sampling, SamplingError};
pub use trainable::{Trainable, count_trainable};
pub use weights::{load_pretrained, save_pretrained};
