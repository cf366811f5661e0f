use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::decode::decode;
use crate::header::Header;
use crate::{GgufError, Metadata, TensorKind};

/// Whether a path is meant as a GGUF file: by its extension, unless it is a folder, which may be
/// called anything.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        && !path.is_dir()
}

/// Blocks that are read and decoded at once.
const CHUNK_BLOCKS: usize = 4096;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
///
/// It needs a small multiple of its header's size in memory, whatever the header says.
#[derive(Debug)]
pub struct GgufFile<R = File> {
    path: PathBuf,
    reader: R,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Places in `tensors`.
    index: HashMap<String, usize>,
}

impl GgufFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// [`GgufError`], if the file is missing, torn, contradicts itself, or has a tensor of a type
    /// that is not read.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path).map_err(GgufError::file("open", path))?;
        Self::from_reader(path, file)
    }
}

impl<R: Read + Seek> GgufFile<R> {
    /// Checks the header of a file that is already open, or in memory; `path` names it in errors.
    ///
    /// # Errors
    /// As [`GgufFile::open`].
    pub fn from_reader(path: &Path, mut reader: R) -> Result<Self, GgufError> {
        let Header { metadata, tensors, index } = Header::read(path, &mut reader)?;
        Ok(Self { path: path.to_owned(), reader, metadata, tensors, index })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says about its model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&place| &self.tensors[place])
    }

    /// A tensor's numbers, decoded, row-major. Only this tensor's bytes are read.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`]; [`GgufError::File`], if the disk refuses or the file has
    /// become shorter.
    pub fn read_f32(&mut self, name: &str) -> Result<Vec<f32>, GgufError> {
        let TensorInfo { shape, kind, start, .. } = self.info(name)?;
        let count = shape.iter().product();
        self.decode(kind, start, count)
    }

    /// The numbers of one entry along a tensor's first axis, such as one of stacked experts. Only
    /// their bytes are read.
    ///
    /// # Errors
    /// As [`GgufFile::read_f32`].
    ///
    /// # Panics
    /// If the tensor has one axis, or not so many entries.
    pub fn read_f32_at(&mut self, name: &str, index: usize) -> Result<Vec<f32>, GgufError> {
        let TensorInfo { shape, kind, start, .. } = self.info(name)?;
        assert!(shape.len() > 1, "needs a tensor of several axes, got {shape:?}");
        assert!(index < shape[0], "needs one of {} entries, got {index}", shape[0]);
        let count: usize = shape[1..].iter().product();
        // Blocks never cross a row.
        let bytes = count / kind.block_len() * kind.block_bytes();
        self.decode(kind, start + (index * bytes) as u64, count)
    }

    fn info(&self, name: &str) -> Result<TensorInfo, GgufError> {
        let missing = || {
            let (path, tensor) = (self.path.clone(), name.to_owned());
            GgufError::MissingTensor { path, tensor }
        };
        self.tensor(name).cloned().ok_or_else(missing)
    }

    /// `count` numbers, whose blocks begin at byte `start`.
    fn decode(
        &mut self,
        kind: TensorKind,
        start: u64,
        count: usize,
    ) -> Result<Vec<f32>, GgufError> {
        let refused = || GgufError::file("read", &self.path);
        let mut numbers = vec![0.0; count];
        self.reader.seek(SeekFrom::Start(start)).map_err(refused())?;
        let blocks_at_once = CHUNK_BLOCKS.min(numbers.len() / kind.block_len());
        let mut buffer = vec![0; blocks_at_once * kind.block_bytes()];
        for numbers in numbers.chunks_mut(blocks_at_once * kind.block_len()) {
            let bytes = &mut buffer[..numbers.len() / kind.block_len() * kind.block_bytes()];
            self.reader.read_exact(bytes).map_err(refused())?;
            decode(kind, bytes, numbers);
        }
        Ok(numbers)
    }
}
