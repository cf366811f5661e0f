//! LLaMA on burn: one architecture, its weights as Hugging Face stores them, its adapters as PEFT does.
//!
//! ```text
//! config.json ─► LlamaConfig ─► Llama ◄─ model*.safetensors, pytorch_model*.bin, or all of it from *.gguf
//!                                 │   ◄─ adapter_model.safetensors
//! token ids ─► embed ─► Block · · · Block ─► norm ─► hidden states ─► cross-entropy, in chunks
//! ```
//!
//! A [`Pass`] carries what all blocks of one forward share: the attention plan, the rotary tables, the dropout. Any
//! pattern can be chosen for any pass; the weights know nothing of it. A [`KvCache`] keeps what was read, for
//! [`Llama::generate`].

mod family;
mod compute;
mod config;
mod error;
mod pass;
mod norm;
mod cache;
mod attention;
mod mlp;
mod experts;
mod feed_forward;
mod block;
mod largest_tensor;
mod linears;
mod llama;
mod init;
mod cross_entropy;
mod advance;
mod sampling;
mod generate;
pub mod reference;
mod attach;
mod trainable;
mod names;
mod role;
mod room;
mod parameters;
mod storage;
mod modules;
mod files;
mod footprint;
mod pickle;
mod checkpoint;
mod gguf;
mod weights;
mod adapter;
mod export;
mod agreement;

pub use adapter::{AdapterFacts, BaseModel, load_adapter, save_adapter};
pub use agreement::{Agreement, agreement};
pub use attention::SelfAttention;
pub use block::Block;
pub use cache::{CacheKind, KvCache, Streaming};
pub use checkpoint::model_files;
pub use compute::ComputeType;
pub use config::{ExpertsConfig, LlamaConfig};
pub use error::LlamaError;
pub use experts::Experts;
pub use family::{Family, Setting, WindowRule};
pub use feed_forward::FeedForward;
pub use files::{read_tensors, write_atomically, write_tensors};
pub use footprint::Footprint;
pub use generate::{GenerateOptions, Generated, StopReason};
pub use gguf::save_gguf;
pub use largest_tensor::largest_tensor;
pub use linears::LayersInNf4;
pub use llama::{Llama, LlamaModel};
pub use longlora_kernels::{
    LossAndGradient, device_buffer, device_memory, loss_and_gradient, pull_back, rehearsed,
};
pub use mlp::Mlp;
pub use parameters::{Selection, collect, restore};
pub use pass::Pass;
pub use room::with_room_for_weights;
pub use sampling::{Sampling, SamplingError};
pub use storage::WeightStorage;
pub use trainable::{Trainable, count_trainable};
pub use weights::{
    MAX_SHARD_BYTES, load_pretrained, load_pretrained_as, load_weights, save_pretrained,
};

/// The page that shows how a family is added is a test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/custom-models.md")]
struct CustomModels;
