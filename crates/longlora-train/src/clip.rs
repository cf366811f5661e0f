//! Clipping by the norm of the whole gradient.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// Scales all gradients of `module` so that their joint norm is at most `max_norm`; the norm before, too.
///
/// As `torch.nn.utils.clip_grad_norm_`: the factor is `max_norm / (norm + 1e-6)`, if below 1. Burn's own clipping works
/// on each tensor by itself, which changes the direction of the step.
pub fn clip_by_global_norm<M: Module>(
    module: &M,
    grads: GradientsParams,
    max_norm: f64,
) -> (GradientsParams, f64) {
    let norm = sum_of_squares(module, &grads).sqrt();
    match clip_factor(norm, max_norm) {
        None => (grads, norm),
        Some(factor) => (scaled(module, grads, factor), norm),
    }
}

/// Of all entries of all gradients.
pub(crate) fn sum_of_squares<M: Module>(module: &M, grads: &GradientsParams) -> f64 {
    let mut squares = SumOfSquares { grads, sum: 0.0 };
    module.visit(&mut squares);
    squares.sum
}

/// What gradients of this norm are scaled by, if they are.
pub(crate) fn clip_factor(norm: f64, max_norm: f64) -> Option<f64> {
    let factor = max_norm / (norm + 1e-6);
    // A norm that is no number is for the caller to see, not to spread over all gradients.
    (factor < 1.0).then_some(factor)
}

/// All gradients times `factor`.
pub(crate) fn scaled<M: Module>(
    module: &M,
    grads: GradientsParams,
    factor: f64,
) -> GradientsParams {
    let mut scale = Scale { from: grads, factor, to: GradientsParams::new() };
    module.visit(&mut scale);
    scale.to
}

struct SumOfSquares<'a> {
    grads: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let sum = grad.square().sum().into_data();
            self.sum += sum.iter::<f64>().sum::<f64>();
        }
    }
}

struct Scale {
    from: GradientsParams,
    factor: f64,
    to: GradientsParams,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.from.remove::<D>(param.id) {
            self.to.register(param.id, grad.mul_scalar(self.factor));
        }
    }
}
