//! `longlora bench gemm`

use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};
use longlora_kernels::linear;
use longlora_llama::LlamaConfig;
use serde_json::{Value, json};

use crate::count::at_least_one;
use crate::device::DeviceArgs;

use super::seconds::Seconds;
use super::subject::ShapeArgs;
use super::{Answer, threads};

/// Side of the square product that stands for the machine.
const SIDE: usize = 2048;
/// Rows of the model's own products.
const ROWS: usize = 2048;

/// The rate of matrix products in f32 on all cores: square ones, and those of the model at 2,048 tokens.
#[derive(clap::Args)]
pub(super) struct Gemm {
    #[command(flatten)]
    model: ShapeArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Times that each product is computed; the fastest counts
    #[arg(long, value_name = "TIMES", default_value_t = 5, value_parser = at_least_one())]
    repeat: usize,
}

/// A product of the model, and its rates in GFLOP/s.
struct Rates {
    name: &'static str,
    shape: [usize; 2],
    /// `x·W`
    forward: f64,
    /// `d_out·Wᵀ`, the gradient by the input: the same matrix, read the other way.
    d_input: f64,
}

impl Gemm {
    pub(super) fn run(self) -> Result<Answer> {
        let config = self.model.config()?;
        let device = self.device.open()?;
        let square = square_rate(self.repeat, &device)?;
        let rates = shapes(&config).into_iter();
        let rates = rates.map(|(name, shape)| rates_of(name, shape, self.repeat, &device));
        Ok(self.answer(square, &rates.collect::<Result<Vec<_>>>()?))
    }

    fn answer(&self, square: f64, rates: &[Rates]) -> Answer {
        let (threads, device) = (threads(), &self.device);
        let mut words = format!(
            "{square:.1} GFLOP/s in f32, {SIDE}×{SIDE}×{SIDE}, {device}, {threads} threads\n\n"
        );
        words.push_str(&format!("{:<38}{:>9}{:>9}\n", "2,048 tokens, share of that", "x·W", "dx"));
        let share = |rate: f64| format!("{:>7.1} %", 100.0 * rate / square);
        for Rates { name, shape: [d_input, d_output], forward, d_input: backward } in rates {
            let [forward, backward] = [share(*forward), share(*backward)];
            words.push_str(&format!("{name:<24}{d_input:>5} → {d_output:<6}{forward}{backward}\n"));
        }
        let shapes: Vec<Value> = rates
            .iter()
            .map(|rates| {
                json!({
                    "product": rates.name, "rows": ROWS, "shape": rates.shape,
                    "forward_gflop_per_s": rates.forward, "dx_gflop_per_s": rates.d_input,
                })
            })
            .collect();
        Answer {
            json: json!({
                "mode": "gemm", "device": device.to_string(), "threads": threads, "side": SIDE, "gflop_per_s": square,
                "shapes": shapes,
            }),
            words: words.trim_end().to_owned(),
        }
    }
}

/// GFLOP/s of the best of `repeat` square products, through the same function as the model's.
pub(super) fn square_rate(repeat: usize, device: &Device) -> Result<f64> {
    let [a, b] = [(); 2].map(|()| random([SIDE, SIDE], device));
    rate(repeat, &a, &b)
}

fn shapes(config: &LlamaConfig) -> [(&'static str, [usize; 2]); 4] {
    let LlamaConfig { hidden_size, intermediate_size, vocab_size, .. } = *config;
    [
        ("hidden to hidden", [hidden_size, hidden_size]),
        ("hidden to intermediate", [hidden_size, intermediate_size]),
        ("intermediate to hidden", [intermediate_size, hidden_size]),
        ("hidden to vocabulary", [hidden_size, vocab_size]),
    ]
}

fn rates_of(
    name: &'static str,
    shape: [usize; 2],
    repeat: usize,
    device: &Device,
) -> Result<Rates> {
    let [d_input, d_output] = shape;
    let weight = random(shape, device);
    let forward = rate(repeat, &random([ROWS, d_input], device), &weight)?;
    let d_input = rate(repeat, &random([ROWS, d_output], device), &weight.transpose())?;
    Ok(Rates { name, shape, forward, d_input })
}

/// GFLOP/s of `x·W`, the fastest of `repeat`.
fn rate(repeat: usize, x: &Tensor<2>, weight: &Tensor<2>) -> Result<f64> {
    let ([rows, d_input], [_, d_output]) = (x.dims(), weight.dims());
    let work = || drop(linear(x.clone(), weight.clone()));
    let seconds = Seconds::of(repeat, &x.device(), work)?;
    Ok(2.0 * (rows * d_input * d_output) as f64 / seconds.shortest() / 1e9)
}

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
