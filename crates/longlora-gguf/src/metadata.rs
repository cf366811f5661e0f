use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::GgufError;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned byte.
    U8(u8),
    /// A signed byte.
    I8(i8),
    /// An unsigned 16-bit integer.
    U16(u16),
    /// A signed 16-bit integer.
    I16(i16),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// A signed 32-bit integer.
    I32(i32),
    /// A 32-bit float.
    F32(f32),
    /// A boolean.
    Bool(bool),
    /// Text.
    String(String),
    /// Several values of one type.
    Array(Array),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A signed 64-bit integer.
    I64(i64),
    /// A 64-bit float.
    F64(f64),
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// Unsigned 16-bit integers.
    U16(Vec<u16>),
    /// Signed 16-bit integers.
    I16(Vec<i16>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Signed 32-bit integers.
    I32(Vec<i32>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Texts.
    String(Vec<String>),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// 64-bit floats.
    F64(Vec<f64>),
}

impl Value {
    /// What an error calls it: a type, and the value if it is short.
    fn describe(&self) -> String {
        match self {
            Self::U8(value) => format!("the u8 `{value}`"),
            Self::I8(value) => format!("the i8 `{value}`"),
            Self::U16(value) => format!("the u16 `{value}`"),
            Self::I16(value) => format!("the i16 `{value}`"),
            Self::U32(value) => format!("the u32 `{value}`"),
            Self::I32(value) => format!("the i32 `{value}`"),
            Self::F32(value) => format!("the f32 `{value}`"),
            Self::Bool(value) => format!("the bool `{value}`"),
            Self::String(_) => "a string".to_owned(),
            Self::Array(array) => format!("an array of {}", array.type_name()),
            Self::U64(value) => format!("the u64 `{value}`"),
            Self::I64(value) => format!("the i64 `{value}`"),
            Self::F64(value) => format!("the f64 `{value}`"),
        }
    }

    /// Its type's number in a file.
    pub(crate) fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::I8(value) => value.try_into().ok(),
            Self::U16(value) => Some(value.into()),
            Self::I16(value) => value.try_into().ok(),
            Self::U32(value) => Some(value.into()),
            Self::I32(value) => value.try_into().ok(),
            Self::U64(value) => Some(value),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    fn as_number(&self) -> Option<f64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::I8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::F32(value) => Some(value.into()),
            Self::U64(value) => Some(value as f64),
            Self::I64(value) => Some(value as f64),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }
}

impl Array {
    /// How many values it has.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::String(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether it has no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// Its elements' type's number in a file.
    pub(crate) fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn to_numbers(&self) -> Option<Vec<f64>> {
        match self {
            Self::U8(values) => Some(convert(values)),
            Self::I8(values) => Some(convert(values)),
            Self::U16(values) => Some(convert(values)),
            Self::I16(values) => Some(convert(values)),
            Self::U32(values) => Some(convert(values)),
            Self::I32(values) => Some(convert(values)),
            Self::F32(values) => Some(convert(values)),
            Self::U64(values) => Some(values.iter().map(|&value| value as f64).collect()),
            Self::I64(values) => Some(values.iter().map(|&value| value as f64).collect()),
            Self::F64(values) => Some(values.clone()),
            Self::Bool(_) | Self::String(_) => None,
        }
    }

    fn to_integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::U8(values) => Some(convert(values)),
            Self::I8(values) => Some(convert(values)),
            Self::U16(values) => Some(convert(values)),
            Self::I16(values) => Some(convert(values)),
            Self::U32(values) => Some(convert(values)),
            Self::I32(values) => Some(convert(values)),
            Self::U64(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            Self::I64(values) => Some(values.clone()),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) => None,
        }
    }
}

fn convert<T: Copy, U: From<T>>(values: &[T]) -> Vec<U> {
    values.iter().map(|&value| U::from(value)).collect()
}

/// What a file says about its model: values under names, in the file's order.
///
/// The typed questions answer `None` if there is no such key, and an error that names the file, the
/// key, what is needed and what was found, if its value is of another type.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Where it comes from, for errors.
    path: PathBuf,
    entries: Vec<(String, Value)>,
    /// Places in `entries`.
    index: HashMap<String, usize>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self::new()
    }
}

impl Metadata {
    /// No metadata yet, and of no file.
    pub fn new() -> Self {
        Self::of_file(Path::new("(new metadata)"))
    }

    pub(crate) fn of_file(path: &Path) -> Self {
        Self { path: path.to_owned(), entries: Vec::new(), index: HashMap::new() }
    }

