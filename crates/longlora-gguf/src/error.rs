use std::error::Error;
use std::path::{Path, PathBuf};

use crate::TensorKind;

/// Why a GGUF file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file system refused.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another format.
    #[error(
        "`{path}` is not a GGUF file: it starts with `{start}`, not with `GGUF`; give a .gguf file"
    )]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes, the unprintable ones escaped.
        start: String,
    },
    /// Numbers stored the other way round.
    #[error(
        "`{path}` is a big-endian GGUF file, and only little-endian ones are read; convert the \
         model again"
    )]
    BigEndian {
        /// The file.
        path: PathBuf,
    },
    /// A version from before or after those that are read.
    #[error(
        "`{path}` is of GGUF version `{version}`, and only versions 2 and 3 are read; convert the \
         model again with a current llama.cpp"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Less file than its header promises.
    #[error(
        "`{path}` ends too early: {what} needs `{needed}` bytes, and `{left}` are left; fetch or \
         copy it again"
    )]
    Torn {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// How many bytes it needs.
        needed: u64,
        /// How many there are.
        left: u64,
    },
    /// A count that the file has no room for.
    #[error(
        "`{path}` speaks of `{count}` {what}, and has only `{left}` bytes for them; fetch or copy \
         it again"
    )]
    Count {
        /// The file.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// How many there should be.
        count: u64,
        /// How many bytes are left.
        left: u64,
    },
    /// A length that no text and no array has.
    #[error(
        "{what} in `{path}` would have length `{length}`, and at most `{most}` is read; fetch or \
         copy it again"
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Its length.
        length: u64,
        /// The greatest length that is read.
        most: u64,
    },
    /// Text that is none.
    #[error("{what} in `{path}` is not UTF-8; convert the model again")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Which text.
        what: String,
    },
    /// A metadata entry without a key.
    #[error("metadata entry `{index}` of `{path}` has an empty key; convert the model again")]
    EmptyKey {
        /// The file.
        path: PathBuf,
        /// The entry, counted from 0.
        index: u64,
    },
    /// Two values for one key.
    #[error("`{path}` has key `{key}` twice; convert the model again")]
    DuplicateKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value whose length is unknown.
    #[error(
        "key `{key}` of `{path}` has a value of unknown type `{number}`; convert the model again"
    )]
    ValueType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type's number.
        number: u32,
    },
    /// An array of arrays.
    #[error(
        "key `{key}` of `{path}` is an array of arrays, which is not read; convert the model \
         without it"
    )]
    NestedArray {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A boolean that is neither.
    #[error(
        "key `{key}` of `{path}` has the boolean `{byte}`, and only 0 and 1 are some; fetch or \
         copy it again"
    )]
    Boolean {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The byte that was found.
        byte: u8,
    },
    /// A value of another type than the reader of it needs.
    #[error(
        "key `{key}` of `{path}` has {found}, where {wanted} is needed; convert the model again"
    )]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is needed.
        wanted: &'static str,
        /// What there is.
        found: String,
    },
    /// A value that is needed.
    #[error("`{path}` lacks key `{key}`; convert the model again with a current llama.cpp")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// An alignment that aligns nothing.
    #[error(
        "`{path}` has `general.alignment` = `{alignment}`, and a power of two of at least 8 is \
         needed; convert the model again"
    )]
    Alignment {
        /// The file.
        path: PathBuf,
        /// The value.
        alignment: u32,
    },
    /// Two tensors of one name.
    #[error("`{path}` has tensor `{tensor}` twice; give each its own name")]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// A tensor that is needed.
    #[error("`{path}` lacks tensor `{tensor}`; convert the model again or give another file")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// More dimensions than ggml knows, or none.
    #[error(
        "tensor `{tensor}` of `{path}` has `{dimensions}` dimensions, and 1 to 4 are possible; \
         reshape it"
    )]
    Dimensions {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// How many.
        dimensions: u64,
    },
    /// A tensor without a number.
    #[error(
        "tensor `{tensor}` of `{path}` has shape {shape:?}, which holds no number; leave it out"
    )]
    Empty {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape, row-major.
        shape: Vec<u64>,
    },
    /// A tensor that no memory could hold.
    #[error(
        "tensor `{tensor}` of `{path}` has shape {shape:?}, which is more than any memory holds; \
         check what wrote it"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape, row-major.
        shape: Vec<u64>,
    },
    /// A type of ggml that is not read.
    #[error(
        "tensor `{tensor}` of `{path}` is of type `{found}`, which is not read; convert the model \
         to one of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's name, or its number.
        found: String,
    },
    /// A type that is read but not written.
    #[error(
        "tensor `{tensor}` cannot be written to `{path}` as `{kind}`; take one of F32, F16, BF16, \
         Q8_0"
    )]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type asked for.
        kind: TensorKind,
    },
    /// A row that ends inside a block.
    #[error(
        "tensor `{tensor}` of `{path}` has rows of `{row}`, which `{kind}` does not split into \
         blocks of `{block}`; store it as F32 or F16"
    )]
    UnevenRow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Length of its last axis.
        row: u64,
        /// Its type.
        kind: TensorKind,
        /// Numbers in a block of that type.
        block: usize,
    },
    /// Data that does not start where it may.
    #[error(
        "tensor `{tensor}` of `{path}` starts at `{offset}`, which is no multiple of the alignment \
         `{alignment}`; convert the model again"
    )]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its offset in the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Data that overlaps or leaves a hole.
    #[error(
        "tensor `{tensor}` of `{path}` starts at `{offset}`, and the one before it ends at \
         `{expected}`; convert the model again"
    )]
    NotConsecutive {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its offset in the data.
        offset: u64,
        /// Where the tensor before it ends, padded.
        expected: u64,
    },
    /// More file than its header speaks of.
    #[error(
        "`{path}` has `{bytes}` bytes behind its last tensor that belong to nothing; fetch or copy \
         it again"
    )]
    Trailing {
        /// The file.
        path: PathBuf,
        /// How many, less the padding.
        bytes: u64,
    },
    /// A name that llama.cpp does not read.
    #[error(
        "tensor `{tensor}` has a name of `{bytes}` bytes, and llama.cpp reads at most 63; shorten \
         it before it is written to `{path}`"
    )]
    LongName {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Length of the name.
        bytes: usize,
    },
    /// Numbers that do not fill a shape.
    #[error(
        "tensor `{tensor}` for `{path}` has `{found}` numbers, and its shape {shape:?} needs \
         `{needed}`; give it another shape"
    )]
    ValueCount {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// How many numbers there are.
        found: usize,
        /// The shape.
        shape: Vec<usize>,
        /// How many it needs.
        needed: usize,
    },
    /// A number outside a type's range.
    #[error(
        "number `{index}` of tensor `{tensor}` is `{value}`, which `{kind}` cannot hold; write it \
         to `{path}` as F32"
    )]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Which number, row-major.
        index: usize,
        /// The number.
        value: f32,
        /// The type asked for.
        kind: TensorKind,
    },
    /// Numbers that could not be computed.
    #[error("cannot compute tensor `{tensor}` for `{path}`")]
    Compute {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the function that was to compute it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl GgufError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// Most characters of a name from a file that an error shows.
const SHOWN_CHARS: usize = 80;

/// A name from a file as errors show it: on one line, without control characters, not too long.
pub(crate) fn shown(name: &str) -> String {
    shown_within(name, SHOWN_CHARS)
}

/// A text from a stranger's file as errors show it: on one line, without control characters, and
/// of at most so many of its characters.
pub fn shown_within(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for character in text.chars().take(most) {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    if text.chars().nth(most).is_some() {
        shown.push_str("..");
    }
    shown
}
