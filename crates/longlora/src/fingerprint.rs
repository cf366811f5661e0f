//! What tells one model from another: the bytes of its files, and how it is used.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longlora_data::SourceFile;
use sha2::{Digest, Sha256};

/// SHA-256 of the files of folders, or of single files, and of the words that say how they are used.
pub(crate) fn fingerprint(paths: &[&Path], words: &str) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(words);
    for path in paths {
        for file in files(path)? {
            let cannot = || format!("`{}` cannot be read; check its permissions", file.display());
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            io::copy(&mut File::open(&file).with_context(cannot)?, &mut Writer(&mut hash))
                .with_context(cannot)?;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What an adapter is read from: PEFT's files, that of LongLoRA's own code, and ours.
const ADAPTER_FILES: [&str; 6] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "trainable_params.bin",
    "longlora.json",
    "rope_offsets.safetensors",
];

/// SHA-256 of the files of an adapter, by their names.
pub(crate) fn adapter_hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    let files = ADAPTER_FILES.map(|name| (name.to_owned(), folder.join(name)));
    let there = files.into_iter().filter(|(_, path)| path.exists());
    there.map(|(name, path)| Ok((name, SourceFile::read(&path)?.sha256))).collect()
}

/// Those of a folder by name, without its folders.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = || format!("`{}` cannot be read; check its permissions", path.display());
    let entries = fs::read_dir(path).with_context(cannot)?;
    let entries: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut files = entries.with_context(cannot)?;
    files.retain(|path| path.is_file());
    files.sort();
    Ok(files)
}

struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_of_contents_and_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("config.json"), "{}").unwrap();
        let of = |words: &str| fingerprint(&[path], words).unwrap();
        let first = of("");
        assert_eq!(first, of(""));
        assert_ne!(first, of("yarn"));
        fs::write(path.join("config.json"), "{ }").unwrap();
        assert_ne!(first, of(""));
        let error = fingerprint(&[&path.join("absent")], "").unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }

    #[test]
    fn every_path_counts() {
        let folder = tempfile::tempdir().unwrap();
        let [model, adapter] = ["model", "adapter"].map(|name| folder.path().join(name));
        fs::write(&model, "weights").unwrap();
        fs::write(&adapter, "update").unwrap();
        let of_both = || fingerprint(&[&model, &adapter], "").unwrap();
        let first = of_both();
        assert_ne!(first, fingerprint(&[&model], "").unwrap());
        fs::write(&adapter, "another").unwrap();
        assert_ne!(first, of_both());
    }
}
