use std::fs::File;
use std::path::Path;

use crate::{GgufError, Metadata, TensorKind};

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Its shape, row-major as PyTorch has it: GGUF's dimensions reversed.
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: TensorKind,
    /// Where its data begins, counted from the start of the file.
    pub(crate) start: u64,
}

/// An open GGUF file: its header is checked completely, its tensors are read one at a time.
#[derive(Debug)]
pub struct GgufFile<R = File> {
    reader: R,
}

impl GgufFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// [`GgufError`], if the file is missing, torn or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        todo!()
    }
}

impl<R> GgufFile<R> {
    /// The file's path.
    pub fn path(&self) -> &Path {
        todo!()
    }

    /// What the file says about its model.
    pub fn metadata(&self) -> &Metadata {
        todo!()
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        todo!()
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        todo!()
    }

    /// A tensor's numbers, decoded, row-major. Only this tensor's bytes are read.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`]; [`GgufError::File`], if the disk refuses.
    pub fn read_f32(&mut self, name: &str) -> Result<Vec<f32>, GgufError> {
        todo!()
    }
}
