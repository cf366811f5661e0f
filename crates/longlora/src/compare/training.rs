//! Training one method, in a process of its own: its peak memory is then its own, and what was begun is gone on with.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use longlora_llama::write_atomically;
use longlora_train::{FinetuneConfig, HeldOut, RunFolder, StepReport};
use serde::{Deserialize, Serialize};

use super::data::{Text, sha256};
use super::method::Method;
use crate::{Stopped, signals};

/// A trained method.
pub(super) struct Trained {
    pub(super) config: FinetuneConfig,
    pub(super) run: RunFolder,
    pub(super) cost: Cost,
}

/// What training took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// Of all steps, wall clock.
    pub(super) seconds: f64,
    pub(super) peak_memory_bytes: Option<u64>,
    /// Loss of each step.
    pub(super) losses: Vec<f64>,
}

/// Where runs are made.
pub(super) struct Workshop {
    pub(super) folder: PathBuf,
    /// As the command line names it.
    pub(super) device: String,
    /// Of the base model.
    pub(super) model_sha256: String,
    pub(super) interrupt: Interrupt,
}

impl Workshop {
    /// Trains, or goes on with what was begun, or takes what is finished. A run's name holds a hash of its settings, its
    /// text, its base and its device: other ones are another run. Where text and base lie is not in it.
    ///
    /// # Errors
    /// [`TrainingFailed`], if this method cannot be trained; others may be.
    pub(super) fn train(
        &self,
        method: &Method,
        mut config: FinetuneConfig,
        text: &Text,
    ) -> Result<Trained> {
        config.data.path.clone_from(&text.train);
        config.data.held_out = HeldOut::Fraction(0.0);
        let toml = config.to_toml();
        let name = format!("{}-seed{}-{}", method.name, config.seed, self.hash(&config, text));
        let (file, run) = (self.file(&name), self.folder.join("runs").join(&name));
        if !is_finished(&run, &config) {
            crate::say(&format!("training {} with seed {}", method.title, config.seed));
            write_atomically(&file, toml.as_bytes())?;
            self.finetune(method, &file, &run)?;
        }
        if !is_finished(&run, &config) {
            let run = run.display();
            let how = format!("training was stopped; the same command goes on with it in `{run}`");
            return Err(Stopped(how).into());
        }
        if self.interrupt.came() {
            return Err(Stopped("stopped; the same command goes on".to_owned()).into());
        }
        let run = RunFolder::open(&run)?;
        let cost = Cost::read(&run, config.training.steps)?;
        Ok(Trained { config, run, cost })
    }

    /// Eight digits.
    fn hash(&self, config: &FinetuneConfig, text: &Text) -> String {
        let mut settings = config.clone();
        settings.data.path = PathBuf::new();
        settings.model.path = PathBuf::new();
        settings.model.fetched = None;
        let (settings, text) = (settings.to_toml(), &text.train_sha256);
        let made_of = format!("{settings}\n{text}\n{}\n{}", self.model_sha256, self.device);
        let mut hash = sha256(made_of.as_bytes());
        hash.truncate(8);
        hash
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join("configs").join(format!("{name}.toml"))
    }

    fn finetune(&self, method: &Method, config: &Path, run: &Path) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        // What is measured is measured here.
        command.arg("finetune").arg("--no-eval").args(["--device", &self.device]);
        if run.join("config.toml").exists() {
            command.arg("--resume").arg(run);
        } else {
            command.arg("--config").arg(config).arg("--out").arg(run);
        }
        let status = self.interrupt.during(&mut command).context("cannot start training")?;
        if !status.success() && !self.interrupt.came() {
            return Err(TrainingFailed(method.title).into());
        }
        Ok(())
    }
}

/// A method that could not be trained; why, its process has said.
#[derive(Debug, thiserror::Error)]
#[error("{0} could not be trained; what went wrong stands above")]
pub(super) struct TrainingFailed(&'static str);

/// Whether the result is there: the file that is written last.
fn is_finished(run: &Path, config: &FinetuneConfig) -> bool {
    let Ok(run) = RunFolder::open(run) else { return false };
    let result = match config.adapters {
        Some(_) => run.adapter().join("adapter_config.json"),
        None => run.model().join("config.json"),
    };
    result.exists()
}

impl Cost {
    fn read(run: &RunFolder, expected: u64) -> Result<Self> {
        let steps = run.metrics()?;
        ensure!(
            steps.len() as u64 == expected,
            "`{}` tells of `{}` steps instead of `{expected}`, so its time is not known; remove that folder, and the same \
             command trains anew",
            run.path().display(),
            steps.len()
        );
        Ok(Self {
            seconds: steps.iter().map(|step| step.step_time_ms / 1000.0).sum(),
            peak_memory_bytes: steps.iter().filter_map(StepReport::memory_bytes).max(),
            losses: steps.iter().map(|step| step.loss).collect(),
        })
    }
}

/// No process has this number.
const NO_PROCESS: u32 = 0;

/// Ctrl-C is the training's while one runs: it finishes its step and saves. At any other time it ends the program: what
/// was measured is on the disk.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    /// The process that trains.
    training: Arc<AtomicU32>,
    came: Arc<AtomicBool>,
}

impl Interrupt {
    pub(super) fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let handler = interrupt.clone();
        signals::listen(move || {
            handler.came.store(true, Ordering::SeqCst);
            match handler.training.load(Ordering::SeqCst) {
                NO_PROCESS => {
                    crate::say("stopped; the same command goes on");
                    exit(1);
                }
                // A terminal has told it, too, for which it is the same signal.
                process => signals::terminate(process),
            }
        })?;
        Ok(interrupt)
    }

    /// Whether Ctrl-C was pressed in a training.
    fn came(&self) -> bool {
        self.came.load(Ordering::SeqCst)
    }

    /// Runs a training to its end.
    fn during(&self, command: &mut Command) -> io::Result<ExitStatus> {
        let mut child = command.spawn()?;
        self.training.store(child.id(), Ordering::SeqCst);
        let status = child.wait();
        self.training.store(NO_PROCESS, Ordering::SeqCst);
        status
    }
}
