//! The rotation of queries and keys.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, TensorMetadata};
use burn::tensor::{DType, Tensor, assert_shape};

use crate::backend::{RowBackend, RowGradient};
use crate::fused::takes;
use crate::reference;

/// Rotates half-split pairs `(x[i], x[i + head_dim / 2])` (RoPE, arXiv:2104.09864), as Hugging Face's weights need it.
///
/// ```text
/// y[i]                = x[i] · cos - x[i + head_dim / 2] · sin
/// y[i + head_dim / 2] = x[i + head_dim / 2] · cos + x[i] · sin
/// ```
///
/// `x` need not lie as its shape says: it is read where it is, and the result is contiguous.
///
/// # Shapes
/// - `x`, result: `[batch, heads, seq, head_dim]`
/// - `cos`, `sin`: `[table_heads, seq, head_dim / 2]`, `heads` a multiple of `table_heads`; they may be
///   of another type than `x`, whose type the result has
///
/// # Panics
/// If a shape does not fit the others.
pub fn rotate(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let [_, heads, seq, head_dim] = x.dims();
    let [table_heads, _, pairs] = cos.dims();
    assert_shape!(cos, [table_heads, seq, pairs]);
    assert_shape!(sin, [table_heads, seq, pairs]);
    assert_eq!(head_dim, 2 * pairs, "needs heads of {} entries, got {head_dim}", 2 * pairs);
    assert!(
        heads.is_multiple_of(table_heads),
        "needs a multiple of {table_heads} heads, got {heads}"
    );
    let device = x.device();
    if !takes(&device, x.dtype()) || [cos.dtype(), sin.dtype()] != [DType::F32; 2] {
        return reference::rotate(x, cos, sin);
    }
    let (x, cos, sin) = (x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(Dispatch::rotate(x, cos, sin))
}

#[derive(Debug)]
struct RotateBackward;

#[derive(Debug, Clone)]
struct Context<B: RowGradient> {
    /// Only if the tables are trained.
    x: Option<FloatTensor<B>>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
}

impl<B: RowGradient> Backward<B, 3> for RotateBackward {
    type State = Context<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Context { x, cos, sin } = ops.state;
        let [node_x, node_cos, node_sin] = ops.parents;
        let d_out = grads.consume::<B>(&ops.node);
        if let Some(x) = x {
            let [table_heads, _, _] = cos.shape().dims();
            let tables = B::rotate_tables_backward(x, d_out.clone(), table_heads);
            for (node, gradient) in [node_cos, node_sin].into_iter().zip(tables) {
                if let Some(node) = node {
                    grads.register::<B>(node.id, gradient);
                }
            }
        }
        if let Some(node) = node_x {
            grads.register::<B>(node.id, B::rotate_backward(d_out, cos, sin));
        }
    }
}

pub(crate) fn tracked<B: RowGradient, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    cos: FloatTensor<Autodiff<B, C>>,
    sin: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let trained = cos.is_tracked() || sin.is_tracked();
    let prepared =
        RotateBackward.prepare::<C>([x.node(), cos.node(), sin.node()]).compute_bound().stateful();
    let (x, cos, sin) = (x.into_primitive(), cos.into_primitive(), sin.into_primitive());
    let out = B::rotate(x.clone(), cos.clone(), sin.clone());
    match prepared {
        OpsKind::Tracked(prepared) => {
            prepared.finish(Context { x: trained.then_some(x), cos, sin }, out)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}
