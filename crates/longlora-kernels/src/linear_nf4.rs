//! Linear layers whose weight is frozen in NF4: it becomes floats for a product, forward and again backward, and only blocks
//! are kept in between.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};

use crate::backend::RowGradient;
use crate::updated::Updated;

#[derive(Debug)]
struct LinearBackward;

impl<B: RowGradient> Backward<B, 1> for LinearBackward {
    type State = IntTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [node] = ops.parents;
        let d_out = grads.consume::<B>(&ops.node);
        if let Some(node) = node {
            let weight = B::expand_nf4(ops.state, d_out.dtype());
            grads.register::<B>(node.id, B::project_input_backward(d_out, weight));
        }
    }
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

pub(crate) fn tracked<B: RowGradient, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    blocks: IntTensor<B>,
) -> Tracked<B, C> {
    let prepared = LinearBackward.prepare::<C>([x.node()]).compute_bound().stateful();
    let out = B::project_nf4(x.into_primitive(), blocks.clone());
    match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(blocks, out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}

#[derive(Debug)]
struct UpdateBackward;

/// As [`Updated`], before its weight is floats.
#[derive(Debug, Clone)]
struct UpdatedNf4<B: RowGradient> {
    x: FloatTensor<B>,
    blocks: IntTensor<B>,
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    scale: f64,
    low: FloatTensor<B>,
}

impl<B: RowGradient> UpdatedNf4<B> {
    fn dequantized(self) -> Updated<B> {
        let Self { x, blocks, a, b, scale, low } = self;
        let weight = B::expand_nf4(blocks, x.dtype());
        Updated { x, weight, a, b, scale, low }
    }
}

impl<B: RowGradient> Backward<B, 3> for UpdateBackward {
    type State = UpdatedNf4<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_out = grads.consume::<B>(&ops.node);
        let gradients = B::project_with_update_backward(ops.state.dequantized(), d_out);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

pub(crate) fn tracked_with_update<B: RowGradient, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    blocks: IntTensor<B>,
    a: Tracked<B, C>,
    b: Tracked<B, C>,
    scale: f64,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let prepared =
        UpdateBackward.prepare::<C>([x.node(), a.node(), b.node()]).compute_bound().stateful();
    let [x, a, b] = [x, a, b].map(|tensor| tensor.into_primitive());
    let (out, low) =
        B::project_nf4_with_update(x.clone(), blocks.clone(), a.clone(), b.clone(), scale);
    let untracked_low = <Autodiff<B, C> as AutodiffBackend>::from_inner(low.clone());
    let out = match prepared {
        OpsKind::Tracked(prepared) => {
            prepared.finish(UpdatedNf4 { x, blocks, a, b, scale, low }, out)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    };
    (out, untracked_low)
}
