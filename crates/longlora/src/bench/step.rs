//! `longlora bench step`

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use bytesize::ByteSize;
use longlora_adapters::{AdapterConfig, LoraConfig};
use longlora_attention::AttentionPattern;
use longlora_train::{
    Event, FinetuneConfig, HeldOut, LearningRates, MemoryPlan, RunFolder, StepReport, Stop,
    TrainingConfig, WindowOrder, finetune,
};
use serde_json::json;

use crate::count::any_number;
use crate::device::DeviceArgs;
use crate::size::size;

use super::seconds::{Seconds, warm_up};
use super::subject::Subject;
use super::window::WindowArgs;
use super::{Answer, mebibytes, threads};

/// Training steps as `finetune` takes them: LoRA of rank 8 on q, k, v and o, AdamW, one window per step.
#[derive(clap::Args)]
pub(super) struct Step {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    window: WindowArgs,
    /// Memory that a step may take; `1B` runs every block again [default: most of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    memory: Option<ByteSize>,
    /// Steps to take, all on the same window; the median counts
    #[arg(long, value_name = "STEPS", default_value_t = 3, value_parser = any_number::<u64>())]
    steps: u64,
}

/// Steps that were taken.
pub(super) struct Steps {
    pub(super) plan: MemoryPlan,
    pub(super) reports: Vec<StepReport>,
}

impl Step {
    pub(super) fn run(self) -> Result<Answer> {
        let device = self.device.open()?;
        let steps = Steps::take(&self.subject, &self.window, self.memory, self.steps, &device)?;
        Ok(self.answer(&steps))
    }

    fn answer(&self, steps: &Steps) -> Answer {
        let Steps { plan, reports } = steps;
        let (tokens, seconds) = (self.window.tokens, steps.seconds());
        let median = seconds.median();
        let tokens_per_s = tokens as f64 / median;
        let losses: Vec<f64> = reports.iter().map(|report| report.loss).collect();
        let (kept, blocks) = (plan.execution.kept_blocks, plan.blocks);
        let [peak, predicted] = [steps.peak_memory(), plan.predicted.as_u64()].map(mebibytes);
        let held = steps.device_memory().map(mebibytes);
        let (what, most) = held.map_or(("peak", peak), |held| ("on the device", held));
        let group = self.window.group();
        Answer {
            json: json!({
                "mode": "train", "device": self.device.to_string(), "attention": self.window.name(), "weights": self.subject.weights_name(), "seq": tokens, "group": group,
                "budget_mib": plan.budget.map(|budget| mebibytes(budget.as_u64())), "kept_blocks": kept,
                "blocks": blocks, "seconds": seconds.rounded(), "tokens_per_s": tokens_per_s,
                "peak_rss_mib": peak, "held_mib": held, "predicted_mib": predicted, "losses": losses,
                "threads": threads(), "longlora": env!("CARGO_PKG_VERSION"),
            }),
            words: format!(
                "a training step of {tokens} tokens, {}, weights in {}: {median:.2} s, {tokens_per_s:.1} tokens/s, {what} {most} MiB of \
                 {predicted} MiB predicted, {kept} of {blocks} blocks kept, losses {losses:.4?}",
                group.map_or("full attention".to_owned(), |group| format!("groups of {group}")),
                self.subject.weights_name(),
            ),
        }
    }
}

impl Steps {
    /// The whole of a run, in a folder that is gone afterwards: what is timed is what users run, but for the steps before
    /// which a GPU has compiled its kernels.
    pub(super) fn take(
        subject: &Subject,
        window: &WindowArgs,
        memory: Option<ByteSize>,
        steps: u64,
        device: &Device,
    ) -> Result<Self> {
        let (pattern, model) = (window.pattern()?, subject.folder()?);
        let place = tempfile::tempdir().context("cannot create a folder for the run")?;
        let data = place.path().join("ids.json");
        let ids = subject.tokens(&model, window.tokens)?;
        std::fs::write(&data, serde_json::to_string(&ids)?)
            .with_context(|| format!("cannot write `{}`", data.display()))?;
        let warm_up = warm_up(device);
        let training = training(memory, steps + warm_up as u64);
        let mut config = config(model.path(), &data, window.tokens, pattern, training);
        config.model.weights = subject.weights(device)?;
        let run = RunFolder::create(&place.path().join("run"))?;
        let (mut plan, mut reports) = (None, vec![]);
        finetune(&config, &run, device, &Stop::default(), &mut |event| match event {
            Event::Resumed { .. } | Event::Reading(_) => {}
            Event::Planned(planned) => plan = Some(*planned),
            Event::Stepped(step) => reports.push(step.clone()),
        })?;
        reports.drain(..warm_up);
        Ok(Self { plan: plan.context("a run tells its plan before its first step")?, reports })
    }

    pub(super) fn seconds(&self) -> Seconds {
        Seconds(self.reports.iter().map(|report| report.step_time_ms / 1000.0).collect())
    }

    /// What the allocator of a GPU held, in bytes.
    fn device_memory(&self) -> Option<u64> {
        self.reports.iter().filter_map(|report| report.device_memory_bytes).max()
    }

    /// In bytes; 0 where the system does not tell.
    fn peak_memory(&self) -> u64 {
        self.reports.iter().filter_map(|report| report.peak_memory_bytes).max().unwrap_or_default()
    }
}

/// LoRA alone, of rank 8 with alpha 16, on q, k, v and o.
pub(super) fn adapters() -> AdapterConfig {
    AdapterConfig {
        lora: Some(LoraConfig::default()),
        norms: false,
        embeddings: false,
        head: false,
        rope_offset: None,
    }
}

/// The numbers of the peer in PyTorch, `benches/peer_bench.py`.
pub(super) fn training(memory: Option<ByteSize>, steps: u64) -> TrainingConfig {
    let defaults = TrainingConfig::default();
    TrainingConfig {
        steps,
        accumulation: 1,
        memory,
        learning_rates: LearningRates { lora: 2e-4, ..defaults.learning_rates },
        warmup_steps: 0,
        max_grad_norm: 0.0,
        save_every: 0,
        ..defaults
    }
}

fn config(
    model: &Path,
    data: &Path,
    tokens: usize,
    attention: AttentionPattern,
    training: TrainingConfig,
) -> FinetuneConfig {
    let mut config = FinetuneConfig::longlora(model.to_owned(), data.to_owned(), tokens);
    config.data.order = WindowOrder::Sequential;
    config.data.held_out = HeldOut::Fraction(0.0);
    FinetuneConfig { attention, adapters: Some(adapters()), training, ..config }
}
