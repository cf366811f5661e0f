use std::error::Error;
use std::path::Path;

use crate::{GgufError, Metadata, TensorKind};

/// Computes a tensor's numbers when their turn to be written has come.
type Compute<'a> = Box<dyn FnOnce() -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> + 'a>;

/// A tensor's numbers, row-major.
pub enum TensorData<'a> {
    /// Numbers that are in memory already.
    Slice(&'a [f32]),
    /// A function that computes them when their turn has come, so that one tensor at a time is in memory.
    Computed(Compute<'a>),
}

/// A tensor to be written.
pub struct NewTensor<'a> {
    /// Its name; llama.cpp reads at most 63 bytes.
    pub name: String,
    /// Its shape, row-major as PyTorch has it.
    pub shape: Vec<usize>,
    /// How its numbers are stored: F32, F16, BF16 or Q8_0.
    pub kind: TensorKind,
    /// Its numbers.
    pub data: TensorData<'a>,
}

/// Writes a GGUF file: whole, or not at all.
///
/// # Errors
/// [`GgufError`]
pub fn write<'a>(
    path: &Path,
    metadata: &Metadata,
    tensors: impl IntoIterator<Item = NewTensor<'a>>,
) -> Result<(), GgufError> {
    todo!()
}
