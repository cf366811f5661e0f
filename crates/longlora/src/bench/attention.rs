//! `longlora bench attention`

use std::sync::Arc;

use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};
use longlora_attention::{AttentionPattern, Layout, Segments, attention};
use longlora_llama::LlamaConfig;
use longlora_train::peak_memory_bytes;
use serde_json::json;

use crate::count::{at_least_one, tokens};
use crate::device::DeviceArgs;

use super::operations::{attention_flop, visible_pairs};
use super::seconds::Seconds;
use super::subject::ShapeArgs;
use super::window::shifted;
use super::{Answer, mebibytes, threads};

/// Attention alone, forward and backward, on random queries, keys and values of one block.
#[derive(clap::Args)]
pub(super) struct Attention {
    #[command(flatten)]
    model: ShapeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tokens of the window
    #[arg(long, value_name = "TOKENS", value_parser = tokens())]
    tokens: usize,
    /// Every token sees all earlier ones (the default)
    #[arg(long, conflicts_with = "group")]
    full: bool,
    /// Shifted sparse attention in groups of so many tokens
    #[arg(long, value_name = "TOKENS")]
    group: Option<usize>,
    /// Times that it is computed; the median counts
    #[arg(long, value_name = "TIMES", default_value_t = 3, value_parser = at_least_one())]
    repeat: usize,
}

impl Attention {
    pub(super) fn run(self) -> Result<Answer> {
        let config = self.model.config()?;
        let pattern = self.group.map_or(AttentionPattern::Full, shifted);
        pattern.validate(self.tokens)?;
        let plan = pattern.plan(&Layout::dense(1, self.tokens));
        let segments = plan.layer(0);
        let device = self.device.open()?;
        let problem = Problem::random(&config, self.tokens, &device);
        let seconds = Seconds::of(self.repeat, &device, || problem.run(segments))?;
        let pairs = visible_pairs(segments, config.num_attention_heads);
        let [forward, backward] = attention_flop(pairs, config.rope.head_dim as u64);
        let rate = (forward + backward) as f64 / seconds.median() / 1e9;
        Ok(self.answer(&config, &seconds, rate))
    }

    fn answer(&self, config: &LlamaConfig, seconds: &Seconds, rate: f64) -> Answer {
        let (tokens, median) = (self.tokens, seconds.median());
        let tokens_per_s = tokens as f64 / median;
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let kind = self.group.map_or("full".to_owned(), |group| format!("groups of {group}"));
        Answer {
            json: json!({
                "mode": "attention", "device": self.device.to_string(), "attention": if self.group.is_some() { "s2" } else { "full" },
                "seq": tokens, "group": self.group, "heads": heads, "kv_heads": kv_heads,
                "head_dim": config.rope.head_dim, "seconds": seconds.rounded(),
                "tokens_per_s": tokens_per_s, "gflop_per_s": rate,
                "peak_rss_mib": peak_memory_bytes().map(mebibytes), "threads": threads(),
                "longlora": env!("CARGO_PKG_VERSION"),
            }),
            words: format!(
                "attention of {heads}/{kv_heads} heads over {tokens} tokens, {kind}, forward and backward: {median:.3} s, \
                 {rate:.1} GFLOP/s"
            ),
        }
    }
}

/// Queries, keys and values of one block, and where its output pulls.
struct Problem {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    d_out: Tensor<4>,
    softmax_scale: f32,
}

impl Problem {
    fn random(config: &LlamaConfig, seq: usize, device: &Device) -> Self {
        let device = device.clone().autodiff();
        device.seed(0);
        let random = |heads| {
            let shape = [1, heads, seq, config.rope.head_dim];
            Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        Self {
            q: random(heads).require_grad(),
            k: random(kv_heads).require_grad(),
            v: random(kv_heads).require_grad(),
            d_out: random(heads),
            softmax_scale: config.softmax_scale(),
        }
    }

    fn run(&self, segments: &Arc<Segments>) {
        let Self { q, k, v, d_out, softmax_scale } = self;
        let out = attention(q.clone(), k.clone(), v.clone(), segments, *softmax_scale);
        drop((out * d_out.clone()).sum().backward());
    }
}
