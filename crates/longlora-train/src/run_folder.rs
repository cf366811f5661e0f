//! Everything that a run leaves behind, in one folder.
//!
//! ```text
//! config.toml      the run as resolved: with it and the data the run can be repeated
//! manifest.json    versions, seed, hashes of model, training text and text to measure on
//! metrics.jsonl    one line per step
//! checkpoints/     to resume from
//! adapter/         the result, in PEFT's format; or model/, if every weight was trained
//! report.md        what came out; report.html and report.json, too
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use longlora_data::SourceFile;
use longlora_llama::write_atomically;
use serde::{Deserialize, Serialize};

use crate::document_counts::DocumentCounts;
use crate::error::TrainError;
use crate::folder_lock::FolderLock;
use crate::step_report::StepReport;

/// What a run was made of, beside its configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this program.
    pub longlora_version: String,
    /// Version of burn.
    pub burn_version: String,
    /// Operating system and processor.
    pub platform: String,
    /// The run's seed.
    pub seed: u64,
    /// Files that the model was read from, with their hashes; none where it began with random weights, and in runs of before
    /// it was noted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<HashedFile>,
    /// Training text, with its hashes.
    pub data: Vec<HashedFile>,
    /// Tokens of the training text.
    pub data_tokens: usize,
    /// Windows of the training text.
    pub data_windows: usize,
    /// What it was made of, if there are conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_documents: Option<DocumentCounts>,
    /// Text that the table at the end is measured on, with its hashes; none where that is a share of the training text, where
    /// there is no table, and in runs of before it was noted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<HashedFile>,
}

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashedFile {
    /// Where it was.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
}

impl From<&SourceFile> for HashedFile {
    fn from(file: &SourceFile) -> Self {
        let SourceFile { path, bytes, sha256 } = file.clone();
        Self { path, bytes, sha256 }
    }
}

impl Manifest {
    /// Of a run of this program on this machine.
    pub fn new(seed: u64, files: &[SourceFile], tokens: usize, windows: usize) -> Self {
        Self {
            longlora_version: env!("CARGO_PKG_VERSION").to_owned(),
            burn_version: "0.22.1".to_owned(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            seed,
            model: vec![],
            data: files.iter().map(HashedFile::from).collect(),
            data_tokens: tokens,
            data_windows: windows,
            data_documents: None,
            held_out: vec![],
        }
    }

    /// With what became of its conversations, if there are any.
    pub fn with_documents(self, documents: DocumentCounts) -> Self {
        let data_documents = (documents.conversations > 0).then_some(documents);
        Self { data_documents, ..self }
    }

    /// With the files of the model that it begins with.
    ///
    /// # Errors
    /// [`TrainError::Data`], if one cannot be read.
    pub fn with_model(self, files: &[PathBuf]) -> Result<Self, TrainError> {
        let read = |path: &PathBuf| Ok(HashedFile::from(&SourceFile::read(path)?));
        Ok(Self { model: files.iter().map(read).collect::<Result<_, TrainError>>()?, ..self })
    }

    /// With the files that the table at the end is measured on.
    pub fn with_held_out(self, files: &[SourceFile]) -> Self {
        Self { held_out: files.iter().map(HashedFile::from).collect(), ..self }
    }

    /// Of the text to measure on, a file that is another one or not there any more.
    fn other_held_out(&self, then: &Self) -> Option<PathBuf> {
        let (now, then) = (&self.held_out, &then.held_out);
        if now.is_empty() || then.is_empty() {
            return None;
        }
        let without = |these: &[HashedFile], those: &[HashedFile]| {
            let is_there = |file: &HashedFile| those.iter().any(|one| one.sha256 == file.sha256);
            these.iter().find(|file| !is_there(file)).map(|file| file.path.clone())
        };
        without(now, then).or_else(|| without(then, now))
    }

    /// What a run did not begin with, if there is any.
    fn changed_since(&self, then: &Self) -> Option<String> {
        let hashes = |files: &[HashedFile]| -> Vec<String> {
            files.iter().map(|file| file.sha256.clone()).collect()
        };
        let differs = |now: &[HashedFile], then: &[HashedFile], all: &str| {
            let new = now.iter().find(|file| !hashes(then).contains(&file.sha256));
            let changed = hashes(now) != hashes(then);
            changed.then(|| new.map_or(all.to_owned(), |file| format!("`{}`", file.path.display())))
        };
        let noted = !then.model.is_empty();
        let model = noted.then(|| differs(&self.model, &then.model, "the model")).flatten();
        let data = || differs(&self.data, &then.data, "the list of files to learn from");
        let windows = |of: &Self| (of.seed, of.data_tokens, of.data_windows);
        let settings = || (windows(self) != windows(then)).then(|| "`config.toml`".to_owned());
        model.or_else(data).or_else(settings)
    }
}

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    /// Whether it was there before.
    was_there: bool,
}

