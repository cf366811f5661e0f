//! Reads and checks everything before the data. Counts and lengths are lies until the file has room
//! for them.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::shown;
use crate::{Array, GgufError, Metadata, TensorInfo, TensorKind, Value};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment of a file that does not speak of it.
pub(crate) const DEFAULT_ALIGNMENT: u32 = 32;
pub(crate) const MAX_DIMENSIONS: usize = 4;
/// Bytes of a text and elements of an array that are believed, as in llama.cpp.
const MAX_LENGTH: u64 = 1 << 30;
/// The smallest metadata entry: an empty key, a type, a byte.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// The smallest tensor description: an empty name, one dimension, a type, an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// What stands before the data.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
    /// Places in `tensors`.
    pub(crate) index: HashMap<String, usize>,
}

impl Header {
    /// Reads a header from the start of `reader`; `path` only names it in errors.
    pub(crate) fn read(path: &Path, reader: impl Read + Seek) -> Result<Self, GgufError> {
        let mut parser = Parser::new(path, reader)?;
        parser.magic()?;
        parser.version()?;
        let tensor_count = parser.u64(Part::Header)?;
        let entry_count = parser.u64(Part::Header)?;
        let metadata = parser.metadata(entry_count)?;
        let alignment = alignment(path, &metadata)?;
        let (tensors, index) = parser.tensors(tensor_count)?;
        let tensors = parser.locate(tensors, alignment)?;
        Ok(Self { metadata, tensors, index })
    }
}

fn alignment(path: &Path, metadata: &Metadata) -> Result<u64, GgufError> {
    let alignment = metadata.u32(ALIGNMENT_KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(8) {
        return Err(GgufError::Alignment { path: path.to_owned(), alignment });
    }
    Ok(alignment.into())
}

/// A tensor's description before its place in the file is checked.
struct Description {
    name: String,
    shape: Vec<usize>,
    kind: TensorKind,
    /// Size of its data.
    bytes: u64,
    /// Counted from the start of the data.
    offset: u64,
}

/// What is being read, for errors.
#[derive(Clone, Copy)]
enum Part<'a> {
    Header,
    Key(u64),
    Value(&'a str),
    Name(u64),
    Tensor(&'a str),
    Data(&'a str),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "its header"),
            Self::Key(index) => write!(f, "the key of metadata entry `{index}`"),
            Self::Value(key) => write!(f, "the value of key `{}`", shown(key)),
            Self::Name(index) => write!(f, "the name of tensor `{index}`"),
            Self::Tensor(name) => write!(f, "the description of tensor `{}`", shown(name)),
            Self::Data(name) => write!(f, "the data of tensor `{}`", shown(name)),
        }
    }
}

struct Parser<'a, R> {
    path: &'a Path,
    reader: BufReader<R>,
    position: u64,
    length: u64,
}

impl<'a, R: Read + Seek> Parser<'a, R> {
    fn new(path: &'a Path, mut reader: R) -> Result<Self, GgufError> {
        let length = reader.seek(SeekFrom::End(0)).map_err(GgufError::file("read", path))?;
        reader.seek(SeekFrom::Start(0)).map_err(GgufError::file("read", path))?;
        Ok(Self { path, reader: BufReader::new(reader), position: 0, length })
    }

