//! `longlora bench`: what this machine does with a model, in seconds, bytes and operations.
//!
//! `cargo xtask bench` runs these, each in a process of its own, and compares them with PyTorch.

mod attention;
mod floor;
mod forward;
mod gemm;
mod memory;
mod model;
mod operations;
mod seconds;
mod step;
mod subject;
mod window;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use crate::print;

/// Measure this machine: products, attention, a training step, a perplexity forward, and the floor of a step.
///
/// Without --model, the weights are random, in the shape of SmolLM2-135M.
#[derive(clap::Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    kind: Kind,
    /// Print one line of JSON instead of words
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Kind {
    Gemm(gemm::Gemm),
    Attention(attention::Attention),
    Step(step::Step),
    Forward(forward::Forward),
    Memory(memory::Memory),
    Floor(floor::Floor),
    Model(model::Model),
}

/// What was measured: for a program, and for a person.
struct Answer {
    json: Value,
    words: String,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let answer = match self.kind {
            Kind::Gemm(kind) => kind.run()?,
            Kind::Attention(kind) => kind.run()?,
            Kind::Step(kind) => kind.run()?,
            Kind::Forward(kind) => kind.run()?,
            Kind::Memory(kind) => kind.run()?,
            Kind::Floor(kind) => kind.run()?,
            Kind::Model(kind) => kind.run()?,
        };
        if self.json {
            print(&answer.json.to_string());
        } else {
            print(&answer.words);
        }
        Ok(())
    }
}

/// Cores that the work is split over.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
