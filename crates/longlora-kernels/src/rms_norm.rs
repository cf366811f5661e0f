//! The norm.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::{Tensor, assert_shape};

use crate::backend::{RowBackend, RowGradient};
use crate::fused::{takes, takes_beside};
use crate::reference;

/// `x / √(mean(x²) + epsilon) · gamma`, row by row (RMSNorm, arXiv:1910.07467, eq. 4).
///
/// # Shapes
/// - `x`, result: `[.., width]`
/// - `gamma`: `[width]`; it may be of another type than `x`, whose type the result has
///
/// # Panics
/// If a shape does not fit the other.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let width = x.dims()[D - 1];
    assert_shape!(gamma, [width]);
    let device = x.device();
    if !takes(&device, x.dtype()) || !takes_beside(&device, &[gamma.dtype()]) {
        return reference::rms_norm(x, gamma, epsilon);
    }
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), gamma.into_dispatch(), epsilon))
}

#[derive(Debug)]
struct NormBackward;

#[derive(Debug, Clone)]
struct Context<B: RowGradient> {
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    epsilon: f64,
}

impl<B: RowGradient> Backward<B, 2> for NormBackward {
    type State = Context<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Context { x, gamma, epsilon } = ops.state;
        let [node_x, node_gamma] = ops.parents;
        let d_out = grads.consume::<B>(&ops.node);
        let (dx, d_gamma) = B::rms_norm_backward(x, gamma, epsilon, d_out, node_gamma.is_some());
        if let Some(node) = node_x {
            grads.register::<B>(node.id, dx);
        }
        if let (Some(node), Some(d_gamma)) = (node_gamma, d_gamma) {
            grads.register::<B>(node.id, d_gamma);
        }
    }
}

pub(crate) fn tracked<B: RowGradient, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    gamma: FloatTensor<Autodiff<B, C>>,
    epsilon: f64,
) -> FloatTensor<Autodiff<B, C>> {
    let prepared = NormBackward.prepare::<C>([x.node(), gamma.node()]).compute_bound().stateful();
    let (x, gamma) = (x.into_primitive(), gamma.into_primitive());
    let out = B::rms_norm(x.clone(), gamma.clone(), epsilon);
    match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(Context { x, gamma, epsilon }, out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}
