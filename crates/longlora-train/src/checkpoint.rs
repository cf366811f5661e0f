//! A run's state on disk: what is trained, the optimizer, the step. Never the frozen base.
//!
//! ```text
//! checkpoints/step-000100/trained.safetensors   parameters, by their checkpoint names
//!                         optimizer.bpk         AdamW's moments, burn's own format
//!                         table.safetensors     moments of the rows seen of an embedding table that is not the head
//!                         state.json            step and tokens, from which the schedule and the data order follow, and
//!                                               the hashes of the other files
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::optim::OptimizerRecord;
use burn::tensor::Bytes;
use longlora_data::SourceFile;
use longlora_llama::{
    Llama, LlamaError, Selection, collect, read_tensors, restore, write_atomically, write_tensors,
};
use serde::{Deserialize, Serialize};

use crate::config::TrainingConfig;
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::step_gradients::{table_is_looked_up_alone, table_of};

const TRAINED: &str = "trained.safetensors";
const OPTIMIZER: &str = "optimizer.bpk";
const TABLE: &str = "table.safetensors";
const STATE: &str = "state.json";
/// How a checkpoint is named until it is whole.
const PARTIAL: &str = ".partial-";
/// What to do about a checkpoint that cannot be read.
const INSTEAD: &str = "remove this checkpoint, and the run goes on from the one before";

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
}

impl Checkpoint {
    /// Writes the state after this step into `checkpoints`: the folder appears whole, or not at all.
    ///
    /// # Errors
    /// [`TrainError`], if the disk refuses; earlier checkpoints are untouched.
    pub fn save(
        &self,
        checkpoints: &Path,
        llama: &Llama,
        selection: &Selection,
        optimizer: &Optimizer,
    ) -> Result<PathBuf, TrainError> {
        let file = TrainError::file;
        fs::create_dir_all(checkpoints).map_err(file("create", checkpoints))?;
        let folder = checkpoints.join(format!("step-{:06}", self.step));
        let partial = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempdir_in(checkpoints)
            .map_err(file("write into", checkpoints))?;
        write_tensors(&partial.path().join(TRAINED), &collect(llama, selection))?;
        if let Some(moments) = optimizer.table.tensors() {
            write_tensors(&partial.path().join(TABLE), &moments)?;
        }
        write_optimizer(optimizer, &partial.path().join(OPTIMIZER))?;
        let sha256 = hashes(partial.path())?;
        let state = State { step: self.step, tokens: self.tokens, sha256 };
        let state = serde_json::to_string_pretty(&state).expect("a step is JSON");
        write_atomically(&partial.path().join(STATE), state.as_bytes())?;
        if folder.exists() {
            // The same step of the same run: a resumed run reaches it again, bit for bit.
            fs::remove_dir_all(&folder).map_err(file("replace", &folder))?;
        }
        fs::rename(partial.keep(), &folder).map_err(file("write", &folder))?;
        fs::File::open(checkpoints)
            .and_then(|folder| folder.sync_all())
            .map_err(file("sync", checkpoints))?;
        Ok(folder)
    }

