//! Head and cross-entropy in chunks of tokens, so that logits are never held whole.
//!
//! At 32,768 tokens and a vocabulary of 32,000, logits are 3.9 GiB in f32, and their gradient as much again.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::llama::Llama;

/// Largest number of logits held at once: 64 MiB in f32.
const LOGITS_PER_CHUNK: usize = 1 << 24;

/// A loss and where it pulls.
#[derive(Debug, Clone)]
pub struct LossAndGradient {
    /// Sum of the negative log-likelihoods of all targets, in nats, unscaled.
    pub nll_sum: f64,
    /// Gradient of `scale · nll_sum` by the hidden states: `[tokens, hidden_size]`
    pub d_hidden: Tensor<2>,
    /// Gradient of `scale · nll_sum` by the head's matrix: `[hidden_size, vocab_size]`, if asked for.
    pub d_head: Option<Tensor<2>>,
}

/// Loss and gradient of the head in one pass over the chunks; no graph is built.
///
/// With `p = softmax(h·W)`, the gradient by the logits is `scale · (p - onehot(target))`. Tokens without a target
/// (negative, as Hugging Face's -100) are left out before the product.
///
/// # Shapes
/// - `hidden`: `[tokens, hidden_size]`; `head`: `[hidden_size, vocab_size]`; `targets`: `tokens` entries
pub fn loss_and_gradient(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[i64],
    scale: f64,
    head_is_trained: bool,
) -> LossAndGradient {
    let mut nll_sum = 0.0;
    let mut d_hidden = hidden.zeros_like();
    let mut d_head = head_is_trained.then(|| head.zeros_like());
    for chunk in Chunk::all(&hidden, targets, head.dims()[1]) {
        let softmax = Softmax::of(chunk.hidden.clone(), head.clone());
        let nll = softmax.nll(&chunk.targets);
        nll_sum += sum(nll);
        let ones = chunk.targets.clone().float().ones_like();
        let d_logits = softmax
            .weights()
            .scatter(1, chunk.targets, ones.neg(), IndexingUpdateOp::Add)
            .mul_scalar(scale);
        let d_chunk = d_logits.clone().matmul(head.clone().transpose());
        d_hidden = d_hidden.select_assign(0, chunk.rows, d_chunk, IndexingUpdateOp::Add);
        if let Some(sum) = d_head.take() {
            d_head = Some(sum + chunk.hidden.transpose().matmul(d_logits));
        }
    }
    LossAndGradient { nll_sum, d_hidden, d_head }
}

impl Llama {
    /// Negative log-likelihood of each target, in nats, zero where there is none; no graph, no whole logits.
    ///
    /// # Shapes
    /// - `hidden`: `[tokens, hidden_size]`; `targets` and result: `tokens` entries
    pub fn nll(&self, hidden: Tensor<2>, targets: &[i64]) -> Vec<f32> {
        let head = self.head();
        let mut nll = vec![0.0; targets.len()];
        for chunk in Chunk::all(&hidden, targets, head.dims()[1]) {
            let softmax = Softmax::of(chunk.hidden, head.clone());
            let values = softmax.nll(&chunk.targets).into_data();
            for (&row, value) in chunk.positions.iter().zip(values.iter::<f32>()) {
                nll[row] = value;
            }
        }
        nll
    }
}

/// Consecutive tokens that have targets.
struct Chunk {
    positions: Vec<usize>,
    /// `[tokens]`
    rows: Tensor<1, Int>,
    /// `[tokens, hidden_size]`
    hidden: Tensor<2>,
    /// `[tokens, 1]`
    targets: Tensor<2, Int>,
}

impl Chunk {
    fn all<'a>(
        hidden: &'a Tensor<2>,
        targets: &'a [i64],
        vocab: usize,
    ) -> impl Iterator<Item = Self> + 'a {
        assert_eq!(hidden.dims()[0], targets.len(), "needs one target, or none, per token");
        let size = (LOGITS_PER_CHUNK / vocab).max(1);
        let positions: Vec<usize> = (0..targets.len()).filter(|&i| targets[i] >= 0).collect();
        let chunks: Vec<Vec<usize>> = positions.chunks(size).map(<[usize]>::to_vec).collect();
        chunks.into_iter().map(move |positions| {
            let tokens = positions.len();
            let ints = |values: Vec<i64>| TensorData::new(values, [tokens]);
            let device = hidden.device();
            let rows = ints(positions.iter().map(|&i| i as i64).collect());
            let rows = Tensor::<1, Int>::from_data(rows, &device);
            let targets = ints(positions.iter().map(|&i| targets[i]).collect());
            let targets = Tensor::<1, Int>::from_data(targets, &device);
            Self {
                hidden: hidden.clone().select(0, rows.clone()),
                targets: targets.unsqueeze_dim(1),
                rows,
                positions,
            }
        })
    }
}

/// Exponentials of logits, with what normalises them.
struct Softmax {
    /// `[tokens, vocab_size]`
    logits: Tensor<2>,
    /// `[tokens, vocab_size]`, relative to `max`
    exponentials: Tensor<2>,
    /// `[tokens, 1]`
    max: Tensor<2>,
    /// `[tokens, 1]`
    sum: Tensor<2>,
}

impl Softmax {
    fn of(hidden: Tensor<2>, head: Tensor<2>) -> Self {
        let logits = hidden.matmul(head);
        let max = logits.clone().max_dim(1);
        let exponentials = (logits.clone() - max.clone()).exp();
        let sum = exponentials.clone().sum_dim(1);
        Self { logits, exponentials, max, sum }
    }

    /// `[tokens]`
    fn nll(&self, targets: &Tensor<2, Int>) -> Tensor<1> {
        let of_target = self.logits.clone().gather(1, targets.clone());
        (self.max.clone() + self.sum.clone().log() - of_target).squeeze_dim(1)
    }

    fn weights(self) -> Tensor<2> {
        self.exponentials / self.sum
    }
}

/// In f64: a sum of thousands of f32 loses digits that a comparison of losses needs.
fn sum(values: Tensor<1>) -> f64 {
    values.into_data().iter::<f64>().sum()
}
