//! The linear layers of a block, whatever its MLP is.

use longlora_adapters::LoraLinear;
use longlora_kernels::nf4;

use crate::attention::SelfAttention;
use crate::block::Block;
use crate::feed_forward::FeedForward;
use crate::llama::Llama;
use crate::mlp::Mlp;

/// Linear layers of blocks, by whether [NF4](crate::WeightStorage::Nf4) can keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayersInNf4 {
    /// Those whose rows are of whole blocks.
    pub fitting: usize,
    /// All.
    pub all: usize,
}

impl Llama {
    /// How many layers NF4 keeps, or would.
    pub fn layers_in_nf4(&self) -> LayersInNf4 {
        let layers: Vec<_> = self.model.layers.iter().flat_map(Block::linears).collect();
        let fits = |layer: &&&LoraLinear| layer.base.dims()[0].is_multiple_of(nf4::BLOCK);
        LayersInNf4 { fitting: layers.iter().filter(fits).count(), all: layers.len() }
    }
}

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
