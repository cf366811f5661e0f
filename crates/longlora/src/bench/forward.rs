//! `longlora bench forward`

use anyhow::Result;
use longlora_attention::AttentionPattern;
use longlora_eval::{PerplexityConfig, Protocol, perplexity};
use longlora_llama::load_pretrained_as;
use longlora_train::peak_memory_bytes;
use serde_json::json;

use crate::count::{at_least_one, tokens};
use crate::device::DeviceArgs;

use super::seconds::Seconds;
use super::subject::Subject;
use super::{Answer, mebibytes, threads};

/// The forward of a perplexity: negative log-likelihoods of one window, full attention.
#[derive(clap::Args)]
pub(super) struct Forward {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    device: DeviceArgs,
    /// Tokens of the window
    #[arg(long, value_name = "TOKENS", value_parser = tokens())]
    tokens: usize,
    /// Times that it is computed; the median counts
    #[arg(long, value_name = "TIMES", default_value_t = 3, value_parser = at_least_one())]
    repeat: usize,
}

impl Forward {
    pub(super) fn run(self) -> Result<Answer> {
        let device = self.device.open()?;
        let folder = self.subject.folder()?;
        let document = [self.subject.tokens(&folder, self.tokens)?];
        let llama = load_pretrained_as(folder.path(), self.subject.weights(&device)?, &device)?;
        let config = PerplexityConfig {
            length: self.tokens,
            protocol: Protocol::WholeWindows { stride: None },
            pattern: AttentionPattern::Full,
            max_tokens: None,
        };
        let mut measured = vec![];
        let seconds = Seconds::of(self.repeat, &device, || {
            measured.push(perplexity(&llama, &document, &config, &mut |_, _| {}));
        })?;
        let losses = measured.into_iter().map(|measured| Ok(measured?.nll()));
        let losses: Vec<f64> = losses.collect::<Result<_>>()?;
        Ok(self.answer(&seconds, &losses))
    }

    fn answer(&self, seconds: &Seconds, losses: &[f64]) -> Answer {
        let (tokens, median) = (self.tokens, seconds.median());
        let tokens_per_s = tokens as f64 / median;
        let peak = peak_memory_bytes().map(mebibytes);
        Answer {
            json: json!({
                "mode": "eval", "device": self.device.to_string(), "attention": "full", "weights": self.subject.weights_name(), "seq": tokens, "seconds": seconds.rounded(),
                "tokens_per_s": tokens_per_s, "peak_rss_mib": peak, "losses": losses,
                "threads": threads(), "longlora": env!("CARGO_PKG_VERSION"),
            }),
            words: format!(
                "perplexity forward of {tokens} tokens, full attention, weights in {}: {median:.2} s, {tokens_per_s:.1} tokens/s, peak \
                 {} MiB, {:.4} nats per token",
                self.subject.weights_name(),
                peak.unwrap_or_default(),
                losses[0],
            ),
        }
    }
}