impl RunFolder {
    /// Makes a new folder, or takes an empty one, which is all that is left of a run that was stopped as it began.
    ///
    /// # Errors
    /// [`TrainError::RunExists`], if there is something already; [`TrainError::File`], if the disk refuses.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let holds_something = match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_some(),
            Err(_) => path.exists(),
        };
        if holds_something {
            return Err(TrainError::RunExists { path: path.to_owned() });
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(TrainError::file("create", parent))?;
        }
        let was_there = path.exists();
        match fs::create_dir(path) {
            // Of two processes, one has made it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !was_there => {
                Err(TrainError::RunExists { path: path.to_owned() })
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(TrainError::file("create", path)(error))
            }
            _ => Ok(Self { path: path.to_owned(), was_there }),
        }
    }

    /// Opens the folder of an earlier run.
    ///
    /// # Errors
    /// [`TrainError::NotResumable`], if it is none.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let run = Self { path: path.to_owned(), was_there: true };
        if run.config().exists() {
            return Ok(run);
        }
        let reason = "it has no `config.toml`, so it is not a run folder".to_owned();
        Err(TrainError::NotResumable { path: path.to_owned(), reason })
    }

    /// Removes the folder of a run that failed before its first step, so that the same command can be given again; of one that
    /// was there before, what is in it.
    ///
    /// # Errors
    /// [`TrainError::File`], if the disk refuses.
    pub fn discard_unless_begun(&self) -> Result<(), TrainError> {
        // It may be another process's that came first.
        if matches!(FolderLock::take(&self.path), Err(TrainError::InUse { .. })) {
            return Ok(());
        }
        let metrics = fs::metadata(self.path.join("metrics.jsonl"));
        if self.checkpoints().exists() || metrics.is_ok_and(|metrics| metrics.len() > 0) {
            return Ok(());
        }
        if !self.was_there {
            return fs::remove_dir_all(&self.path).map_err(TrainError::file("remove", &self.path));
        }
        let entries = fs::read_dir(&self.path).map_err(TrainError::file("read", &self.path))?;
        for entry in entries {
            let path = entry.map_err(TrainError::file("read", &self.path))?.path();
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(TrainError::file("remove", &path))?;
        }
        Ok(())
    }

    /// Whether the folder was there before, empty.
    pub fn was_there(&self) -> bool {
        self.was_there
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run as resolved.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Where the result is, if something was attached.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// Where the result is, if every weight was trained.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Writes a file of the run, whole or not at all.
    ///
    /// # Errors
    /// [`TrainError`], if the disk refuses.
    pub fn write(&self, name: &str, contents: &str) -> Result<(), TrainError> {
        Ok(write_atomically(&self.path.join(name), contents.as_bytes())?)
    }

    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<(), TrainError> {
        let json = serde_json::to_string_pretty(manifest).expect("a manifest is JSON");
        self.write("manifest.json", &format!("{json}\n"))
    }

    /// What a run goes on with is what it began with; notes what was not noted then.
    pub(crate) fn refuse_other_sources(&self, now: &Manifest) -> Result<(), TrainError> {
        let then = self.read_manifest()?;
        if let Some(changed) = now.changed_since(&then) {
            return Err(TrainError::NotResumable {
                path: self.path.clone(),
                reason: format!("{changed} is no longer what the run began with; start a new run"),
            });
        }
        if let Some(path) = now.other_held_out(&then) {
            return Err(TrainError::OtherHeldOut { path });
        }
        let mut noted = then.clone();
        for (noted, now) in [(&mut noted.model, &now.model), (&mut noted.held_out, &now.held_out)] {
            if noted.is_empty() {
                noted.clone_from(now);
            }
        }
        if noted == then { Ok(()) } else { self.write_manifest(&noted) }
    }

    /// Notes what the table at the end is measured on from now on, where a manifest is.
    pub(crate) fn note_held_out(&self, files: &[SourceFile]) -> Result<(), TrainError> {
        if !self.path.join("manifest.json").exists() {
            return Ok(());
        }
        self.write_manifest(&self.read_manifest()?.with_held_out(files))
    }

    fn read_manifest(&self) -> Result<Manifest, TrainError> {
        let path = self.path.join("manifest.json");
        let text = fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        serde_json::from_str(&text)
            .map_err(|error| TrainError::ConfigFile { path, reason: error.to_string() })
    }

    /// The steps that were taken.
    ///
    /// # Errors
    /// [`TrainError::File`], if `metrics.jsonl` cannot be read; [`TrainError::TornMetrics`], if a line of it is torn.
    pub fn metrics(&self) -> Result<Vec<StepReport>, TrainError> {
        let path = self.path.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(TrainError::file("read", &path))?;
        let steps: serde_json::Result<_> = text.lines().map(serde_json::from_str).collect();
        steps.map_err(|source| TrainError::TornMetrics { path, source })
    }

    /// The last step that was taken, saved or not.
    pub(crate) fn steps_taken(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("metrics.jsonl")).unwrap_or_default();
        let step = |line: &str| Some(serde_json::from_str::<StepReport>(line).ok()?.step);
        text.lines().filter_map(step).max().unwrap_or(0)
    }

    /// Opens `metrics.jsonl` for appending after step `step`: what a crashed run wrote beyond its last checkpoint is
    /// dropped, because those steps will be taken again.
    pub(crate) fn metrics_after(&self, step: u64) -> Result<MetricsFile, TrainError> {
        let path = self.path.join("metrics.jsonl");
        let mut kept = String::new();
        if path.exists() {
            let file = File::open(&path).map_err(TrainError::file("read", &path))?;
            for line in BufReader::new(file).lines() {
                let line = line.map_err(TrainError::file("read", &path))?;
                let report: Option<StepReport> = serde_json::from_str(&line).ok();
                if report.is_some_and(|report| report.step <= step) {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        }
        write_atomically(&path, kept.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(TrainError::file("append to", &path))?;
        Ok(MetricsFile { path, file })
    }
}

/// The growing `metrics.jsonl`.
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    pub(crate) fn append(&mut self, report: &StepReport) -> Result<(), TrainError> {
        let line = serde_json::to_string(report).expect("a report is JSON");
        // One call, so that a line is never half-written by a full buffer.
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .map_err(TrainError::file("append to", &self.path))
    }

    /// Everything so far is on the disk: a checkpoint never knows of steps that this file does not.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::file("sync", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_to_measure_on_is_compared_where_it_was_noted() {
        let of = |files: &[&str]| {
            let file = |name: &&str| SourceFile {
                path: format!("{name}.txt").into(),
                bytes: 1,
                sha256: (*name).to_owned(),
            };
            let files: Vec<SourceFile> = files.iter().map(file).collect();
            Manifest::new(0, &[], 0, 0).with_held_out(&files)
        };
        let other = |now: &[&str], then: &[&str]| of(now).other_held_out(&of(then));
        assert_eq!(other(&["a", "b"], &["a", "b"]), None);
        assert_eq!(other(&[], &["a"]), None);
        assert_eq!(other(&["a"], &[]), None);
        assert_eq!(other(&["a", "c"], &["a", "b"]), Some("c.txt".into()));
        assert_eq!(other(&["a"], &["a", "b"]), Some("b.txt".into()));
    }

    /// Burn does not tell it.
    #[test]
    fn a_manifest_names_the_version_of_burn_that_is_built() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
        let lock = fs::read_to_string(lock).unwrap();
        let noted = Manifest::new(0, &[], 0, 0).burn_version;
        let locked = format!("name = \"burn\"\nversion = \"{noted}\"\n");
        assert!(lock.contains(&locked), "Cargo.lock has another version of burn than `{noted}`");
    }
}
