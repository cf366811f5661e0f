//! Files of tensors: read piece by piece, written whole or not at all.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::{Bytes, DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo, View};
use tempfile::NamedTempFile;

use crate::error::LlamaError;

/// What a torn file is called in its error.
const FORMAT: &str = "safetensors";
/// Largest header that is believed; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// An open safetensors file: its header is checked, its tensors are read one at a time.
pub(crate) struct TensorFile {
    pub(crate) path: PathBuf,
    file: File,
    header: Metadata,
    data_start: u64,
}

impl TensorFile {
    /// Opens a file and checks that it is whole.
    pub(crate) fn open(path: &Path) -> Result<Self, LlamaError> {
        let torn = |reason| LlamaError::Torn { path: path.to_owned(), format: FORMAT, reason };
        let mut file = File::open(path).map_err(LlamaError::file("open", path))?;
        let bytes = file.metadata().map_err(LlamaError::file("read", path))?.len();
        if bytes < 8 {
            return Err(torn(format!("it has only `{bytes}` bytes")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(LlamaError::file("read", path))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES || length > bytes - 8 {
            return Err(torn(format!("its header would have `{length}` of `{bytes}` bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(LlamaError::file("read", path))?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| torn(error.to_string()))?;
        // Of more than 64 bits: a header may speak of almost all that they count.
        let needed = 8 + u128::from(length) + header.data_len() as u128;
        if needed != u128::from(bytes) {
            return Err(torn(format!("its header speaks of `{needed}` bytes, it has `{bytes}`")));
        }
        Ok(Self { path: path.to_owned(), file, header, data_start: 8 + length })
    }

    /// The tensors' names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Reads one tensor in the file's own type.
    pub(crate) fn read(&mut self, name: &str) -> Result<TensorData, LlamaError> {
        let missing = || LlamaError::Missing { path: self.path.clone(), tensor: name.to_owned() };
        let TensorInfo { dtype, shape, data_offsets: (start, end) } =
            self.header.info(name).ok_or_else(missing)?.clone();
        let dtype = burn_dtype(dtype).ok_or_else(|| self.no_float(name, dtype))?;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(LlamaError::file("read", &self.path))?;
        Ok(TensorData::from_bytes(Bytes::from_bytes_vec(bytes), shape, dtype))
    }

    fn no_float(&self, name: &str, dtype: Dtype) -> LlamaError {
        let path = self.path.clone();
        match dtype {
            Dtype::BOOL | Dtype::I16 | Dtype::U16 | Dtype::I64 | Dtype::U64 => LlamaError::Torn {
                path,
                format: FORMAT,
                reason: format!("tensor `{name}` is of type `{dtype:?}`, not of a float type"),
            },
            few_bits => LlamaError::Quantised {
                path,
                tensor: name.to_owned(),
                kind: format!("{few_bits:?}"),
            },
        }
    }
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// [`LlamaError`], if the file is missing, torn, or holds something other than floats.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, TensorData>, LlamaError> {
    let mut file = TensorFile::open(path)?;
    file.names().into_iter().map(|name| file.read(&name).map(|tensor| (name, tensor))).collect()
}

/// Writes tensors as a safetensors file: whole, or not at all.
///
/// # Errors
/// [`LlamaError::File`], if the disk refuses.
pub fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<(), LlamaError> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), Whole(tensor)));
    write_views(path, views)
}

/// Writes views as a safetensors file; each is asked for its data when it is its turn.
///
/// The library's own writer puts a file of its own in the place of ours, and does not sync it.
pub(crate) fn write_views<'a, V: View>(
    path: &Path,
    views: impl Iterator<Item = (&'a str, V)>,
) -> Result<(), LlamaError> {
    let mut views: Vec<(&str, V)> = views.collect();
    // Wide types first, so that every tensor is aligned to its type.
    views.sort_by_key(|(name, view)| (std::cmp::Reverse(view.dtype()), *name));
    let header = header(&views);
    atomically(path, |file| {
        let mut file = BufWriter::new(file.as_file_mut());
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, view) in &views {
            file.write_all(&view.data())?;
        }
        file.flush()
    })
}

/// The header's JSON, padded to the alignment of the widest type.
fn header<V: View>(views: &[(&str, V)]) -> Vec<u8> {
    let mut end = 0;
    let tensors = views.iter().map(|(name, view)| {
        let start = end;
        end += view.data_len();
        let (dtype, shape) = (view.dtype(), view.shape().to_vec());
        ((*name).to_owned(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let format = [("format".to_owned(), "pt".to_owned())];
    let metadata = Metadata::new(Some(format.into()), tensors.collect())
        .expect("each tensor begins where the one before it ends");
    let mut header = serde_json::to_vec(&metadata).expect("a header is JSON");
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

/// A tensor in memory, as the writer wants to see it.
struct Whole<'a>(&'a TensorData);

impl View for Whole<'_> {
    fn dtype(&self) -> Dtype {
        safetensors_dtype(self.0.dtype()).expect("parameters are floats")
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.0.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}

/// Writes a file through a temporary one in the same folder, synced and renamed.
///
/// # Errors
/// [`LlamaError::File`], if the disk refuses; then `path` is what it was before.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), LlamaError> {
    atomically(path, |file| file.write_all(bytes))
}

fn atomically(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> io::Result<()>,
) -> Result<(), LlamaError> {
    let write = || {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As a file opened by name has them; the process's umask still applies.
            file.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let mut file = file.prefix(".longlora-").tempfile_in(folder)?;
        fill(&mut file)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // The rename itself must survive a power cut, too.
        File::open(folder)?.sync_all()
    };
    write().map_err(LlamaError::file("write", path))
}

fn burn_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

pub(crate) fn safetensors_dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F64 => Some(Dtype::F64),
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the error says of a file that is this header and nothing else.
    fn refusal(header: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let length = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [&length, header.as_bytes()].concat()).unwrap();
        let sentence = read_tensors(&path).unwrap_err().to_string();
        assert!(sentence.contains("model.safetensors"), "{sentence}");
        sentence
    }

    /// With the header, they are more bytes than 64 bits count.
    #[test]
    fn tensors_of_almost_all_bytes_that_there_are_numbers_for_are_refused() {
        let mut end = 0_u64;
        let tensors = [(1 << 59) - 1; 8].into_iter().chain([7]).enumerate().map(|(name, floats)| {
            let start = end;
            end += 4 * floats;
            format!(
                r#""{name}": {{"dtype": "F32", "shape": [{floats}], "data_offsets": [{start}, {end}]}}"#
            )
        });
        let header = format!("{{{}}}", tensors.collect::<Vec<_>>().join(", "));
        let needed = (1_u128 << 64) - 4 + 8 + header.len() as u128;
        let sentence = refusal(&header);
        assert!(sentence.contains(&format!("speaks of `{needed}` bytes")), "{sentence}");
    }

    #[test]
    fn an_error_shows_a_strange_name_on_one_short_line() {
        let strange = format!("\\u001b[2J{}", "a".repeat(100_000));
        let info = r#"{"dtype": "F32", "shape": [0], "data_offsets": [1, 1]}"#;
        for header in [
            format!(r#"{{"{strange}": {info}}}"#),
            format!(r#"{{"a": {}}}"#, info.replace("F32", &strange)),
            format!(r#"{{"{strange}": {}}}"#, info.replace("F32", "I8").replace('1', "0")),
        ] {
            let sentence = refusal(&header);
            assert!(sentence.len() < 900 && !sentence.contains('\u{1b}'), "{sentence}");
        }
    }
}
