//! Attaches LoRA and its company to a tiny random LLaMA, takes one training step, and merges the updates into the
//! weights: the merged model computes what the adapted one does, but for rounding.
//! `cargo run --release -p longlora-examples --example attach_and_merge`
//!
//! ```text
//! LoRA                     3,584   11.605 %
//! RoPE offsets                 4    0.013 %
//! norms                      160    0.518 %
//! embeddings               2,048    6.631 %
//! trained                  5,796   18.767 %
//! frozen                  25,088   81.233 %
//!
//! one step: loss 4.1339 -> 4.1333
//! adapted and base:   logits at most 9.5e-4 apart
//! adapted and merged: logits at most 8.9e-8 apart
//! ```

#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::Device;
use longlora_adapters::{AdapterConfig, Dropout, RopeGranularity, RopeOffsetConfig};
use longlora_attention::{AttentionPattern, Layout};
use longlora_data::{TokenBatch, Window};
use longlora_llama::{Llama, LlamaConfig, Selection, count_trainable};
use longlora_train::{Optimizer, StepBatch, TrainingConfig, reference};
use serde_json::json;

fn main() -> Result<()> {
    let device = Device::default().autodiff();
    device.seed(0);
    let base = config()?.init(&device);
    let adapters = AdapterConfig {
        rope_offset: Some(RopeOffsetConfig::new(RopeGranularity::Head)),
        ..AdapterConfig::longlora()
    };
    let llama = base.clone().attach(&adapters, 0);
    println!("{}\n", count_trainable(&llama, &Selection::Adapter(adapters)));

    let tokens: Vec<u32> = (0..32).map(|i| (7 * i + i * i) % 64).collect();
    let batch = TokenBatch::from_windows(&[Window::new(tokens, vec![0])], 0);
    let mut optimizer =
        Optimizer::new(&TrainingConfig { warmup_steps: 0, ..TrainingConfig::default() }, 0);
    let step = StepBatch { micro_batches: vec![batch.clone()], dropout: Dropout::new(0) };
    let (gradients, before) = reference::gradients(&llama, AttentionPattern::LONGLORA, &step);
    let adapted = optimizer.adam_w.step(optimizer.rates.step(), llama, gradients);
    let (_, after) = reference::gradients(&adapted, AttentionPattern::LONGLORA, &step);
    println!("one step: loss {:.4} -> {:.4}", before.loss(), after.loss());

    let ours = logits(&adapted, &batch);
    let merged = logits(&adapted.merge(), &batch);
    println!(
        "adapted and base:   logits at most {:.1e} apart",
        distance(&ours, &logits(&base, &batch))
    );
    println!("adapted and merged: logits at most {:.1e} apart", distance(&ours, &merged));
    Ok(())
}

/// A model of two blocks, described as Hugging Face does.
fn config() -> Result<LlamaConfig> {
    let config = json!({
        "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 88,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 32
    });
    let config = config.as_object().context("the literal is an object")?;
    Ok(LlamaConfig::from_hugging_face(config.clone(), Path::new("config.json"))?)
}

/// The logits of a batch under full attention, off the autodiff device.
fn logits(llama: &Llama, batch: &TokenBatch) -> Vec<f32> {
    let llama = llama.valid();
    let pass = llama.pass(AttentionPattern::Full, &Layout::dense(batch.batch, batch.seq));
    llama.logits(batch.inputs(&llama.device()), &pass).into_data().iter().collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}
