//! Attention alone on the default device (`BURN_DEVICE`), forward and backward, full and shifted: one line of JSON each.
//!
//! ```text
//! BURN_DEVICE=cuda cargo bench -p longlora-attention --features cuda -- 32/32 bf16 128 2048,8192,32768,131072 5
//! ```
//!
//! Heads and kv heads, type, head_dim, tokens, times each is measured (the median counts). `benches/gpu_peer.py` prints the
//! same of PyTorch. Rates count what a causal score needs: 4 · head_dim operations forward and 10 · head_dim backward.

#![expect(clippy::print_stdout, reason = "lines of JSON are the result")]

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use longlora_attention::{AttentionPattern, Layout, Segments, attention};

struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tokens: usize,
    dtype: DType,
    repeat: usize,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let word = |at: usize, default: &str| words.get(at).map_or(default.to_owned(), Clone::clone);
    let number = |word: &str| word.parse::<usize>().expect("a number is needed here");
    let heads: Vec<usize> = word(0, "9/3").split('/').map(number).collect();
    let dtype = match word(1, "f32").as_str() {
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        _ => DType::F32,
    };
    let tokens = word(3, "1024");
    for tokens in tokens.split(',').map(number) {
        let case = Case {
            heads: heads[0],
            kv_heads: heads[1],
            head_dim: number(&word(2, "64")),
            tokens,
            dtype,
            repeat: number(&word(4, "3")),
        };
        for (name, pattern) in
            [("full", AttentionPattern::Full), ("s2", AttentionPattern::LONGLORA)]
        {
            case.measure(name, pattern);
        }
    }
}

impl Case {
    fn measure(&self, name: &str, pattern: AttentionPattern) {
        let device = Device::default();
        let plan = pattern.plan(&Layout::dense(1, self.tokens));
        let [q, k, v, d_out] =
            [self.heads, self.kv_heads, self.kv_heads, self.heads].map(|heads| {
                let shape = [1, heads, self.tokens, self.head_dim];
                Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device).cast(self.dtype)
            });
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let forward = self.seconds(&device, || {
            drop(attention(q.clone(), k.clone(), v.clone(), plan.layer(0), scale));
        });
        let [q, k, v] = [q, k, v].map(|x| x.autodiff().require_grad());
        let d_out = d_out.autodiff();
        let both = self.seconds(&device, || {
            let out = attention(q.clone(), k.clone(), v.clone(), plan.layer(0), scale);
            drop((out * d_out.clone()).sum().backward());
        });
        let pairs = pairs(plan.layer(0), self.heads);
        let rate = |per_pair: usize, seconds: f64| {
            (per_pair * self.head_dim) as f64 * pairs / seconds / 1e12
        };
        println!(
            r#"{{"attention":"{name}","tokens":{},"heads":{},"kv_heads":{},"head_dim":{},"dtype":"{:?}","forward_s":{forward:.6},"forward_and_backward_s":{both:.6},"forward_tflop_per_s":{:.2},"backward_tflop_per_s":{:.2}}}"#,
            self.tokens,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.dtype,
            rate(4, forward),
            rate(10, both - forward),
        );
    }

    fn seconds(&self, device: &Device, run: impl Fn()) -> f64 {
        let once = || {
            device.sync().expect("the device answers");
            let begin = Instant::now();
            run();
            device.sync().expect("the device answers");
            begin.elapsed().as_secs_f64()
        };
        once();
        once();
        let mut seconds: Vec<f64> = (0..self.repeat).map(|_| once()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[self.repeat / 2]
    }
}

/// Pairs of a query and a key that it sees.
fn pairs(segments: &Arc<Segments>, heads: usize) -> f64 {
    let of_head = |head| {
        segments.spans(0, head, heads).iter().map(|span| {
            let len = span.len() as f64;
            len * (len + 1.0) / 2.0
        })
    };
    (0..heads).flat_map(of_head).sum()
}
