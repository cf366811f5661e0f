//! `longlora bench floor`

use std::fmt::Write;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use bytesize::ByteSize;
use longlora_attention::Layout;
use longlora_llama::{LlamaConfig, Selection};
use longlora_train::MemoryPlan;
use serde_json::{Value, json};

use crate::count::{any_number, at_least_one};
use crate::device::DeviceArgs;
use crate::size::size;

use super::gemm::square_rate;
use super::operations::{Request, Sizes, StepWork, pairs_of_blocks};
use super::step::{Steps, adapters, training};
use super::subject::Subject;
use super::window::WindowArgs;
use super::{Answer, threads};

/// What a training step has to compute, how long that takes at the rate of this machine, and how long a step takes.
#[derive(clap::Args)]
pub(super) struct Floor {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    window: WindowArgs,
    /// Memory that a step may take; it decides how much is computed twice [default: most of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    memory: Option<ByteSize>,
    /// Training steps to measure; 0 computes the floor alone
    #[arg(long, value_name = "STEPS", default_value_t = 1, value_parser = any_number::<u64>())]
    steps: u64,
    /// Times that the product is computed which gives the machine's rate; the fastest counts
    #[arg(long, value_name = "TIMES", default_value_t = 5, value_parser = at_least_one())]
    repeat: usize,
}

/// A floor, and what was measured over it.
struct Standing {
    work: StepWork,
    plan: MemoryPlan,
    /// Operations per second of the machine.
    rate: f64,
    /// Of a step, if any was taken.
    seconds: Option<f64>,
}

impl Floor {
    pub(super) fn run(self) -> Result<Answer> {
        let config = self.subject.config()?;
        ensure!(config.experts.is_none(), "the floor of a mixture of experts is not known");
        let device = self.device.open()?;
        let before = square_rate(self.repeat, &device)?;
        let (plan, seconds) = match self.steps {
            0 => (self.plan(&config, &device)?, None),
            steps => {
                let taken = Steps::take(&self.subject, &self.window, self.memory, steps, &device)?;
                (taken.plan, Some(taken.seconds().median()))
            }
        };
        // What disturbs one measurement makes the floor too high; the faster is nearer to the machine.
        let rate = before.max(square_rate(self.repeat, &device)?) * 1e9;
        let work = StepWork::of(&Sizes::of(&config), &self.request(&config, &plan)?);
        let standing = Standing { work, plan, rate, seconds };
        Ok(Answer { json: self.json(&standing), words: self.words(&standing) })
    }

    /// How much would be kept; no weight is drawn for it.
    fn plan(&self, config: &LlamaConfig, device: &Device) -> Result<MemoryPlan> {
        let weights = self.subject.weights(device)?;
        let llama = config.init(device).computing_in(weights.compute_on(device));
        let (llama, training) = (llama.attach(&adapters(), 0), training(self.memory, 1));
        let selection = Selection::Adapter(adapters());
        Ok(MemoryPlan::kept_as(weights, &llama, &selection, &training, self.window.tokens))
    }

    fn request(&self, config: &LlamaConfig, plan: &MemoryPlan) -> Result<Request> {
        let attention = self.window.pattern()?.plan(&Layout::dense(1, self.window.tokens));
        Ok(Request {
            tokens: self.window.tokens as u64,
            pairs: pairs_of_blocks(&attention, &config.windows, config.num_attention_heads),
            rank: adapters().lora.map_or(0, |lora| lora.rank as u64),
            rerun_blocks: plan.blocks - plan.execution.kept_blocks,
        })
    }

    fn json(&self, standing: &Standing) -> Value {
        let parts: Vec<Value> = standing
            .work
            .parts()
            .into_iter()
            .map(|(part, work)| json!({ "part": part, "flop": work.flop, "bytes": work.bytes }))
            .collect();
        let Standing { work, plan, rate, seconds } = standing;
        json!({
            "mode": "floor", "device": self.device.to_string(), "attention": self.window.name(),
            "weights": self.subject.weights_name(), "seq": self.window.tokens,
            "group": self.window.group(), "kept_blocks": plan.execution.kept_blocks,
            "blocks": plan.blocks, "gflop_per_s": rate / 1e9, "parts": parts,
            "flop": work.total().flop, "bytes": work.total().bytes,
            "flop_without_recomputation": work.without_recomputation().flop,
            "floor_seconds": standing.floor_seconds(), "step_seconds": seconds,
            "step_over_floor": standing.ratio(), "share_of_gemm_rate": standing.share(),
            "share_without_recomputation": standing.share_without_recomputation(),
            "threads": threads(), "longlora": env!("CARGO_PKG_VERSION"),
        })
    }

    fn words(&self, standing: &Standing) -> String {
        let group = self.window.group();
        let attention =
            group.map_or("full attention".to_owned(), |group| format!("groups of {group}"));
        let execution = standing.plan.execution;
        let head = format!(
            "one training step of {} tokens, {attention}, weights in {}, {} of {} blocks kept, at {:.1} GFLOP/s",
            self.window.tokens,
            self.subject.weights_name(),
            execution.kept_blocks,
            standing.plan.blocks,
            standing.rate / 1e9,
        );
        format!("{head}\n\n{}{}", standing.table(), standing.sentence())
    }
}

impl Standing {
    /// Seconds that the operations take at the machine's rate.
    fn floor_seconds(&self) -> f64 {
        self.work.total().flop as f64 / self.rate
    }

    /// How many times the floor a step takes.
    fn ratio(&self) -> Option<f64> {
        self.seconds.map(|seconds| seconds / self.floor_seconds())
    }

    /// The rate over the whole step, as a share of the machine's.
    fn share(&self) -> Option<f64> {
        self.ratio().map(f64::recip)
    }

    /// The same, where only what has to be computed once counts.
    fn share_without_recomputation(&self) -> Option<f64> {
        let once = self.work.without_recomputation().flop as f64 / self.rate;
        self.seconds.map(|seconds| once / seconds)
    }

    fn table(&self) -> String {
        let total = self.work.total();
        let mut table =
            format!("{:<18}{:>10}{:>9}{:>10}{:>9}\n", "part", "GFLOP", "GB", "seconds", "share");
        for (part, work) in self.work.parts().into_iter().chain([("all", total)]) {
            let (flop, bytes) = (work.flop as f64, work.bytes as f64);
            let share = 100.0 * flop / total.flop.max(1) as f64;
            // Writing into a string does not fail.
            let _ = writeln!(
                table,
                "{part:<18}{:>10.1}{:>9.2}{:>10.2}{share:>7.1} %",
                flop / 1e9,
                bytes / 1e9,
                flop / self.rate,
            );
        }
        table
    }

    fn sentence(&self) -> String {
        let Some((seconds, ratio)) = self.seconds.zip(self.ratio()) else {
            return format!("\nthe floor is {:.2} s; no step was measured", self.floor_seconds());
        };
        let percent = |share: Option<f64>| 100.0 * share.unwrap_or_default();
        format!(
            "\na step takes {seconds:.2} s, {ratio:.2} times the floor: {:.1} % of the rate, {:.1} % without what is \
             computed twice",
            percent(self.share()),
            percent(self.share_without_recomputation()),
        )
    }
}