    fn magic(&mut self) -> Result<(), GgufError> {
        let start = self.bytes(self.length.min(MAGIC.len() as u64) as usize)?;
        if start != MAGIC {
            let start = start.escape_ascii().to_string();
            return Err(GgufError::NotGguf { path: self.path.to_owned(), start });
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(), GgufError> {
        let path = || self.path.to_owned();
        match self.u32(Part::Header)? {
            2 | 3 => Ok(()),
            // A small number, read the wrong way round.
            version if version != 0 && version & 0xffff == 0 => {
                Err(GgufError::BigEndian { path: path() })
            }
            version => Err(GgufError::Version { path: path(), version }),
        }
    }

    fn metadata(&mut self, count: u64) -> Result<Metadata, GgufError> {
        self.expect_room("metadata entries", count, MIN_ENTRY_BYTES)?;
        let mut metadata = Metadata::of_file(self.path);
        for index in 0..count {
            let key = self.string(Part::Key(index))?;
            if key.is_empty() {
                return Err(GgufError::EmptyKey { path: self.path.to_owned(), index });
            }
            if metadata.get(&key).is_some() {
                let (path, key) = (self.path.to_owned(), shown(&key));
                return Err(GgufError::DuplicateKey { path, key });
            }
            let value = self.value(&key)?;
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let part = Part::Value(key);
        Ok(match self.u32(part)? {
            0 => Value::U8(self.number(part, u8::from_le_bytes)?),
            1 => Value::I8(self.number(part, i8::from_le_bytes)?),
            2 => Value::U16(self.number(part, u16::from_le_bytes)?),
            3 => Value::I16(self.number(part, i16::from_le_bytes)?),
            4 => Value::U32(self.number(part, u32::from_le_bytes)?),
            5 => Value::I32(self.number(part, i32::from_le_bytes)?),
            6 => Value::F32(self.number(part, f32::from_le_bytes)?),
            7 => Value::Bool(self.boolean(key)?),
            8 => Value::String(self.string(part)?),
            9 => Value::Array(self.array(key)?),
            10 => Value::U64(self.number(part, u64::from_le_bytes)?),
            11 => Value::I64(self.number(part, i64::from_le_bytes)?),
            12 => Value::F64(self.number(part, f64::from_le_bytes)?),
            number => return Err(self.value_type(key, number)),
        })
    }

    fn array(&mut self, key: &str) -> Result<Array, GgufError> {
        let part = Part::Value(key);
        let element = self.u32(part)?;
        let count = self.u64(part)?;
        if count > MAX_LENGTH {
            return Err(self.too_long(part, count));
        }
        Ok(match element {
            0 => Array::U8(self.numbers(part, count, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(part, count, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(part, count, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(part, count, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(part, count, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(part, count, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(part, count, f32::from_le_bytes)?),
            7 => Array::Bool(self.elements(part, count, 1, |parser| parser.boolean(key))?),
            8 => Array::String(self.elements(part, count, 8, |parser| parser.string(part))?),
            9 => {
                let (path, key) = (self.path.to_owned(), shown(key));
                return Err(GgufError::NestedArray { path, key });
            }
            10 => Array::U64(self.numbers(part, count, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(part, count, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(part, count, f64::from_le_bytes)?),
            number => return Err(self.value_type(key, number)),
        })
    }

    /// The tensors' descriptions, and where each name stands among them.
    fn tensors(
        &mut self,
        count: u64,
    ) -> Result<(Vec<Description>, HashMap<String, usize>), GgufError> {
        self.expect_room("tensors", count, MIN_TENSOR_BYTES)?;
        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for number in 0..count {
            let tensor = self.tensor(number)?;
            if index.insert(tensor.name.clone(), tensors.len()).is_some() {
                let (path, tensor) = (self.path.to_owned(), shown(&tensor.name));
                return Err(GgufError::DuplicateTensor { path, tensor });
            }
            tensors.push(tensor);
        }
        Ok((tensors, index))
    }

    fn tensor(&mut self, index: u64) -> Result<Description, GgufError> {
        let name = self.string(Part::Name(index))?;
        let part = Part::Tensor(&name);
        let dimensions = self.u32(part)?;
        if dimensions == 0 || dimensions as usize > MAX_DIMENSIONS {
            let (path, tensor) = (self.path.to_owned(), shown(&name));
            return Err(GgufError::Dimensions { path, tensor, dimensions: dimensions.into() });
        }
        let mut shape = self.numbers(part, dimensions.into(), u64::from_le_bytes)?;
        shape.reverse();
        let number = self.u32(part)?;
        let offset = self.u64(part)?;
        let kind = TensorKind::from_ggml_type(number).map_err(|found| {
            let (path, tensor) = (self.path.to_owned(), shown(&name));
            GgufError::Kind { path, tensor, found }
        })?;
        let (shape, bytes) = measure(self.path, &name, shape, kind)?;
        Ok(Description { name, shape, kind, bytes, offset })
    }

    /// Checks that the tensors' data fills the rest of the file, one behind the other.
    fn locate(
        &self,
        tensors: Vec<Description>,
        alignment: u64,
    ) -> Result<Vec<TensorInfo>, GgufError> {
        let data_start = self.position.next_multiple_of(alignment);
        let mut expected = 0;
        let mut placed = Vec::with_capacity(tensors.len());
        for Description { name, shape, kind, bytes, offset } in tensors {
            if !offset.is_multiple_of(alignment) {
                let (path, tensor) = (self.path.to_owned(), shown(&name));
                return Err(GgufError::Unaligned { path, tensor, offset, alignment });
            }
            if offset != expected {
                let (path, tensor) = (self.path.to_owned(), shown(&name));
                return Err(GgufError::NotConsecutive { path, tensor, offset, expected });
            }
            let start = data_start + offset;
            let left = self.length.saturating_sub(start);
            if bytes > left {
                return Err(self.torn(Part::Data(&name), bytes, left));
            }
            expected = (offset + bytes).next_multiple_of(alignment);
            placed.push(TensorInfo { name, shape, kind, start });
        }
        let end = data_start + expected;
        if self.length > end {
            let (path, bytes) = (self.path.to_owned(), self.length - end);
            return Err(GgufError::Trailing { path, bytes });
        }
        Ok(placed)
    }

    fn u32(&mut self, part: Part<'_>) -> Result<u32, GgufError> {
        self.number(part, u32::from_le_bytes)
    }

    fn u64(&mut self, part: Part<'_>) -> Result<u64, GgufError> {
        self.number(part, u64::from_le_bytes)
    }

    fn number<const N: usize, T>(
        &mut self,
        part: Part<'_>,
        from_le_bytes: fn([u8; N]) -> T,
    ) -> Result<T, GgufError> {
        self.expect_bytes(part, N as u64)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(from_le_bytes(bytes))
    }

    fn numbers<const N: usize, T>(
        &mut self,
        part: Part<'_>,
        count: u64,
        from_le_bytes: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        self.elements(part, count, N as u64, |parser| parser.number(part, from_le_bytes))
    }

    /// Reads `count` elements of at least `min_bytes` each. The list grows with what is read.
    fn elements<T>(
        &mut self,
        part: Part<'_>,
        count: u64,
        min_bytes: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, GgufError>,
    ) -> Result<Vec<T>, GgufError> {
        self.expect_bytes(part, count.saturating_mul(min_bytes))?;
        let mut elements = (0..count).map(|_| read(self)).collect::<Result<Vec<T>, _>>()?;
        elements.shrink_to_fit();
        Ok(elements)
    }

    fn boolean(&mut self, key: &str) -> Result<bool, GgufError> {
        match self.number(Part::Value(key), u8::from_le_bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            byte => {
                let (path, key) = (self.path.to_owned(), shown(key));
                Err(GgufError::Boolean { path, key, byte })
            }
        }
    }

    fn string(&mut self, part: Part<'_>) -> Result<String, GgufError> {
        let length = self.u64(part)?;
        if length > MAX_LENGTH {
            return Err(self.too_long(part, length));
        }
        self.expect_bytes(part, length)?;
        let bytes = self.bytes(length as usize)?;
        String::from_utf8(bytes)
            .map_err(|_| GgufError::NotUtf8 { path: self.path.to_owned(), what: part.to_string() })
    }

    fn bytes(&mut self, count: usize) -> Result<Vec<u8>, GgufError> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.reader.read_exact(bytes).map_err(GgufError::file("read", self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn left(&self) -> u64 {
        self.length - self.position
    }

    fn expect_bytes(&self, part: Part<'_>, needed: u64) -> Result<(), GgufError> {
        if needed > self.left() {
            return Err(self.torn(part, needed, self.left()));
        }
        Ok(())
    }

    fn expect_room(&self, what: &'static str, count: u64, min: u64) -> Result<(), GgufError> {
        let left = self.left();
        if count.saturating_mul(min) > left {
            return Err(GgufError::Count { path: self.path.to_owned(), what, count, left });
        }
        Ok(())
    }

    fn torn(&self, part: Part<'_>, needed: u64, left: u64) -> GgufError {
        GgufError::Torn { path: self.path.to_owned(), what: part.to_string(), needed, left }
    }

    fn too_long(&self, part: Part<'_>, length: u64) -> GgufError {
        let (path, what) = (self.path.to_owned(), part.to_string());
        GgufError::TooLong { path, what, length, most: MAX_LENGTH }
    }

    fn value_type(&self, key: &str, number: u32) -> GgufError {
        GgufError::ValueType { path: self.path.to_owned(), key: shown(key), number }
    }
}

/// A row-major shape that memory can hold, and the bytes of its data.
///
/// # Errors
/// [`GgufError::Empty`], [`GgufError::UnevenRow`], [`GgufError::TooLarge`]
pub(crate) fn measure(
    path: &Path,
    tensor: &str,
    shape: Vec<u64>,
    kind: TensorKind,
) -> Result<(Vec<usize>, u64), GgufError> {
    let (path, tensor) = (|| path.to_owned(), || shown(tensor));
    if shape.contains(&0) {
        return Err(GgufError::Empty { path: path(), tensor: tensor(), shape });
    }
    let row = shape.last().copied().unwrap_or(1);
    let block = kind.block_len();
    if !row.is_multiple_of(block as u64) {
        return Err(GgufError::UnevenRow { path: path(), tensor: tensor(), row, kind, block });
    }
    let numbers = shape.iter().try_fold(1, |numbers: u64, &axis| numbers.checked_mul(axis));
    // No vector of floats has more bytes than `isize` counts.
    let fits = |&numbers: &u64| numbers.checked_mul(4).is_some_and(|b| isize::try_from(b).is_ok());
    let Some(numbers) = numbers.filter(fits) else {
        return Err(GgufError::TooLarge { path: path(), tensor: tensor(), shape });
    };
    let bytes = numbers / block as u64 * kind.block_bytes() as u64;
    // Every axis is at most their product.
    Ok((shape.into_iter().map(|axis| axis as usize).collect(), bytes))
}
