//! The numbers of one problem, and what each implementation makes of them.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::catalogue::Problem;
use crate::backend::AttentionBackend;
use crate::qkv::{Qkv, Saved};
use crate::{Segments, attention, reference, tiled};

/// What an implementation is given.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    /// `[batch, heads, seq, head_dim]`
    pub(crate) q: TensorData,
    /// `[batch, kv_heads, seq, head_dim]`
    pub(crate) k: TensorData,
    /// `[batch, kv_heads, seq, head_dim]`
    pub(crate) v: TensorData,
    /// The loss is `Σ out · cotangent`; shaped like `q`.
    pub(crate) cotangent: TensorData,
    pub(crate) segments: Arc<Segments>,
    pub(crate) softmax_scale: f32,
}

/// What it returns, widened to f64, in the layout of the inputs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) out: Vec<f64>,
    pub(crate) dq: Vec<f64>,
    pub(crate) dk: Vec<f64>,
    pub(crate) dv: Vec<f64>,
}

impl Inputs {
    pub(super) fn of(problem: &Problem, seed: u64) -> Self {
        let Problem { heads, kv_heads, head_dim, .. } = *problem;
        Self::random(problem.segments(), [heads, kv_heads], head_dim, seed)
    }

    /// Entries of unit variance, so that a query's weights are neither flat nor all on one key.
    pub(crate) fn random(
        segments: &Arc<Segments>,
        [heads, kv_heads]: [usize; 2],
        head_dim: usize,
        seed: u64,
    ) -> Self {
        let (batch, seq) = (segments.rows.len(), segments.seq);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let bound = 3.0_f32.sqrt();
        let mut tensor = |heads| {
            let shape = [batch, heads, seq, head_dim];
            let entries = 0..shape.iter().product();
            let entries: Vec<f32> = entries.map(|_| random.random_range(-bound..bound)).collect();
            TensorData::new(entries, shape)
        };
        Self {
            q: tensor(heads),
            k: tensor(kv_heads),
            v: tensor(kv_heads),
            cotangent: tensor(heads),
            segments: segments.clone(),
            softmax_scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// What `op` makes of `q`, `k` and `v`, and its gradients by autodiff.
    pub(crate) fn differentiate(
        &self,
        dtype: DType,
        op: impl FnOnce([Tensor<4>; 3]) -> Tensor<4>,
    ) -> Answer {
        let device = Device::flex().autodiff();
        let tensor = |data: &TensorData| Tensor::<4>::from_data(data.clone(), (&device, dtype));
        let qkv = [&self.q, &self.k, &self.v].map(|data| tensor(data).require_grad());
        let out = op(qkv.clone());
        let gradients = (out.clone() * tensor(&self.cotangent)).sum().backward();
        let [dq, dk, dv] = qkv.map(|x| {
            numbers(x.grad(&gradients).expect("the output depends on the input").into_data())
        });
        Answer { out: numbers(out.into_data()), dq, dk, dv }
    }

    /// The kernel of the CPU, by the public operation.
    pub(crate) fn by_kernel(&self) -> Answer {
        self.differentiate(DType::F32, |[q, k, v]| {
            attention(q, k, v, &self.segments, self.softmax_scale)
        })
    }

    /// The slow twin and burn's own gradients of it.
    pub(crate) fn by_reference(&self, dtype: DType) -> Answer {
        self.differentiate(dtype, |[q, k, v]| {
            reference::attention(q, k, v, &self.segments, self.softmax_scale)
        })
    }

    /// The path of the backends without a kernel.
    pub(crate) fn by_tiles(&self) -> Answer {
        let (qkv, segments) = (self.primitives(), &self.segments);
        let (out, lse) = tiled::forward::<Flex>(&qkv, segments, self.softmax_scale);
        let saved = Saved { out: out.clone(), lse };
        let d_out = FloatTensor::<Flex>::from_data(self.cotangent.clone());
        let gradient = tiled::backward::<Flex>(&qkv, &saved, d_out, segments, self.softmax_scale);
        let [out, dq, dk, dv] =
            [out, gradient.q, gradient.k, gradient.v].map(|x| numbers(x.into_data()));
        Answer { out, dq, dk, dv }
    }

    /// `[batch, heads, seq]`, by the path of the backends without a kernel.
    pub(crate) fn lse_by_tiles(&self) -> Vec<f64> {
        let (_, lse) =
            tiled::forward::<Flex>(&self.primitives(), &self.segments, self.softmax_scale);
        numbers(lse.into_data())
    }

    /// `[batch, heads, seq]`, by the kernel of the CPU.
    pub(crate) fn lse_by_kernel(&self) -> Vec<f64> {
        let Qkv { q, k, v } = self.primitives();
        let segments = self.segments.clone();
        let (_, lse) = Flex::segment_attention(q, k, v, segments, self.softmax_scale);
        numbers(lse.into_data())
    }

    fn primitives(&self) -> Qkv<Flex> {
        let [q, k, v] =
            [&self.q, &self.k, &self.v].map(|data| FloatTensor::<Flex>::from_data(data.clone()));
        Qkv { q, k, v }
    }
}

impl Answer {
    /// Its parts by name, beside another's.
    pub(crate) fn beside<'a>(
        &'a self,
        other: &'a Self,
    ) -> [(&'static str, &'a [f64], &'a [f64]); 4] {
        [
            ("out", &self.out, &other.out),
            ("dq", &self.dq, &other.dq),
            ("dk", &self.dk, &other.dk),
            ("dv", &self.dv, &other.dv),
        ]
    }
}

pub(crate) fn numbers(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

/// The largest difference, relative to the largest entry of `exact` where that is above one.
pub(crate) fn error(ours: &[f64], exact: &[f64]) -> f64 {
    assert_eq!(ours.len(), exact.len());
    let largest = exact.iter().fold(1.0, |largest: f64, x| largest.max(x.abs()));
    let differences = ours.iter().zip(exact).map(|(ours, exact)| (ours - exact).abs());
    // Unlike `f64::max`, this keeps a NaN.
    differences.fold(0.0, |error, x| if x > error || x.is_nan() { x } else { error }) / largest
}
