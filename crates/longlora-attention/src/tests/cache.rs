//! Chunks of new queries over a cache are the last rows of attention over everything.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::ThreadPoolBuilder;

use super::answer::{Inputs, error, numbers};
use crate::qkv::Qkv;
use crate::{AttentionPattern, Layout, attention_over_cache, reference, tiled};

/// Three times the largest error measured: 7.5e-7 of the reference itself, 6.9e-7 of the tiles, 5.7e-7 of the kernel.
const TOLERANCE: f64 = 2.2e-6;

struct Case {
    /// Positions before the chunk, and positions of the chunk.
    lengths: [usize; 2],
    /// Query heads and kv heads.
    heads: [usize; 2],
    head_dim: usize,
    window: Option<usize>,
}

/// Chunks of every length that takes another path, over caches that end inside and at the borders of tiles and of the
/// 512 keys that one thread of a decoding step reads.
fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (i, past) in [0, 1, 63, 64, 130, 511, 512, 1030].into_iter().enumerate() {
        for (j, seq) in [1, 3, 37, 64, 65].into_iter().enumerate() {
            let heads = [[9, 3], [4, 2], [3, 1], [2, 2]][(i + j) % 4];
            let head_dim = [8, 64, 80, 3][(i + 2 * j) % 4];
            for window in [None, Some([1, 70, 600][(i + j) % 3])] {
                cases.push(Case { lengths: [past, seq], heads, head_dim, window });
            }
        }
    }
    cases
}

impl Case {
    fn inputs(&self, seed: u64) -> Inputs {
        let [past, seq] = self.lengths;
        let pattern = match self.window {
            None => AttentionPattern::Full,
            Some(window) => AttentionPattern::SlidingWindow { window },
        };
        let plan = pattern.plan(&Layout::dense(2, past + seq));
        Inputs::random(plan.layer(0), self.heads, self.head_dim, seed)
    }

    /// The queries of the last positions, and all keys and values.
    fn tensors(&self, inputs: &Inputs, dtype: DType) -> [Tensor<4>; 3] {
        let [past, seq] = self.lengths;
        let device = Device::flex();
        let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v]
            .map(|data| Tensor::<4>::from_data(data.clone(), (&device, dtype)));
        [q.narrow(2, past, seq), k, v]
    }

    /// The last rows of the reference over everything, in f64.
    fn expected(&self, inputs: &Inputs) -> Vec<f64> {
        let [past, seq] = self.lengths;
        let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v]
            .map(|data| Tensor::<4>::from_data(data.clone(), (&Device::flex(), DType::F64)));
        let all = reference::attention(q, k, v, &inputs.segments, inputs.softmax_scale);
        numbers(all.narrow(2, past, seq).into_data())
    }

    #[track_caller]
    fn check(&self, implementation: impl Fn([Tensor<4>; 3], &Inputs) -> TensorData) {
        let inputs = self.inputs(5);
        let ours = numbers(implementation(self.tensors(&inputs, DType::F32), &inputs));
        let error = error(&ours, &self.expected(&inputs));
        let Self { lengths: [past, seq], heads, head_dim, window } = self;
        assert!(
            error <= TOLERANCE,
            "{seq} after {past}, {heads:?} heads of {head_dim}, window {window:?}: off by {error:e}"
        );
    }

    fn by_operation(&self, [q, k, v]: [Tensor<4>; 3], softmax_scale: f32) -> TensorData {
        attention_over_cache(q, k, v, self.window, softmax_scale).into_data()
    }
}

#[test]
fn a_chunk_over_a_cache_is_the_end_of_attention_over_everything() {
    for case in cases() {
        case.check(|qkv, inputs| case.by_operation(qkv, inputs.softmax_scale));
    }
}

#[test]
fn the_tiles_of_other_backends_mean_the_same() {
    for case in cases() {
        case.check(|qkv, inputs| {
            let [q, k, v] = qkv.map(|x| FloatTensor::<Flex>::from_data(x.into_data()));
            tiled::forward::<Flex>(&Qkv { q, k, v }, &inputs.segments, inputs.softmax_scale)
                .0
                .into_data()
        });
    }
}

#[test]
fn the_reference_of_the_last_queries_is_the_end_of_the_reference_of_all() {
    for case in cases() {
        case.check(|[q, k, v], inputs| {
            reference::attention(q, k, v, &inputs.segments, inputs.softmax_scale).into_data()
        });
    }
}

/// A cache has room for more, and begins anywhere: what lies around the keys in use is never read.
#[test]
fn keys_and_values_may_be_views_into_a_larger_cache() {
    for case in cases() {
        let inputs = case.inputs(6);
        let [q, k, v] = case.tensors(&inputs, DType::F32);
        let roomy = |x: Tensor<4>| {
            let [batch, heads, length, head_dim] = x.dims();
            let room =
                |length| Tensor::<4>::full([batch, heads, length, head_dim], f32::NAN, &x.device());
            Tensor::cat(vec![room(5), x.clone(), room(9)], 2).narrow(2, 5, length)
        };
        let (plain, scale) = ([q.clone(), k.clone(), v.clone()], inputs.softmax_scale);
        let ours = case.by_operation([q, roomy(k), roomy(v)], scale);
        assert_eq!(numbers(ours), numbers(case.by_operation(plain, scale)));
    }
}

#[test]
fn the_number_of_threads_changes_no_bit_of_a_decoding_step() {
    let case = Case { lengths: [4000, 1], heads: [9, 3], head_dim: 64, window: None };
    let inputs = case.inputs(7);
    let out = |threads| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let qkv = case.tensors(&inputs, DType::F32);
        pool.install(|| numbers(case.by_operation(qkv, inputs.softmax_scale)))
    };
    assert_eq!(out(1), out(3));
}

#[test]
fn half_precision_goes_through_the_tiles() {
    let case = Case { lengths: [70, 3], heads: [4, 2], head_dim: 8, window: Some(50) };
    let inputs = case.inputs(8);
    let out = case.by_operation(case.tensors(&inputs, DType::F16), inputs.softmax_scale);
    // Two steps of the type: inputs and output are rounded.
    let error = error(&numbers(out), &case.expected(&inputs));
    assert!(error <= 2.0 / 1024.0, "off by {error:e}");
}

#[test]
#[should_panic(expected = "attention over a cache has no gradient")]
fn a_cache_is_not_trained_through() {
    let x = Tensor::<4>::zeros([1, 1, 3, 4], &Device::flex().autodiff()).require_grad();
    attention_over_cache(x.clone(), x.clone(), x, None, 1.0);
}

#[test]
#[should_panic(expected = "needs a key for each query, got 3 queries over 2 keys")]
fn more_queries_than_keys_are_refused() {
    let zeros = |seq| Tensor::<4>::zeros([1, 1, seq, 4], &Device::flex());
    attention_over_cache(zeros(3), zeros(2), zeros(2), None, 1.0);
}

#[test]
#[should_panic(expected = "needs a window of at least 1 token")]
fn an_empty_window_is_refused() {
    let x = Tensor::<4>::zeros([1, 1, 2, 4], &Device::flex());
    attention_over_cache(x.clone(), x.clone(), x, Some(0), 1.0);
}
