//! Files of token ids as LongLoRA's `eval.py` and nanoGPT have them: numbers of 2 or 4 bytes, nothing else.

use std::path::Path;

use crate::{DataError, atomic};

/// What a name ends in if its tokens have 4 bytes.
const WIDE: &str = ".uint32.bin";

/// How many bytes a token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWidth {
    /// 2 bytes, little-endian: `.bin`, LongLoRA's. For vocabularies up to 65,536 entries.
    Uint16,
    /// 4 bytes, little-endian: `.uint32.bin`. For all vocabularies.
    Uint32,
}

impl TokenWidth {
    /// What a file of this name has.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.ends_with(WIDE) { Self::Uint32 } else { Self::Uint16 }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Uint16 => 2,
            Self::Uint32 => 4,
        }
    }
}

/// The tokens of a file's bytes.
pub(crate) fn parse_tokens(path: &Path, bytes: &[u8]) -> Result<Vec<u32>, DataError> {
    let width = TokenWidth::of(path);
    let size = width.bytes();
    if !bytes.len().is_multiple_of(size) {
        return Err(DataError::TornTokenFile {
            path: path.into(),
            bytes: bytes.len() as u64,
            token_bytes: size,
        });
    }
    let tokens = bytes.chunks_exact(size);
    Ok(match width {
        TokenWidth::Uint16 => {
            tokens.map(|token| u32::from(u16::from_le_bytes([token[0], token[1]]))).collect()
        }
        TokenWidth::Uint32 => tokens
            .map(|token| u32::from_le_bytes([token[0], token[1], token[2], token[3]]))
            .collect(),
    })
}

/// Writes documents one after the other, as wide as the name says; whole or not at all.
///
/// Nothing parts them: who reads the file reads one text, as LongLoRA does.
///
/// # Errors
/// A token that 2 bytes cannot hold, and a file that cannot be written.
pub fn write_token_file(path: &Path, documents: &[Vec<u32>]) -> Result<(), DataError> {
    let width = TokenWidth::of(path);
    if width == TokenWidth::Uint16
        && let Some(&token) = documents.iter().flatten().find(|token| **token > u32::from(u16::MAX))
    {
        return Err(DataError::WideToken { path: path.into(), token });
    }
    let tokens = documents.iter().flatten();
    let bytes: Vec<u8> =
        tokens.flat_map(|token| token.to_le_bytes().into_iter().take(width.bytes())).collect();
    atomic::write(path, &bytes).map_err(without_temporary_name)
}

/// The kind of the cause alone: its words name a file that nobody has asked for.
fn without_temporary_name(error: DataError) -> DataError {
    match error {
        DataError::Write { path, source } => {
            DataError::Write { path, source: source.kind().into() }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::Corpus;

    /// What the files hold, read as a corpus: one document each.
    #[track_caller]
    fn check(name: &str, documents: &[Vec<u32>], bytes: usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        write_token_file(&path, documents).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes as u64);
        let corpus = Corpus::read(&path).unwrap();
        assert_eq!(corpus.tokenize(None).unwrap(), [documents.concat()]);
    }

    #[test]
    fn what_was_written_is_read_again() {
        check("validation.bin", &[vec![0, 1, 65_535], vec![258]], 8);
        check("validation.UINT32.bin", &[vec![0, 128_255], vec![65_536]], 12);
    }

    #[test]
    fn numbers_are_little_endian_as_numpy_writes_them() {
        let path = Path::new("a.bin");
        assert_eq!(parse_tokens(path, &[1, 0, 0, 1]).unwrap(), [1, 256]);
        assert_eq!(parse_tokens(Path::new("a.uint32.bin"), &[1, 0, 0, 1]).unwrap(), [0x0100_0001]);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let error = write_token_file(&path, &[vec![1, 70_000]]).unwrap_err().to_string();
        assert!(error.contains("`70000`") && error.contains(".uint32.bin"), "{error}");
        assert!(!path.exists());

        let path = folder.path().join("absent/a.bin");
        let error = write_token_file(&path, &[vec![1]]).unwrap_err();
        let (said, cause) = (error.to_string(), error.source().unwrap().to_string());
        assert!(said.contains(path.to_str().unwrap()) && said.contains("folder"), "{said}");
        assert!(!cause.contains(".tmp"), "{cause}");

        for (name, bytes) in [("a.bin", 3), ("a.uint32.bin", 6)] {
            let error = parse_tokens(Path::new(name), &vec![0; bytes]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{bytes}` bytes")) && error.contains(name), "{error}");
        }
    }
}
