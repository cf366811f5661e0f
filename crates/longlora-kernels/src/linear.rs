//! Linear layers, and those that carry a low-rank update.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Dispatch};
use burn::tensor::{DType, Tensor, assert_shape};

use crate::backend::{RowBackend, RowGradient};
use crate::fused::{takes, takes_beside};
use crate::reference;
use crate::updated::Updated;
use crate::weight::Weight;

/// `x·W`. A frozen weight gets no gradient, and its input is not kept; it may be stored in bf16 or NF4. What is computed is of
/// `x`'s type.
///
/// # Shapes
/// - `x`: `[rows, d_input]`; `weight`: `[d_input, d_output]`; result: `[rows, d_output]`
///
/// # Panics
/// If a shape does not fit the other.
pub fn linear(x: Tensor<2>, weight: impl Into<Weight>) -> Tensor<2> {
    let weight = weight.into();
    let [d_input, _] = weight.dims();
    assert_shape!(x, [_, d_input]);
    if !fits(&x, &weight) {
        return reference::linear(x, weight);
    }
    let x = x.into_dispatch();
    Tensor::from_dispatch(match weight {
        Weight::Dense(weight) => Dispatch::project(x, weight.into_dispatch()),
        Weight::Nf4(weight) => Dispatch::project_nf4(x, weight.into_blocks().into_dispatch()),
    })
}

/// `x·W + scale·(x·A)·B`, the weight frozen (LoRA, arXiv:2106.09685, eq. 3), in one pass over the rows.
///
/// # Shapes
/// - `x`: `[rows, d_input]`; `weight`: `[d_input, d_output]`; result: `[rows, d_output]`
/// - `a`: `[d_input, rank]`; `b`: `[rank, d_output]`
///
/// # Panics
/// If a shape does not fit the others, or the weight is tracked.
pub fn linear_with_update(
    x: Tensor<2>,
    weight: impl Into<Weight>,
    [a, b]: [Tensor<2>; 2],
    scale: f64,
) -> Tensor<2> {
    let weight = weight.into();
    let ([d_input, d_output], [_, rank]) = (weight.dims(), a.dims());
    assert_shape!(x, [_, d_input]);
    assert_shape!(a, [d_input, rank]);
    assert_shape!(b, [rank, d_output]);
    assert!(!weight.is_tracked(), "the weight under a low-rank update is frozen");
    if !fits(&x, &weight) || !takes_beside(&x.device(), &[a.dtype(), b.dtype()]) || rank == 0 {
        return reference::linear_with_update(x, weight, [a, b], scale);
    }
    let [x, a, b] = [x, a, b].map(Tensor::into_dispatch);
    let (out, _low) = match weight {
        Weight::Dense(weight) => {
            Dispatch::project_with_update(x, weight.into_dispatch(), a, b, scale)
        }
        Weight::Nf4(weight) => {
            let blocks = weight.into_blocks().into_dispatch();
            Dispatch::project_nf4_with_update(x, blocks, a, b, scale)
        }
    };
    Tensor::from_dispatch(out)
}

/// Whether the fused path has these types; a trained weight is kept in f32.
fn fits(x: &Tensor<2>, weight: &Weight) -> bool {
    let of_weight = match weight {
        Weight::Nf4(_) => true,
        Weight::Dense(weight) => match weight.dtype() {
            DType::F32 => true,
            DType::BF16 => !weight.is_tracked(),
            _ => false,
        },
    };
    of_weight && takes(&x.device(), x.dtype())
}

#[derive(Debug)]
struct LinearBackward;

#[derive(Debug, Clone)]
struct Context<B: RowGradient> {
    /// Only if the weight is trained.
    x: Option<FloatTensor<B>>,
    weight: FloatTensor<B>,
}

impl<B: RowGradient> Backward<B, 2> for LinearBackward {
    type State = Context<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Context { x, weight } = ops.state;
        let [node_x, node_weight] = ops.parents;
        let d_out = grads.consume::<B>(&ops.node);
        if let (Some(node), Some(x)) = (node_weight, x) {
            grads.register::<B>(node.id, B::project_weight_backward(x, d_out.clone()));
        }
        if let Some(node) = node_x {
            grads.register::<B>(node.id, B::project_input_backward(d_out, weight));
        }
    }
}

pub(crate) fn tracked<B: RowGradient, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    weight: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let trained = weight.is_tracked();
    let prepared =
        LinearBackward.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
    let (x, weight) = (x.into_primitive(), weight.into_primitive());
    let out = B::project(x.clone(), weight.clone());
    match prepared {
        OpsKind::Tracked(prepared) => {
            prepared.finish(Context { x: trained.then_some(x), weight }, out)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}

#[derive(Debug)]
struct UpdateBackward;

impl<B: RowGradient> Backward<B, 3> for UpdateBackward {
    type State = Updated<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_out = grads.consume::<B>(&ops.node);
        let gradients = B::project_with_update_backward(ops.state, d_out);
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

type Tracked<B, C> = FloatTensor<Autodiff<B, C>>;

pub(crate) fn tracked_with_update<B: RowGradient, C: CheckpointStrategy>(
    x: Tracked<B, C>,
    weight: Tracked<B, C>,
    a: Tracked<B, C>,
    b: Tracked<B, C>,
    scale: f64,
) -> (Tracked<B, C>, Tracked<B, C>) {
    let prepared =
        UpdateBackward.prepare::<C>([x.node(), a.node(), b.node()]).compute_bound().stateful();
    let [x, weight, a, b] = [x, weight, a, b].map(|tensor| tensor.into_primitive());
    let (out, low) = B::project_with_update(x.clone(), weight.clone(), a.clone(), b.clone(), scale);
    let untracked_low = <Autodiff<B, C> as AutodiffBackend>::from_inner(low.clone());
    let out = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(Updated { x, weight, a, b, scale, low }, out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    };
    (out, untracked_low)
}
