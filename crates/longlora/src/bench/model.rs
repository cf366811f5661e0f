//! `longlora bench model`

use std::path::PathBuf;

use anyhow::Result;
use burn::tensor::{DType, Device};
use longlora_llama::{MAX_SHARD_BYTES, save_pretrained};
use serde_json::json;

use super::Answer;
use super::subject::smollm2;

/// Write a model of SmolLM2-135M's shape with random weights, to measure with.
#[derive(clap::Args)]
pub(super) struct Model {
    /// Where the model goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The random weights follow from it
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
}

impl Model {
    pub(super) fn run(self) -> Result<Answer> {
        // On the processor, whose draws follow from the seed on every machine.
        let device = Device::flex();
        device.seed(self.seed);
        save_pretrained(&smollm2()?.init(&device), &self.out, DType::F32, MAX_SHARD_BYTES)?;
        let out = self.out.display();
        Ok(Answer {
            json: json!({ "mode": "model", "out": out.to_string() }),
            words: format!("the model is in {out}"),
        })
    }
}
