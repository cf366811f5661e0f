//! `longlora pretrain`

use std::path::PathBuf;

use anyhow::{Result, bail};
use longlora_train::{Event, Outcome, PretrainConfig, RunFolder, pretrain};

use crate::device::DeviceArgs;
use crate::progress::{CtrlC, Progress};
use crate::{Stopped, say};

/// Make a small LLaMA from nothing: tokenizer, architecture and weights, from plain text.
///
/// This is how the embedded model was made. Ctrl-C finishes the step and saves; the same command goes on.
#[derive(clap::Args)]
pub(crate) struct Pretrain {
    /// Sizes and training, as a TOML file
    config: PathBuf,
    /// Text to learn from, instead of the file's: a file or a folder
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Where the model goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where checkpoints and metrics go; an existing one is resumed
    #[arg(long, value_name = "DIR", default_value = "runs/pretrain")]
    run: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Pretrain {
    pub(crate) fn run(self) -> Result<()> {
        let mut config = PretrainConfig::read(&self.config)?;
        if let Some(data) = self.data {
            config.data = data;
        }
        if self.out.exists() {
            bail!("`{}` exists already; choose another place with --out", self.out.display());
        }
        let device = self.device.open()?;
        let (run, is_new) = match RunFolder::open(&self.run) {
            Ok(run) => (run, false),
            Err(_) => (RunFolder::create(&self.run)?, true),
        };
        let stop = CtrlC::listen()?.stop;
        let mut progress = Progress::new();
        let mut report = |event: Event<'_>| progress.event(event);
        let outcome = pretrain(&config, &run, &self.out, &device, &stop, &mut report);
        progress.finish();
        if is_new && outcome.is_err() {
            run.discard_unless_begun()?;
        }
        let outcome = outcome?;
        if let Outcome::Stopped { step } = outcome {
            return Err(
                Stopped(format!("stopped after step {step}; the same command goes on")).into()
            );
        }
        say(&format!("the model is in {}", self.out.display()));
        Ok(())
    }
}
