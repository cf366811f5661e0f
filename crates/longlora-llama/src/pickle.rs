//! PyTorch's own files, `pytorch_model.bin` or `adapter_model.bin`, by burn-store's reader: it runs nothing that a pickle asks for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::{Bytes, DType, TensorData};
use pytorch_reader::{PytorchError, PytorchReader};

use crate::error::LlamaError;

/// An open file: its pickle is parsed, its tensors are read one at a time.
pub(crate) struct PickleFile {
    pub(crate) path: PathBuf,
    reader: PytorchReader,
}

impl PickleFile {
    pub(crate) fn open(path: &Path) -> Result<Self, LlamaError> {
        let reader = PytorchReader::new(path).map_err(|error| match error {
            PytorchError::Io(source) => read_error(path, source),
            other => torn(path, other.to_string()),
        })?;
        Ok(Self { path: path.to_owned(), reader })
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.reader.keys()
    }

    /// Reads one tensor in the file's own type.
    pub(crate) fn read(&self, name: &str) -> Result<TensorData, LlamaError> {
        let missing = || LlamaError::Missing { path: self.path.clone(), tensor: name.to_owned() };
        let tensor = self.reader.get(name).ok_or_else(missing)?;
        let dtype = match tensor.dtype() {
            pytorch_reader::DType::F64 => DType::F64,
            pytorch_reader::DType::F32 => DType::F32,
            pytorch_reader::DType::F16 => DType::F16,
            pytorch_reader::DType::BF16 => DType::BF16,
            other => {
                let reason = format!("tensor `{name}` is of type `{other:?}`, not of a float type");
                return Err(torn(&self.path, reason));
            }
        };
        let bytes = tensor.read().map_err(|source| read_error(&self.path, source))?;
        let shape = tensor.shape().to_vec();
        Ok(TensorData::from_bytes(Bytes::from_bytes_vec(bytes), shape, dtype))
    }
}

/// Reads every tensor of a file.
pub(crate) fn read_pickle(path: &Path) -> Result<BTreeMap<String, TensorData>, LlamaError> {
    let file = PickleFile::open(path)?;
    file.names().into_iter().map(|name| file.read(&name).map(|tensor| (name, tensor))).collect()
}

/// The disk refused, or the file contradicts itself.
fn read_error(path: &Path, source: io::Error) -> LlamaError {
    match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => torn(path, source.to_string()),
        _ => LlamaError::file("read", path)(source),
    }
}

fn torn(path: &Path, reason: String) -> LlamaError {
    LlamaError::Torn { path: path.to_owned(), format: "PyTorch", reason }
}
