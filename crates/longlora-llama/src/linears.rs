//! The linear layers of a block, whatever its MLP is.

use longlora_adapters::LoraLinear;

use crate::attention::SelfAttention;
use crate::block::Block;
use crate::feed_forward::FeedForward;
use crate::mlp::Mlp;

impl Block {
    pub(crate) fn linears(&self) -> Vec<&LoraLinear> {
        let SelfAttention { q_proj, k_proj, v_proj, o_proj, .. } = &self.self_attn;
        let mut linears = vec![q_proj, k_proj, v_proj, o_proj];
        let mlps = match &self.mlp {
            FeedForward::Dense(mlp) => std::slice::from_ref(mlp),
            FeedForward::Experts(experts) => &experts.experts,
        };
        for Mlp { gate_proj, up_proj, down_proj } in mlps {
            linears.extend([gate_proj, up_proj, down_proj]);
        }
        linears
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut LoraLinear> {
        let SelfAttention { q_proj, k_proj, v_proj, o_proj, .. } = &mut self.self_attn;
        let mut linears = vec![q_proj, k_proj, v_proj, o_proj];
        let mlps = match &mut self.mlp {
            FeedForward::Dense(mlp) => std::slice::from_mut(mlp),
            FeedForward::Experts(experts) => &mut experts.experts,
        };
        for Mlp { gate_proj, up_proj, down_proj } in mlps {
            linears.extend([gate_proj, up_proj, down_proj]);
        }
        linears
    }
}
