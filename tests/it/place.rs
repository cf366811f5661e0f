//! A folder in which runs of a tiny model are made, stopped and resumed, and what is read from it.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use longlora_adapters::{AdapterConfig, RopeGranularity, RopeOffsetConfig};
use longlora_train::{
    Event, FinetuneConfig, LearningRates, Outcome, RunFolder, StepReport, Stop, TrainError,
    finetune, resume,
};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{golden, read, write_json};
use crate::random::tokens;

/// A folder with training data, in which runs are made.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) model: PathBuf,
}

impl Place {
    /// Nine documents of token ids, of unequal lengths.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let documents: Vec<_> = (0..9).map(|n| tokens(150 + 31 * n, 96, n as u64)).collect();
        write_json(&folder.path().join("data.json"), &json!(documents));
        Self { folder, model: golden("tiny/model") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Twelve steps at 160 tokens, beyond the 128 of the model: dropout, warm-up, clipping, two micro-batches, and a
    /// checkpoint at every fourth step.
    pub(crate) fn config(&self) -> FinetuneConfig {
        let mut config = FinetuneConfig::longlora(self.model.clone(), self.path("data.json"), 160);
        config.seed = 21;
        let offset = RopeOffsetConfig::new(RopeGranularity::Head);
        adapters(&mut config).rope_offset = Some(offset);
        adapters(&mut config).lora.as_mut().unwrap().dropout = 0.1;
        let training = &mut config.training;
        training.steps = 12;
        training.accumulation = 2;
        training.parallel = 2;
        training.warmup_steps = 3;
        training.save_every = 4;
        training.learning_rates =
            LearningRates { lora: 1e-2, norms_and_embeddings: 1e-3, rope_offsets: 1e-2 };
        config
    }

    /// Runs `config` into a folder, and asks it to stop after step `stop_after`.
    pub(crate) fn run(
        &self,
        name: &str,
        config: &FinetuneConfig,
        stop_after: u64,
    ) -> Result<Outcome, TrainError> {
        let run = RunFolder::create(&self.path(name)).unwrap();
        let stop = Stop::default();
        finetune(config, &run, &Device::default(), &stop, &mut |event| {
            if matches!(event, Event::Stepped(report) if report.step == stop_after) {
                stop.request();
            }
        })
    }

    pub(crate) fn resume(&self, name: &str) -> Result<Outcome, TrainError> {
        let run = RunFolder::open(&self.path(name))?;
        resume(&run, &Device::default(), &Stop::default(), &mut |_| {})
    }
}

pub(crate) const NEVER: u64 = 0;

/// What the run attaches.
pub(crate) fn adapters(config: &mut FinetuneConfig) -> &mut AdapterConfig {
    config.adapters.as_mut().expect("something is attached")
}

/// The files of a folder, by name.
pub(crate) fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), read(&entry.path())))
        .collect();
    files.sort();
    files
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `metrics.jsonl`, without what two runs never share: time and memory.
pub(crate) fn metrics(run: &Path) -> Vec<StepReport> {
    let text = String::from_utf8(read(&run.join("metrics.jsonl"))).unwrap();
    let report = |line: &str| StepReport {
        step_time_ms: 0.0,
        peak_memory_bytes: None,
        device_memory_bytes: None,
        ..serde_json::from_str(line).unwrap()
    };
    text.lines().map(report).collect()
}
