//! Head, loss and gradient, a few hundred tokens at a time: what exists of the logits stays small.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::linear::{Weight, rows_per_chunk};
use super::matrix::{Matrix, add_product, fill_with_product, product};
use crate::cross_entropy::{LOGITS_AT_ONCE, MOST_CORES};
use crate::rows::{exp_and_sum, max};

/// Logits whose exponentials are summed in f32 before the sum goes on in f64.
const BLOCK: usize = 4096;

/// Tokens, their targets, and the matrix that scores every next token.
pub(super) struct Problem<'a> {
    /// `[tokens, hidden_size]`
    pub(super) hidden: &'a [f32],
    /// `[hidden_size, vocab_size]`
    pub(super) head: &'a FloatTensor<Flex>,
    /// One per token; none where negative.
    pub(super) targets: &'a [i64],
}

/// What a loss pulls at.
pub(super) struct Gradient {
    /// Negative log-likelihood of each token's target, zero where there is none.
    pub(super) nll: Vec<f32>,
    /// `[tokens, hidden_size]`
    pub(super) d_hidden: Vec<f32>,
    /// `[hidden_size, vocab_size]`, or nothing of a frozen head.
    pub(super) d_head: Vec<f32>,
}

/// Negative log-likelihoods alone.
pub(super) fn nll(problem: &Problem<'_>) -> Vec<f32> {
    let weight = Weight::of(problem.head);
    let positions = problem.positions();
    let parts = problem.in_chunks(&positions, &weight, |some, logits| problem.score(some, logits));
    let mut nll = vec![0.0; problem.targets.len()];
    positions.iter().zip(parts.concat()).for_each(|(&token, value)| nll[token] = value);
    nll
}

/// Loss and gradient of `scale · Σ nll`, the head frozen.
pub(super) fn gradient(problem: &Problem<'_>, scale: f32) -> Gradient {
    let weight = Weight::of(problem.head);
    let positions = problem.positions();
    let pull_back =
        |some: &[usize], logits: &mut [f32]| problem.pull_back(some, &weight, scale, logits);
    let parts = problem.in_chunks(&positions, &weight, pull_back);
    problem.gather(&positions, parts, vec![])
}

/// The same with the gradient by the head, which sums over all tokens: round by round, its rows on all cores.
pub(super) fn gradient_with_head(problem: &Problem<'_>, scale: f32) -> Gradient {
    let weight = Weight::of(problem.head);
    let positions = problem.positions();
    let [hidden_size, vocab] = problem.head.shape().dims();
    let round = (LOGITS_AT_ONCE / vocab).clamp(1, 512);
    let tokens = problem.tokens_at_once().min(round);
    let mut d_head = vec![0.0; hidden_size * vocab];
    let mut logits = vec![0.0; round.min(positions.len()) * vocab];
    let mut parts = vec![];
    for round in positions.chunks(round) {
        let logits = &mut logits[..round.len() * vocab];
        parts.par_extend(
            logits
                .par_chunks_mut(tokens * vocab)
                .zip(round.par_chunks(tokens))
                .with_max_len(1)
                .map(|(logits, some)| {
                    let hidden = problem.hidden_of(some);
                    product(logits, Matrix::of_rows(&hidden, hidden_size), weight.matrix(), 1.0);
                    problem.pull_back(some, &weight, scale, logits)
                }),
        );
        let hidden = problem.hidden_of(round);
        let hidden = Matrix::of_rows(&hidden, hidden_size).transposed();
        let logits = Matrix::of_rows(logits, vocab);
        let rows = rows_per_chunk(hidden_size);
        d_head.par_chunks_mut(rows * vocab).enumerate().with_max_len(1).for_each(
            |(index, d_head)| {
                add_product(d_head, hidden.rows(index * rows, d_head.len() / vocab), logits, 1.0);
            },
        );
    }
    problem.gather(&positions, parts, d_head)
}

