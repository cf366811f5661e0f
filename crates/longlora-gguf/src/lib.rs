//! GGUF, the file format of llama.cpp: metadata, tensors, quantised blocks.

mod file;
mod header;
mod metadata;
mod kind;
mod decode;
mod encode;
mod write;
mod error;

pub use error::GgufError;
pub use file::{GgufFile, TensorInfo};
pub use kind::TensorKind;
pub use metadata::{Array, Metadata, Value};
pub use write::{NewTensor, TensorData, write};
