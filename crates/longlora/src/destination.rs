//! Where an export goes: made under another name beside it, and renamed when it is whole.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use burn::tensor::DType;
use clap::ValueEnum;
use longlora_gguf::TensorKind;
use longlora_train::FolderLock;

/// Mean divergence in nats beyond which an exported model is another one, not a rounded one. Q8_0 stays far below.
pub(crate) const MAX_DIVERGENCE: f64 = 0.05;
/// The same where nothing was rounded but, perhaps, RoPE factors.
const MAX_DIVERGENCE_OF_F32: f64 = 1e-4;
/// The record of an export, in its folder; beside a GGUF file it has the file's name before it.
const MANIFEST: &str = "longlora_export.json";

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum FloatKind {
    /// 4 bytes: nothing is rounded
    F32,
    /// 2 bytes
    F16,
    /// 2 bytes, with the range of f32
    Bf16,
    /// GGUF only: 34 bytes for 32 numbers
    #[value(name = "q8_0")]
    Q8_0,
}

impl FloatKind {
    pub(crate) fn of_folder(self) -> Result<DType> {
        match self {
            Self::F32 => Ok(DType::F32),
            Self::F16 => Ok(DType::F16),
            Self::Bf16 => Ok(DType::BF16),
            Self::Q8_0 => {
                bail!("a Hugging Face folder has no type `q8_0`; use f32, f16 or bf16")
            }
        }
    }

    pub(crate) fn max_divergence(self) -> f64 {
        match self {
            Self::F32 => MAX_DIVERGENCE_OF_F32,
            Self::F16 | Self::Bf16 | Self::Q8_0 => MAX_DIVERGENCE,
        }
    }

    pub(crate) fn of_gguf(self) -> TensorKind {
        match self {
            Self::F32 => TensorKind::F32,
            Self::F16 => TensorKind::F16,
            Self::Bf16 => TensorKind::BF16,
            Self::Q8_0 => TensorKind::Q8_0,
        }
    }
}

/// Where an export goes, and what it is there.
pub(crate) struct Destination {
    pub(crate) out: PathBuf,
    /// The last part of `out`.
    pub(crate) name: String,
    pub(crate) dtype: FloatKind,
    pub(crate) format: Format,
    pub(crate) verify_length: usize,
}

pub(crate) enum Format {
    /// A Hugging Face folder: the type of its numbers, the bytes of its largest file.
    Folder(DType, u64),
    /// A GGUF file: the type of its matrices.
    Gguf(TensorKind),
}

impl Destination {
    /// The folder in which all is made. It lies beside `out`, so that a rename is enough; and has a name that is nobody else's,
    /// since what an interrupted export left there is removed.
    pub(crate) fn staging(&self) -> PathBuf {
        self.out.with_file_name(format!(".longlora-partial-{}", self.name))
    }

    /// Where a manifest will lie outside of what is made.
    pub(crate) fn manifest_beside(&self) -> Option<PathBuf> {
        match self.format {
            Format::Folder(..) => None,
            Format::Gguf(_) => Some(self.out.with_file_name(self.manifest())),
        }
    }

    /// Makes the staging folder, empty, and keeps other processes out.
    pub(crate) fn claim(&self) -> Result<FolderLock> {
        let staging = self.staging();
        let failure = || format!("cannot create `{}`", staging.display());
        fs::create_dir_all(&staging).with_context(failure)?;
        let lock = FolderLock::take(&staging)?;
        for entry in fs::read_dir(&staging).with_context(failure)? {
            let path = entry.with_context(failure)?.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("cannot remove `{}`", path.display()))?;
        }
        Ok(lock)
    }

    /// The model there.
    pub(crate) fn staged(&self) -> PathBuf {
        match self.format {
            Format::Folder(..) => self.staging(),
            Format::Gguf(_) => self.staging().join(&self.name),
        }
    }

    /// The manifest's name, there and at its place.
    pub(crate) fn manifest(&self) -> String {
        match self.format {
            Format::Folder(..) => MANIFEST.to_owned(),
            Format::Gguf(_) => format!("{}.{MANIFEST}", self.name),
        }
    }

    /// Gives what was made its own name.
    pub(crate) fn publish(&self) -> Result<()> {
        let failure = || format!("cannot write `{}`", self.out.display());
        fs::rename(self.staged(), &self.out).with_context(failure)?;
        if let Some(beside) = self.manifest_beside() {
            fs::rename(self.staging().join(self.manifest()), beside).with_context(failure)?;
        }
        self.clear()
    }

    /// Removes what this export left unfinished.
    pub(crate) fn clear(&self) -> Result<()> {
        let staging = self.staging();
        if !staging.exists() {
            return Ok(());
        }
        fs::remove_dir_all(&staging)
            .with_context(|| format!("cannot remove `{}`", staging.display()))
    }
}