    /// Sets a value; a new key comes last, a known one stays where it is.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.index.get(&key) {
            Some(&place) => self.entries[place].1 = value,
            None => {
                self.index.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&place| &self.entries[place].1)
    }

    /// Keys and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A text.
    ///
    /// # Errors
    /// [`GgufError::WrongType`]
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer of any type that is not negative.
    ///
    /// # Errors
    /// [`GgufError::WrongType`]
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer of at least 0", Value::as_unsigned)
    }

    /// An integer or a float of any type.
    ///
    /// # Errors
    /// [`GgufError::WrongType`]
    pub fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        let finite = |value: &Value| value.as_number().filter(|number| number.is_finite());
        self.typed(key, "a finite number", finite)
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`GgufError::WrongType`]
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of texts.
    ///
    /// # Errors
    /// [`GgufError::WrongType`]
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "an array of string", |value| match value {
            Value::Array(Array::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// An array of integers or floats of any type.
    ///
    /// # Errors
    /// [`GgufError::WrongType`]
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(array) => array.to_numbers(),
            _ => None,
        })
    }

    /// An array of integers of any type.
    ///
    /// # Errors
    /// [`GgufError::WrongType`], also if one does not fit in an `i64`.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, GgufError> {
        self.typed(key, "an array of integers below 2^63", |value| match value {
            Value::Array(array) => array.to_integers(),
            _ => None,
        })
    }

    /// A value that must be a `u32`.
    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "a u32", |value| match value {
            Value::U32(value) => Some(*value),
            _ => None,
        })
    }

    /// The error for a key that the caller cannot do without.
    pub fn missing(&self, key: &str) -> GgufError {
        GgufError::MissingKey { path: self.path.clone(), key: key.to_owned() }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::WrongType {
            path: self.path.clone(),
            key: key.to_owned(),
            wanted,
            found: value.describe(),
        };
        read(value).map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::of_file(Path::new("model.gguf"));
        metadata.insert("name", Value::String("tiny".into()));
        metadata.insert("count", Value::I32(7));
        metadata.insert("negative", Value::I64(-7));
        metadata.insert("epsilon", Value::F32(0.5));
        metadata.insert("flag", Value::Bool(true));
        metadata.insert("texts", Value::Array(Array::String(vec!["a".into()])));
        metadata.insert("floats", Value::Array(Array::F32(vec![0.5, -1.0])));
        metadata.insert("bytes", Value::Array(Array::U8(vec![1, 255])));
        metadata.insert("vast", Value::Array(Array::U64(vec![1 << 63])));
        metadata
    }

    #[test]
    fn values_come_in_the_type_asked_for() {
        let metadata = metadata();

        assert_eq!(metadata.string("name").unwrap(), Some("tiny"));
        assert_eq!(metadata.unsigned("count").unwrap(), Some(7));
        assert_eq!(metadata.number("count").unwrap(), Some(7.0));
        assert_eq!(metadata.number("negative").unwrap(), Some(-7.0));
        assert_eq!(metadata.number("epsilon").unwrap(), Some(0.5));
        assert_eq!(metadata.boolean("flag").unwrap(), Some(true));
        assert_eq!(metadata.strings("texts").unwrap(), Some(&["a".to_owned()][..]));
        assert_eq!(metadata.numbers("floats").unwrap(), Some(vec![0.5, -1.0]));
        assert_eq!(metadata.numbers("bytes").unwrap(), Some(vec![1.0, 255.0]));
        assert_eq!(metadata.integers("bytes").unwrap(), Some(vec![1, 255]));
    }

    #[test]
    fn a_key_that_is_not_there_is_no_error_until_it_is_needed() {
        let metadata = metadata();

        assert_eq!(metadata.string("absent").unwrap(), None);
        assert_eq!(
            metadata.missing("absent").to_string(),
            "`model.gguf` lacks key `absent`; convert the model again with a current llama.cpp"
        );
    }

    #[test]
    fn a_value_of_another_type_is_told_with_what_was_found() {
        #[track_caller]
        fn check<T: std::fmt::Debug>(answer: Result<Option<T>, GgufError>, sentence: &str) {
            let expected = format!("{sentence}; convert the model again");
            assert_eq!(answer.unwrap_err().to_string(), expected);
        }
        let metadata = metadata();
        check(
            metadata.string("count"),
            "key `count` of `model.gguf` has the i32 `7`, where a string is needed",
        );
        check(
            metadata.unsigned("negative"),
            "key `negative` of `model.gguf` has the i64 `-7`, where an integer of at least 0 is \
             needed",
        );
        check(
            metadata.unsigned("epsilon"),
            "key `epsilon` of `model.gguf` has the f32 `0.5`, where an integer of at least 0 is \
             needed",
        );
        check(
            metadata.number("name"),
            "key `name` of `model.gguf` has a string, where a finite number is needed",
        );
        check(
            metadata.boolean("count"),
            "key `count` of `model.gguf` has the i32 `7`, where a bool is needed",
        );
        check(
            metadata.strings("floats"),
            "key `floats` of `model.gguf` has an array of f32, where an array of string is needed",
        );
        check(
            metadata.numbers("texts"),
            "key `texts` of `model.gguf` has an array of string, where an array of numbers is \
             needed",
        );
        check(
            metadata.integers("vast"),
            "key `vast` of `model.gguf` has an array of u64, where an array of integers below \
             2^63 is needed",
        );
    }

    #[test]
    fn a_key_that_is_set_again_stays_in_its_place() {
        let mut metadata = metadata();
        metadata.insert("name", Value::String("small".into()));
        metadata.insert("new", Value::U8(1));

        let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();

        assert_eq!((keys[0], keys[9], keys.len(), metadata.len()), ("name", "new", 10, 10));
        assert_eq!(metadata.string("name").unwrap(), Some("small"));
    }
}
