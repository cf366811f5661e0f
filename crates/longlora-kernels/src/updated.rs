//! A linear layer with a low-rank update, as its backward finds it.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;

/// What the backward of an updated layer reads.
#[derive(Debug, Clone)]
pub(crate) struct Updated<B: Backend> {
    pub(crate) x: FloatTensor<B>,
    pub(crate) weight: FloatTensor<B>,
    pub(crate) a: FloatTensor<B>,
    pub(crate) b: FloatTensor<B>,
    pub(crate) scale: f64,
    /// `scale · x·A`: `[rows, rank]`
    pub(crate) low: FloatTensor<B>,
}
