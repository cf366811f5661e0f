//! Head and cross-entropy in plain tensor operations, in chunks of tokens.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

use crate::cross_entropy::{LossAndGradient, sum};

use super::{in_type, of_sums};

/// Largest number of logits held at once: 64 MiB in f32.
const LOGITS_PER_CHUNK: usize = 1 << 24;

/// See [`loss_and_gradient`](crate::loss_and_gradient).
pub fn loss_and_gradient(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: &[i64],
    scale: f64,
    head_is_trained: bool,
) -> LossAndGradient {
    let dtype = hidden.dtype();
    let [hidden, head] = [hidden, head].map(|x| in_type(x, of_sums(dtype)));
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
    LossAndGradient { nll_sum, d_hidden: in_type(d_hidden, dtype), d_head }
}

/// See [`nll`](crate::nll()).
pub fn nll(hidden: Tensor<2>, head: Tensor<2>, targets: &[i64]) -> Vec<f32> {
    let dtype = of_sums(hidden.dtype());
    let [hidden, head] = [hidden, head].map(|x| in_type(x, dtype));
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
