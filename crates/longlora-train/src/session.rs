//! The loop over the steps.

use std::time::{Duration, Instant};

use burn::module::Module;
use longlora_adapters::Dropout;
use longlora_data::BatchStream;
use longlora_llama::{Llama, Selection};

use crate::batch::StepBatch;
use crate::checkpoint::Checkpoint;
use crate::config::TrainingConfig;
use crate::error::TrainError;
use crate::event::Event;
use crate::memory::{device_memory_held, peak_memory_bytes};
use crate::optimizer::Optimizer;
use crate::run_folder::RunFolder;
use crate::step_report::StepReport;
use crate::stop::Stop;
use crate::trainee::Trainee;

/// Time without a checkpoint, unless none but the last one is asked for.
const AT_LATEST: Duration = Duration::from_secs(600);

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All steps were taken; the model, off the autodiff device.
    Finished(Box<Llama>),
    /// It was asked to stop, and saved after this step.
    Stopped {
        /// Steps taken.
        step: u64,
    },
}

/// A run in the middle of its steps.
pub(crate) struct Session<'a> {
    pub(crate) run: &'a RunFolder,
    pub(crate) config: &'a TrainingConfig,
    pub(crate) seed: u64,
    pub(crate) selection: Selection,
    pub(crate) stream: BatchStream,
    pub(crate) at: Checkpoint,
    pub(crate) trainee: Trainee,
    pub(crate) optimizer: Optimizer,
}

impl Session<'_> {
    /// Takes the remaining steps; saves on the way, at the end, and when asked to stop.
    pub(crate) fn run(
        mut self,
        stop: &Stop,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome, TrainError> {
        let mut metrics = self.run.metrics_after(self.at.step)?;
        let mut saved = Instant::now();
        while self.at.step < self.config.steps {
            let step = self.step()?;
            metrics.append(&step)?;
            report(Event::Stepped(&step));
            let every = self.config.save_every;
            let last = self.at.step == self.config.steps;
            let stopping = stop.requested() && !last;
            let due = self.at.step.is_multiple_of(every) || saved.elapsed() >= AT_LATEST;
            if last || stopping || (every > 0 && due) {
                metrics.sync()?;
                self.save()?;
                saved = Instant::now();
            }
            if stopping {
                return Ok(Outcome::Stopped { step: self.at.step });
            }
        }
        Ok(Outcome::Finished(Box::new(self.trainee.llama.valid())))
    }

    fn step(&mut self) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        let number = self.at.step + 1;
        let batch = StepBatch {
            micro_batches: self.stream.step(self.at.step),
            dropout: Dropout::new(self.seed).part(number),
        };
        if batch.num_targets() == 0 {
            return Err(TrainError::NoTargets { step: number });
        }
        let tokens = batch.tokens();
        let (grads, output) = self.trainee.gradients(&batch);
        let max_norm = self.trainee.max_grad_norm.unwrap_or(f64::INFINITY);
        let (grads, grad_norm) = grads.clipped(&self.trainee.llama, max_norm);
        let loss = output.loss();
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { step: number, loss });
        }
        if !grad_norm.is_finite() {
            return Err(TrainError::GradientNotFinite { step: number, grad_norm });
        }
        let rates = self.optimizer.rates.step();
        let learning_rate = rates.base();
        self.trainee = self.optimizer.step(rates, self.trainee.clone(), grads);
        self.at = Checkpoint { step: number, tokens: self.at.tokens + tokens as u64 };
        Ok(StepReport {
            step: number,
            steps: self.config.steps,
            loss,
            grad_norm,
            learning_rate,
            tokens,
            step_time_ms: start.elapsed().as_secs_f64() * 1000.0,
            peak_memory_bytes: peak_memory_bytes(),
            device_memory_bytes: device_memory_held(&self.trainee.llama.device()),
        })
    }

    fn save(&self) -> Result<(), TrainError> {
        let checkpoints = self.run.checkpoints();
        self.at.save(&checkpoints, &self.trainee.llama, &self.selection, &self.optimizer)?;
        Checkpoint::prune(&checkpoints, self.config.keep_checkpoints)
    }
}
