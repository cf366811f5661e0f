//! `longlora bench memory`

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use longlora_adapters::AdapterConfig;
use longlora_llama::{Selection, WeightStorage};
use longlora_train::{MemoryPlan, Rehearsal, TrainingConfig};
use serde_json::json;

use crate::device::DeviceArgs;
use crate::model::{WeightKind, refuse_unsupported};
use crate::size::size;

use super::subject::ShapeArgs;
use super::window::WindowArgs;
use super::{Answer, mebibytes};

/// Rehearse training steps on a GPU, which compile and allocate all that `finetune` does by default and compute nothing: what
/// memory they take. Of the model its `config.json` is enough.
#[derive(clap::Args)]
pub(super) struct Memory {
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    window: WindowArgs,
    /// How the matrices of the model are kept
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    weights: WeightKind,
    /// Memory that a step may take; `1B` runs every block again [default: most of what the GPU has]
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    memory: Option<ByteSize>,
    /// Keep the inputs of blocks in the memory of the host
    #[arg(long)]
    offload_activations: bool,
}

impl Memory {
    pub(super) fn run(self) -> Result<Answer> {
        let device = self.device.open()?;
        let (pattern, config) = (self.window.pattern()?, self.shape.config()?);
        ensure!(
            config.experts.is_none(),
            "a mixture of experts cannot be rehearsed: which experts are asked depends on what is computed"
        );
        let weights: WeightStorage = self.weights.into();
        refuse_unsupported(weights, &device)?;
        let adapters = AdapterConfig::longlora();
        let llama = config.init(&device.clone().autodiff());
        let llama = llama.computing_in(weights.compute_on(&device)).attach(&adapters, 0);
        let rehearsal = Rehearsal {
            selection: &Selection::Adapter(adapters),
            weights,
            pattern,
            training: &self.training(),
            length: self.window.tokens,
        };
        let taken = rehearsal.run(llama)?;
        let (plan, held) = taken.with_context(|| {
            format!(
                "`{}` keeps no books of its memory; take a GPU, or measure with `bench step`",
                self.device
            )
        })?;
        Ok(self.answer(&plan, held))
    }

    /// `finetune`'s, but for what costs time and no memory.
    fn training(&self) -> TrainingConfig {
        TrainingConfig {
            accumulation: 2,
            parallel: 1,
            memory: self.memory,
            offload_activations: self.offload_activations,
            ..TrainingConfig::default()
        }
    }

    fn answer(&self, plan: &MemoryPlan, held: ByteSize) -> Answer {
        let [predicted, held] = [plan.predicted, held].map(|bytes| mebibytes(bytes.as_u64()));
        let (tokens, attention) = (self.window.tokens, self.window.name());
        let (kept, blocks) = (plan.execution.kept_blocks, plan.blocks);
        let weights = WeightStorage::from(self.weights).to_string();
        let ratio = held as f64 / predicted as f64;
        Answer {
            json: json!({
                "mode": "memory", "device": self.device.to_string(), "attention": attention, "weights": weights, "seq": tokens,
                "kept_blocks": kept, "blocks": blocks, "predicted_mib": predicted, "held_mib": held,
                "longlora": env!("CARGO_PKG_VERSION"),
            }),
            words: format!(
                "training steps of {tokens} tokens, {attention}, weights in {weights}, rehearsed: {held} MiB on {}, {ratio:.2} of {predicted} MiB \
                 predicted, {kept} of {blocks} blocks kept",
                self.device
            ),
        }
    }
}
