//! GGUF, the file format of llama.cpp, versions 2 and 3, little-endian.
//!
//! ```text
//! ┌───────────────────────────────────────────────────────────┐
//! │ GGUF │ version │ how many tensors │ how many metadata keys │  4 + 4 + 8 + 8 bytes
//! ├───────────────────────────────────────────────────────────┤
//! │ key │ type │ value          "llama.block_count" u32 30    │
//! │ key │ type │ value          "tokenizer.ggml.tokens" [..]  │  Metadata
//! ├───────────────────────────────────────────────────────────┤
//! │ name │ shape │ type │ offset ───────┐  "output.weight"    │
//! │ name │ shape │ type │ offset ──────┐│  "blk.0.attn_q.."   │  TensorInfo
//! ├──────────────────────────────────────────── padding ┬─────┤
//! │ row of blocks, row of blocks, .. ◄──┼┘      padding │     │  read_f32:
//! │ row of blocks, row of blocks, .. ◄──┘       padding │     │  blocks to floats
//! └─────────────────────────────────────────────────────┴─────┘
//! ```
//!
//! A [`GgufFile`] is believed only after its whole header has been checked against the size of the
//! file: no count and no length in it allocates more than a small multiple of what the file really
//! holds. Tensors are read one at a time, and only when they are asked for. [`write()`] takes them
//! one at a time, too, and leaves either a whole file or the one that was there.
//!
//! The eleven kinds of [`TensorKind`] are decoded bit for bit as ggml decodes them.
//!
//! ```
//! use longlora_gguf::{GgufFile, Metadata, NewTensor, TensorData, TensorKind, Value, write};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("tiny.gguf");
//! let mut metadata = Metadata::new();
//! metadata.insert("general.architecture", Value::String("llama".into()));
//! let weight = NewTensor {
//!     name: "output.weight".into(),
//!     shape: vec![2, 32],
//!     kind: TensorKind::Q8_0,
//!     data: TensorData::Computed(Box::new(|| Ok(vec![0.5; 64]))), // when its turn has come
//! };
//! write(&path, &metadata, [weight])?;
//!
//! let mut file = GgufFile::open(&path)?;
//! assert_eq!(file.metadata().string("general.architecture")?, Some("llama"));
//! assert_eq!(file.tensor("output.weight").map(|tensor| tensor.kind), Some(TensorKind::Q8_0));
//! assert_eq!(file.read_f32("output.weight")?.len(), 64);
//! # Ok(())
//! # }
//! ```

mod file; // open, look, read one tensor
mod header; // everything before the data, checked
mod metadata;
mod kind;
mod decode;
mod encode;
mod write;
mod error;

pub use error::{GgufError, shown_within};
pub use file::{GgufFile, TensorInfo, is_gguf};
pub use kind::TensorKind;
pub use metadata::{Array, Metadata, Value};
pub use write::{NewTensor, TensorData, write};
