//! The operations as a backend has them.

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

/// The forwards.
#[backend_extension(Autodiff, Flex)]
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
}