    /// Reads the latest whole checkpoint of a run back into a freshly attached model.
    ///
    /// # Errors
    /// [`TrainError`], if there is none, or one of its files is torn.
    pub fn load(
        checkpoints: &Path,
        llama: Llama,
        selection: &Selection,
        config: &TrainingConfig,
    ) -> Result<(Self, Llama, Optimizer), TrainError> {
        let latest = list(checkpoints)?.pop().ok_or_else(|| TrainError::NotResumable {
            path: checkpoints.to_owned(),
            reason: "it has no checkpoint; start the run anew".to_owned(),
        })?;
        let State { step, tokens, sha256 } = State::read(&latest)?;
        let checkpoint = Self { step, tokens };
        refuse_other_files(&latest, &sha256)?;

        let path = latest.join(TRAINED);
        let mut tensors = read_tensors(&path)?;
        let llama = restore(llama, selection, &path, |name| {
            let missing = || LlamaError::Missing { path: path.clone(), tensor: name.to_owned() };
            tensors.remove(name).ok_or_else(missing)
        })?;

        let path = latest.join(OPTIMIZER);
        let bytes = fs::read(&path).map_err(TrainError::file("read", &path))?;
        let record = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(bytes));
        let record = record.map_err(|error| TrainError::NotResumable {
            path,
            reason: format!("its optimizer state is torn: {error}; {INSTEAD}"),
        })?;
        let mut optimizer = Optimizer::new(config, checkpoint.step);
        optimizer.adam_w = optimizer.adam_w.load_record(record);
        let path = latest.join(TABLE);
        // A table of which no row was updated yet has no moments.
        if table_is_looked_up_alone(&llama) && (sha256.contains_key(TABLE) || path.exists()) {
            let table = table_of(&llama).val().without_autodiff();
            let loaded = optimizer.table.load(read_tensors(&path)?, table.dims(), &table.device());
            loaded.map_err(|reason| TrainError::NotResumable {
                path,
                reason: format!("its optimizer state is torn: {reason}; {INSTEAD}"),
            })?;
        }
        Ok((checkpoint, llama, optimizer))
    }

    /// Whether a run has any.
    pub(crate) fn exists(checkpoints: &Path) -> Result<bool, TrainError> {
        Ok(!list(checkpoints)?.is_empty())
    }

    /// Removes all but the latest `keep` checkpoints, and what was never finished.
    pub(crate) fn prune(checkpoints: &Path, keep: usize) -> Result<(), TrainError> {
        let all = list(checkpoints)?;
        let old = &all[..all.len().saturating_sub(keep)];
        let partial =
            entries(checkpoints)?.into_iter().filter(|path| name(path).starts_with(PARTIAL));
        for path in old.iter().cloned().chain(partial) {
            fs::remove_dir_all(&path).map_err(TrainError::file("remove", &path))?;
        }
        Ok(())
    }
}

/// What `state.json` holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    step: u64,
    tokens: u64,
    /// Of the files beside it, by their names; none in checkpoints of before they were noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    sha256: BTreeMap<String, String>,
}

impl State {
    fn read(checkpoint: &Path) -> Result<Self, TrainError> {
        let path = checkpoint.join(STATE);
        let torn = |reason: String| TrainError::NotResumable {
            path: path.clone(),
            reason: format!("it cannot be read ({reason}); {INSTEAD}"),
        };
        let text = fs::read_to_string(&path).map_err(|error| torn(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| torn(error.to_string()))
    }
}

/// Straight to the disk: burn's bytes in memory would be as large once more.
fn write_optimizer(optimizer: &Optimizer, path: &Path) -> Result<(), TrainError> {
    let saved = optimizer.adam_w.save(path).map_err(|error| {
        // Of the system's errors burn keeps the words.
        let is_full = error.to_string().contains(&full_disk().to_string());
        if is_full { full_disk() } else { io::Error::other(error) }
    });
    saved.map_err(TrainError::file("write", path))?;
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(TrainError::file("sync", path))
}

/// As Unix tells it.
fn full_disk() -> io::Error {
    const ENOSPC: i32 = 28;
    io::Error::from_raw_os_error(ENOSPC)
}

fn hashes(checkpoint: &Path) -> Result<BTreeMap<String, String>, TrainError> {
    let hash = |path: PathBuf| Ok((name(&path).to_owned(), SourceFile::read(&path)?.sha256));
    entries(checkpoint)?.into_iter().map(hash).collect()
}

/// A disk may give back other bytes than it was given.
fn refuse_other_files(
    checkpoint: &Path,
    sha256: &BTreeMap<String, String>,
) -> Result<(), TrainError> {
    for (name, then) in sha256 {
        let path = checkpoint.join(name);
        let torn = |reason: String| TrainError::NotResumable {
            path: path.clone(),
            reason: format!("{reason}; {INSTEAD}"),
        };
        let now = SourceFile::read(&path).map_err(|error| torn(error.to_string()))?;
        if now.sha256 != *then {
            return Err(torn("it is torn: it holds other bytes than were saved".to_owned()));
        }
    }
    Ok(())
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let failed = || TrainError::file("read", folder);
    let entries = fs::read_dir(folder).map_err(failed())?;
    entries.map(|entry| Ok(entry.map_err(failed())?.path())).collect()
}

/// The checkpoints of a run, oldest first. Unfinished ones have another name and are not among them.
fn list(checkpoints: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !checkpoints.exists() {
        return Ok(vec![]);
    }
    let step = |path: &PathBuf| name(path).strip_prefix("step-")?.parse::<u64>().ok();
    let steps = entries(checkpoints)?.into_iter();
    let mut steps: Vec<_> = steps.filter_map(|path| Some((step(&path)?, path))).collect();
    steps.sort_unstable();
    Ok(steps.into_iter().map(|(_, path)| path).collect())
}
