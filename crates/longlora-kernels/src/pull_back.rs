//! A backward that begins with a gradient that is known already.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients as Registry;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch};
use burn::tensor::{Gradients, Tensor};

use crate::backend::{RowBackend, RowGradient};

/// The gradients of `⟨output, d_output⟩` by all that `output` depends on: the chain rule through one piece of a model.
///
/// The product itself is not computed; burn's `backward` alone would need it to begin with.
///
/// # Shapes
/// - `output`, `d_output`: the same; `d_output` off any graph
///
/// # Panics
/// If the shapes differ, or nothing that `output` depends on is tracked.
pub fn pull_back<const D: usize>(output: Tensor<D>, d_output: Tensor<D>) -> Gradients {
    assert_eq!(output.dims(), d_output.dims(), "needs a gradient of the output's shape");
    let d_output = d_output.autodiff();
    let root = Dispatch::begin(output.into_dispatch(), d_output.into_dispatch());
    Tensor::<1>::from_dispatch(root).backward()
}

#[derive(Debug)]
struct Begin;

impl<B: RowGradient> Backward<B, 1> for Begin {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Registry, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let _one = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            grads.register::<B>(node.id, ops.state);
        }
    }
}

pub(crate) fn tracked<B: RowGradient, C: CheckpointStrategy>(
    output: FloatTensor<Autodiff<B, C>>,
    d_output: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let prepared = Begin.prepare::<C>([output.node()]).compute_bound().stateful();
    let (output, d_output) = (output.into_primitive(), d_output.into_primitive());
    let root = B::begin(output, d_output.clone());
    match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(d_output, root),
        OpsKind::UnTracked(prepared) => prepared.finish(root),
    }
}
