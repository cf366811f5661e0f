use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::encode::{Encode, encoder};
use crate::error::shown;
use crate::header::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, measure};
use crate::{Array, GgufError, Metadata, TensorKind, Value};

const VERSION: u32 = 3;
/// Longest name that llama.cpp reads, in bytes.
const MAX_NAME_BYTES: usize = 63;
/// Numbers that are encoded at once; whole blocks of every kind.
const CHUNK: usize = 1 << 16;

/// Computes a tensor's numbers when their turn to be written has come.
type Compute<'a> = Box<dyn FnOnce() -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> + 'a>;

/// A tensor's numbers, row-major.
pub enum TensorData<'a> {
    /// Numbers that are in memory already.
    Slice(&'a [f32]),
    /// A function that computes them when their turn has come, so that one tensor at a time is in
    /// memory.
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

/// Writes a GGUF file of version 3: whole, or not at all.
///
/// Data is aligned to 32 bytes; a `general.alignment` that `metadata` has is written as 32.
/// Everything but the numbers is checked before anything is written. The file is a temporary one in
/// the same folder until it is complete and on the disk, then takes the place of `path`.
///
/// # Errors
/// [`GgufError`], if a tensor cannot be written as it is, or the disk refuses; then `path` is what
/// it was before.
pub fn write<'a>(
    path: &Path,
    metadata: &Metadata,
    tensors: impl IntoIterator<Item = NewTensor<'a>>,
) -> Result<(), GgufError> {
    let tensors: Vec<_> = tensors.into_iter().collect();
    let plans = plan(path, &tensors)?;
    let header = header(path, metadata, &tensors, &plans)?;
    replace(path, |file| {
        file.write_all(&header).map_err(GgufError::file("write", path))?;
        for (tensor, plan) in tensors.into_iter().zip(&plans) {
            write_data(path, tensor, plan, file)?;
        }
        Ok(())
    })
}

/// How a tensor will be written.
struct Plan {
    encode: Encode,
    /// How many numbers it has.
    numbers: usize,
    /// Where it begins, counted from the start of the data.
    offset: u64,
}

