//! The gate of an MLP.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::Tensor;

use crate::backend::{RowBackend, RowGradient};
use crate::fused::takes;
use crate::reference;

/// `silu(gate) · up`, `silu(x) = x / (1 + e⁻ˣ)`: SwiGLU (arXiv:2002.05202).
///
/// # Shapes
/// - `gate`, `up`, result: the same
///
/// # Panics
/// If the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "needs a gate and an input of one shape");
    if gate.dtype() != up.dtype() || !takes(&gate.device(), gate.dtype()) {
        return reference::swiglu(gate, up);
    }
    Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

#[derive(Debug)]
struct SwigluBackward;

impl<B: RowGradient> Backward<B, 2> for SwigluBackward {
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [gate, up] = ops.state;
        let d_out = grads.consume::<B>(&ops.node);
        let gradients = B::swiglu_backward(gate, up, d_out);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

pub(crate) fn tracked<B: RowGradient, C: CheckpointStrategy>(
    gate: FloatTensor<Autodiff<B, C>>,
    up: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let prepared = SwigluBackward.prepare::<C>([gate.node(), up.node()]).compute_bound().stateful();
    let [gate, up] = [gate.into_primitive(), up.into_primitive()];
    let out = B::swiglu(gate.clone(), up.clone());
    match prepared {
        OpsKind::Tracked(prepared) => prepared.finish([gate, up], out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}
