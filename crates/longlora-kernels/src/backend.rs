//! The operations as a backend has them.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn::tensor::DType;

use crate::updated::Updated;

/// The forwards.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "gpu"))]
pub(crate) trait RowBackend: Backend {
    /// `x`: `[.., width]`; `gamma`: `[width]`
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, epsilon: f64) -> FloatTensor<Self>;

    /// `x`: `[batch, heads, seq, 2 · pairs]`; `cos`, `sin`: `[table_heads, seq, pairs]`
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `gate`, `up`: of one shape
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x`: `[rows, d_input]`; `weight`: `[d_input, d_output]`, in f32 or bf16
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// One number, the root of a backward that begins with `d_output` at `output`.
    fn begin(output: FloatTensor<Self>, d_output: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `(out, low)` with `low = scale · x·a`: `[rows, rank]`; `a`: `[d_input, rank]`; `b`: `[rank, d_output]`
    fn project_with_update(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The matrix `[d_input, d_output]` of `blocks` of NF4: `[d_output, d_input / 64 · 9]`
    fn expand_nf4(blocks: IntTensor<Self>, dtype: DType) -> FloatTensor<Self>;

    /// As `project`, with a weight in NF4.
    fn project_nf4(x: FloatTensor<Self>, blocks: IntTensor<Self>) -> FloatTensor<Self>;

    /// As `project_with_update`, with a weight in NF4.
    fn project_nf4_with_update(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Head and loss, with the gradient in the same pass, off any graph.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"))]
pub(crate) trait HeadBackend: Backend {
    /// Negative log-likelihoods: `[tokens]`
    fn nll(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
    ) -> FloatTensor<Self>;

    /// `(nll, d_hidden)`
    fn nll_gradient(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `(nll, d_hidden, d_head)`
    fn nll_gradient_with_head(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        targets: Vec<i64>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// The backwards, of a backend that computes; the autodiff decorator has none, as there are no second derivatives.
pub(crate) trait RowGradient: RowBackend {
    /// `(dx, dγ)`; the second only if it is asked for.
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f64,
        d_out: FloatTensor<Self>,
        gamma_is_trained: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>);

    /// The gradient by `x`: the rotation back.
    fn rotate_backward(
        d_out: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The gradients by `cos` and `sin`, of `table_heads` heads.
    fn rotate_tables_backward(
        x: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
        table_heads: usize,
    ) -> [FloatTensor<Self>; 2];

    /// The gradients by `gate` and `up`.
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        d_out: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// The gradient by the input of a linear layer.
    fn project_input_backward(
        d_out: FloatTensor<Self>,
        weight: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The gradient by the weight of a linear layer.
    fn project_weight_backward(x: FloatTensor<Self>, d_out: FloatTensor<Self>)
    -> FloatTensor<Self>;

    /// The gradients by `x`, `a` and `b`.
    fn project_with_update_backward(
        updated: Updated<Self>,
        d_out: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}