fn plan(path: &Path, tensors: &[NewTensor<'_>]) -> Result<Vec<Plan>, GgufError> {
    let mut names = HashSet::new();
    let mut offset = 0;
    let mut plans = Vec::with_capacity(tensors.len());
    for NewTensor { name, shape, kind, .. } in tensors {
        let (owned, tensor, kind) = (|| path.to_owned(), || shown(name), *kind);
        if !names.insert(name.as_str()) {
            return Err(GgufError::DuplicateTensor { path: owned(), tensor: tensor() });
        }
        if name.len() > MAX_NAME_BYTES {
            let bytes = name.len();
            return Err(GgufError::LongName { path: owned(), tensor: tensor(), bytes });
        }
        if shape.is_empty() || shape.len() > MAX_DIMENSIONS {
            let dimensions = shape.len() as u64;
            return Err(GgufError::Dimensions { path: owned(), tensor: tensor(), dimensions });
        }
        let Some(encode) = encoder(kind) else {
            return Err(GgufError::NotWritten { path: owned(), tensor: tensor(), kind });
        };
        let axes = shape.iter().map(|&axis| axis as u64).collect();
        let (_, bytes) = measure(path, name, axes, kind)?;
        plans.push(Plan { encode, numbers: shape.iter().product(), offset });
        offset = end(offset, bytes).ok_or_else(|| GgufError::TooLarge {
            path: owned(),
            tensor: tensor(),
            shape: shape.iter().map(|&axis| axis as u64).collect(),
        })?;
    }
    Ok(plans)
}

/// Where the next tensor begins.
fn end(offset: u64, bytes: u64) -> Option<u64> {
    offset.checked_add(bytes)?.checked_next_multiple_of(DEFAULT_ALIGNMENT.into())
}

/// Everything before the data, padded.
fn header(
    path: &Path,
    metadata: &Metadata,
    tensors: &[NewTensor<'_>],
    plans: &[Plan],
) -> Result<Vec<u8>, GgufError> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    push_length(&mut out, tensors.len());
    push_length(&mut out, metadata.len());
    for (index, (key, value)) in metadata.iter().enumerate() {
        if key.is_empty() {
            let (path, index) = (path.to_owned(), index as u64);
            return Err(GgufError::EmptyKey { path, index });
        }
        push_string(&mut out, key);
        match key {
            ALIGNMENT_KEY => push_value(&mut out, &Value::U32(DEFAULT_ALIGNMENT)),
            _ => push_value(&mut out, value),
        }
    }
    for (tensor, plan) in tensors.iter().zip(plans) {
        push_string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for &axis in tensor.shape.iter().rev() {
            push_length(&mut out, axis);
        }
        out.extend(tensor.kind.ggml_type().to_le_bytes());
        out.extend(plan.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT as usize), 0);
    Ok(out)
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    out.extend((length as u64).to_le_bytes());
}

fn push_string(out: &mut Vec<u8>, text: &str) {
    push_length(out, text.len());
    out.extend(text.as_bytes());
}

fn push_value(out: &mut Vec<u8>, value: &Value) {
    out.extend(value.type_number().to_le_bytes());
    match value {
        Value::U8(value) => out.extend(value.to_le_bytes()),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push((*value).into()),
        Value::String(text) => push_string(out, text),
        Value::Array(array) => push_array(out, array),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
    }
}

fn push_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.type_number().to_le_bytes());
    push_length(out, array.len());
    match array {
        Array::U8(values) => out.extend(values),
        Array::I8(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U16(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I16(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::U32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F32(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
        Array::String(texts) => texts.iter().for_each(|text| push_string(out, text)),
        Array::U64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::I64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        Array::F64(values) => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

/// Writes a tensor's data, padded.
fn write_data(
    path: &Path,
    tensor: NewTensor<'_>,
    plan: &Plan,
    file: &mut impl Write,
) -> Result<(), GgufError> {
    let NewTensor { name, shape, kind, data } = tensor;
    let computed;
    let numbers = match data {
        TensorData::Slice(numbers) => numbers,
        TensorData::Computed(compute) => {
            computed = compute().map_err(|source| {
                let (path, tensor) = (path.to_owned(), shown(&name));
                GgufError::Compute { path, tensor, source }
            })?;
            &computed
        }
    };
    if numbers.len() != plan.numbers {
        let (path, found, needed) = (path.to_owned(), numbers.len(), plan.numbers);
        return Err(GgufError::ValueCount { path, tensor: shown(&name), found, shape, needed });
    }
    let mut written = 0;
    let mut encoded = Vec::new();
    for (chunk, numbers) in numbers.chunks(CHUNK).enumerate() {
        encoded.clear();
        (plan.encode)(numbers, &mut encoded).map_err(|place| GgufError::OutOfRange {
            path: path.to_owned(),
            tensor: shown(&name),
            index: chunk * CHUNK + place,
            value: numbers[place],
            kind,
        })?;
        file.write_all(&encoded).map_err(GgufError::file("write", path))?;
        written += encoded.len();
    }
    let padding = written.next_multiple_of(DEFAULT_ALIGNMENT as usize) - written;
    file.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding])
        .map_err(GgufError::file("write", path))
}

/// Fills a temporary file in the same folder, then gives it the name `path`.
fn replace(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<(), GgufError>,
) -> Result<(), GgufError> {
    let refused = || GgufError::file("write", path);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."), // a bare file name
    };
    let mut builder = tempfile::Builder::new();
    // Temporary files are their owner's alone; this one becomes an ordinary file, within the umask.
    #[cfg(unix)]
    builder
        .permissions(<std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    let file = builder.prefix(".longlora-").tempfile_in(folder).map_err(refused())?;
    let mut writer = BufWriter::new(file.as_file());
    fill(&mut writer)?;
    writer.flush().map_err(refused())?;
    drop(writer);
    file.as_file().sync_all().map_err(refused())?;
    file.persist(path).map_err(|error| refused()(error.error))?;
    // The rename itself must survive a power cut, too.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(refused())
}