impl Problem<'_> {
    /// The tokens that have a target.
    fn positions(&self) -> Vec<usize> {
        (0..self.targets.len()).filter(|&token| self.targets[token] >= 0).collect()
    }

    /// Tokens whose logits one core holds. Not by the number of threads: the order of a product's sums depends on the number of
    /// its rows.
    fn tokens_at_once(&self) -> usize {
        let vocab = self.head.shape()[1].max(1);
        (LOGITS_AT_ONCE / 2 / vocab).clamp(1, 256)
    }

    /// `work` on the logits of some tokens at a time; what it returned, in their order.
    fn in_chunks<R: Send>(
        &self,
        positions: &[usize],
        weight: &Weight<'_>,
        work: impl Fn(&[usize], &mut [f32]) -> R + Sync,
    ) -> Vec<R> {
        let (tokens, vocab) = (self.tokens_at_once(), self.head.shape()[1]);
        let has_many = rayon::current_num_threads() > MOST_CORES;
        let round = if has_many { MOST_CORES * tokens } else { positions.len().max(1) };
        let of_chunk = |some: &[usize]| {
            let hidden = self.hidden_of(some);
            let hidden = Matrix::of_rows(&hidden, self.hidden_size());
            let mut logits = Box::new_uninit_slice(some.len() * vocab);
            work(some, fill_with_product(&mut logits, hidden, weight.matrix(), 1.0))
        };
        let mut parts = vec![];
        for round in positions.chunks(round) {
            parts.par_extend(round.par_chunks(tokens).with_max_len(1).map(of_chunk));
        }
        parts
    }

    fn hidden_size(&self) -> usize {
        self.head.shape()[0]
    }

    fn hidden_of(&self, positions: &[usize]) -> Vec<f32> {
        let width = self.hidden_size();
        let rows = positions.iter().map(|token| &self.hidden[token * width..(token + 1) * width]);
        rows.flatten().copied().collect()
    }

    /// Losses of some tokens, by their logits, of which each row becomes `exp(logit - max)`.
    fn score(&self, positions: &[usize], logits: &mut [f32]) -> Vec<f32> {
        self.for_rows(positions, logits, |row, target| Arch::new().dispatch(Nll { row, target }))
    }

    /// Losses of some tokens and the gradient by their hidden states; in place of the logits, leaves the gradient by them,
    /// `scale · (softmax - onehot(target))`.
    fn pull_back(
        &self,
        positions: &[usize],
        weight: &Weight<'_>,
        scale: f32,
        logits: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let nll = self.for_rows(positions, logits, |row, target| {
            Arch::new().dispatch(NllGradient { row, target, scale })
        });
        let mut d_hidden = vec![0.0; positions.len() * self.hidden_size()];
        let d_logits = Matrix::of_rows(logits, self.head.shape()[1]);
        product(&mut d_hidden, d_logits, weight.matrix().transposed(), 1.0);
        (nll, d_hidden)
    }

    fn for_rows(
        &self,
        positions: &[usize],
        logits: &mut [f32],
        mut of_row: impl FnMut(&mut [f32], usize) -> f32,
    ) -> Vec<f32> {
        let rows = logits.chunks_exact_mut(self.head.shape()[1]);
        rows.zip(positions).map(|(row, &token)| of_row(row, self.targets[token] as usize)).collect()
    }

    /// Parts of consecutive positions, put where their tokens are.
    fn gather(
        &self,
        positions: &[usize],
        parts: Vec<(Vec<f32>, Vec<f32>)>,
        d_head: Vec<f32>,
    ) -> Gradient {
        let width = self.hidden_size();
        let mut nll = vec![0.0; self.targets.len()];
        let mut d_hidden = vec![0.0; self.hidden.len()];
        let mut positions = positions.iter();
        for (of_part, d_part) in parts {
            let rows = of_part.into_iter().zip(d_part.chunks_exact(width));
            for ((value, row), &token) in rows.zip(positions.by_ref()) {
                nll[token] = value;
                d_hidden[token * width..(token + 1) * width].copy_from_slice(row);
            }
        }
        Gradient { nll, d_hidden, d_head }
    }
}

/// Turns logits into `exp(logit - max)`; their sum, and the largest.
#[inline(always)]
fn exponentials(row: &mut [f32]) -> (f64, f32) {
    let largest = max(row);
    // A loop: closures of iterator chains are compiled without the caller's SIMD.
    let mut sum = 0.0;
    for block in row.chunks_mut(BLOCK) {
        sum += f64::from(exp_and_sum(block, largest));
    }
    (sum, largest)
}

struct Nll<'a> {
    row: &'a mut [f32],
    target: usize,
}

impl WithSimd for Nll<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f32 {
        let of_target = self.row[self.target];
        let (sum, largest) = exponentials(self.row);
        (sum.ln() + f64::from(largest) - f64::from(of_target)) as f32
    }
}

struct NllGradient<'a> {
    row: &'a mut [f32],
    target: usize,
    scale: f32,
}

impl WithSimd for NllGradient<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> f32 {
        let Self { row, target, scale } = self;
        let of_target = row[target];
        let (sum, largest) = exponentials(row);
        let factor = (f64::from(scale) / sum) as f32;
        for entry in &mut *row {
            *entry *= factor;
        }
        row[target] -= scale;
        (sum.ln() + f64::from(largest) - f64::from(of_target)) as f32
    }
}
