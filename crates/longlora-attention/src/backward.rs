//! The gradient: autodiff keeps (q, k, v, out, log-sum-exp), and no scores.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::AutodiffBackend;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use crate::backend::{AttentionBackend, AttentionGradient};
use crate::qkv::{Qkv, Saved};
use crate::segments::Segments;

/// Everything the backward needs.
#[derive(Debug, Clone)]
struct Context<B: AttentionGradient> {
    qkv: Qkv<B>,
    saved: Saved<B>,
    segments: Arc<Segments>,
    softmax_scale: f32,
}

#[derive(Debug)]
struct AttentionBackward;

impl<B: AttentionGradient> Backward<B, 3> for AttentionBackward {
    type State = Context<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node_q, node_k, node_v] = ops.parents;
        let d_out = grads.consume::<B>(&ops.node);
        let Context { qkv, saved, segments, softmax_scale } = ops.state;
        let gradient = B::segment_attention_backward(&qkv, &saved, d_out, &segments, softmax_scale);
        let Qkv { q: dq, k: dk, v: dv } = gradient;
        for (node, gradient) in [(node_q, dq), (node_k, dk), (node_v, dv)] {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: AttentionGradient, C: CheckpointStrategy> AttentionBackend for Autodiff<B, C> {
    fn segment_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        segments: Arc<Segments>,
        softmax_scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let prepared = AttentionBackward
            .prepare::<C>([q.node(), k.node(), v.node()])
            .compute_bound()
            .stateful();
        let qkv = Qkv::<B> { q: q.into_primitive(), k: k.into_primitive(), v: v.into_primitive() };
        let (out, lse) = B::segment_attention(
            qkv.q.clone(),
            qkv.k.clone(),
            qkv.v.clone(),
            segments.clone(),
            softmax_scale,
        );
        let untracked_lse = <Self as AutodiffBackend>::from_inner(lse.clone());
        let out = match prepared {
            OpsKind::Tracked(prepared) => {
                let saved = Saved { out: out.clone(), lse };
                prepared.finish(Context { qkv, saved, segments, softmax_scale }, out)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        };
        (out, untracked_lse)
    }
}
