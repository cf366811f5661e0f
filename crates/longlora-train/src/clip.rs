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
    let mut squares = SumOfSquares { grads: &grads, sum: 0.0 };
    module.visit(&mut squares);
    let norm = squares.sum.sqrt();
    let factor = max_norm / (norm + 1e-6);
    // A norm that is no number is for the caller to see, not to spread over all gradients.
    if factor.is_nan() || factor >= 1.0 {
        return (grads, norm);
    }
    let mut scale = Scale { from: grads, factor, to: GradientsParams::new() };
    module.visit(&mut scale);
    (scale.to, norm)
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
