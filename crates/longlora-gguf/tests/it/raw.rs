use std::io::Cursor;
use std::path::Path;

use longlora_gguf::{GgufError, GgufFile, TensorKind};

/// The bytes of a GGUF file, true or not.
#[derive(Clone, Default)]
pub(crate) struct Raw(pub(crate) Vec<u8>);

impl Raw {
    /// Magic, version 3 and the counts.
    pub(crate) fn header(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }

    /// A whole file with one tensor of whole blocks in one row.
    pub(crate) fn of_blocks(kind: TensorKind, blocks: &[u8]) -> Self {
        let row = blocks.len() / kind.block_bytes() * kind.block_len();
        Self::header(1, 0).tensor("x", &[row as u64], kind.ggml_type(), 0).pad().bytes(blocks)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_le_bytes())
    }

    pub(crate) fn text(self, text: impl AsRef<[u8]>) -> Self {
        self.u64(text.as_ref().len() as u64).bytes(text.as_ref())
    }

    /// A key and the type of its value, which is to follow.
    pub(crate) fn key(self, key: &str, value_type: u32) -> Self {
        self.text(key).u32(value_type)
    }

    /// `dimensions` as the file has them: the length of a row first.
    pub(crate) fn tensor(
        self,
        name: &str,
        dimensions: &[u64],
        ggml_type: u32,
        offset: u64,
    ) -> Self {
        let raw = self.text(name).u32(dimensions.len() as u32);
        let raw = dimensions.iter().fold(raw, |raw, &dimension| raw.u64(dimension));
        raw.u32(ggml_type).u64(offset)
    }

    /// Zeros up to a multiple of 32.
    pub(crate) fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32), 0);
        self
    }

    pub(crate) fn open(self) -> Result<GgufFile<Cursor<Vec<u8>>>, GgufError> {
        GgufFile::from_reader(Path::new("model.gguf"), Cursor::new(self.0))
    }
}

/// Keys of several types, a tensor whose data is padded, and one that ends where the file ends.
pub(crate) fn small_file() -> Raw {
    Raw::header(2, 6)
        .key("general.architecture", 8)
        .text("llama")
        .key("a.flag", 7)
        .bytes(&[1])
        .key("a.number", 6)
        .u32(1.5f32.to_bits())
        .key("general.alignment", 4)
        .u32(32)
        .key("tokens", 9)
        .u32(8)
        .u64(3)
        .text("<s>")
        .text("")
        .text("ä")
        .key("scores", 9)
        .u32(3)
        .u64(2)
        .bytes(&[1, 2, 3, 4])
        .tensor("a", &[32, 1], TensorKind::Q8_0.ggml_type(), 0)
        .tensor("b", &[4, 2], TensorKind::F32.ggml_type(), 64)
        .pad()
        .bytes(&[7; 34])
        .pad()
        .bytes(&[8; 32])
}
