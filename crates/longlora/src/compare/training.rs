//! Training one method, in a process of its own: its peak memory is then its own, and what was begun is gone on with.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use longlora_llama::write_atomically;
use longlora_train::{FinetuneConfig, HeldOut, RunFolder};
use serde::{Deserialize, Serialize};

use super::data::{Text, sha256};
use super::method::Method;

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
    pub(super) interrupt: Interrupt,
}

impl Workshop {
    /// Trains, or goes on with what was begun, or takes what is finished. A run's name holds a hash of its settings and its
    /// text: other ones are another run.
    pub(super) fn train(
        &self,
        method: &Method,
        mut config: FinetuneConfig,
        text: &Text,
    ) -> Result<Trained> {
        config.data.path.clone_from(&text.train);
        config.data.held_out = HeldOut::Fraction(0.0);
        let toml = config.to_toml();
        let hash = sha256(format!("{toml}\n{}", text.train_sha256).as_bytes());
        let name = format!("{}-seed{}-{}", method.name, config.seed, &hash[..8]);
        let (file, run) = (self.file(&name), self.folder.join("runs").join(&name));
        if !is_finished(&run, &config) {
            crate::say(&format!("training {} with seed {}", method.title, config.seed));
            write_atomically(&file, toml.as_bytes())?;
            self.finetune(&file, &run)?;
        }
        ensure!(
            is_finished(&run, &config),
            "training was stopped; the same command goes on with it in `{}`",
            run.display()
        );
        let run = RunFolder::open(&run)?;
        let cost = Cost::read(&run)?;
        Ok(Trained { config, run, cost })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join("configs").join(format!("{name}.toml"))
    }

    fn finetune(&self, config: &Path, run: &Path) -> Result<()> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.arg("finetune").args(["--device", &self.device]);
        if run.join("config.toml").exists() {
            command.arg("--resume").arg(run);
        } else {
            command.arg("--config").arg(config).arg("--out").arg(run);
        }
        let status = self.interrupt.during(|| command.status()).context("cannot start training")?;
        if !status.success() {
            bail!("training by `{}` failed; what it said stands above", config.display());
        }
        Ok(())
    }
}

fn is_finished(run: &Path, config: &FinetuneConfig) -> bool {
    let Ok(run) = RunFolder::open(run) else { return false };
    let result = match config.adapters {
        Some(_) => run.adapter().join("longlora.json"),
        None => run.model().join("config.json"),
    };
    result.exists()
}

impl Cost {
    fn read(run: &RunFolder) -> Result<Self> {
        let steps = run.metrics()?;
        Ok(Self {
            seconds: steps.iter().map(|step| step.step_time_ms / 1000.0).sum(),
            peak_memory_bytes: steps.iter().filter_map(|step| step.peak_memory_bytes).max(),
            losses: steps.iter().map(|step| step.loss).collect(),
        })
    }
}

/// Ctrl-C is the training's while one runs: it finishes its step and saves. At any other time it ends the program: what
/// was measured is on the disk.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    training: Arc<AtomicBool>,
}

impl Interrupt {
    pub(super) fn listen() -> Result<Self> {
        let interrupt = Self::default();
        let handler = interrupt.clone();
        ctrlc::set_handler(move || {
            if !handler.training.load(Ordering::SeqCst) {
                crate::say("stopped; the same command goes on");
                exit(1);
            }
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(interrupt)
    }

    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.training.store(true, Ordering::SeqCst);
        let done = work();
        self.training.store(false, Ordering::SeqCst);
        done
    }
}
