//! The norms of a model.

use burn::nn::RmsNorm;
use burn::tensor::Tensor;
use longlora_kernels::rms_norm;

/// What burn's module computes, in one pass.
///
/// # Shapes
/// - `x`, result: `[.., width]`
pub(crate) fn normed<const D: usize>(x: Tensor<D>, norm: &RmsNorm) -> Tensor<D> {
    rms_norm(x, norm.gamma.val(), norm.epsilon)
}
