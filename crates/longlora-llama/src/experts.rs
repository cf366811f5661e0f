//! A mixture of experts (Mixtral, arXiv:2401.04088, sec. 2.1).

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::compute::in_type;
use crate::mlp::Mlp;

/// A router and the MLPs among which it chooses, token by token.
///
/// `y = Σ softmax(top_k(x·W_gate))_e · expert_e(x)`: the weights are those of the chosen experts alone.
#[derive(Module, Debug)]
pub struct Experts {
    /// `[hidden_size, experts]`
    pub gate: Linear,
    /// The MLPs.
    pub experts: Vec<Mlp>,
    #[module(skip)]
    pub(crate) per_token: usize,
}

impl Experts {
    /// Each expert runs on the tokens that chose it, and on no others.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, seq, hidden_size]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let x = x.reshape([batch * seq, width]);
        let (weights, chosen) = self.route(x.clone());
        let mut out = x.zeros_like();
        for (expert, chosen) in self.experts.iter().zip(chosen) {
            if chosen.is_empty() {
                continue;
            }
            let [tokens, slots] = chosen.tensors(&x);
            let y = expert.forward(x.clone().select(0, tokens.clone()), None);
            // One weight per token and slot, of which each token gave this expert one.
            let weight = weights.clone().reshape([batch * seq * self.per_token]).select(0, slots);
            out = out.select_assign(
                0,
                tokens,
                y.clone() * in_type(weight.unsqueeze_dim(1), y.dtype()),
                IndexingUpdateOp::Add,
            );
        }
        out.reshape([batch, seq, width])
    }

    /// The weights of the chosen experts, `[tokens, per_token]`, and for each expert the tokens that chose it.
    fn route(&self, x: Tensor<2>) -> (Tensor<2>, Vec<Chosen>) {
        // Which experts are chosen hangs by small differences.
        let scores = self.gate.forward(in_type(x, DType::F32));
        let (top, experts) = scores.topk_with_indices(self.per_token, 1);
        let mut chosen = vec![Chosen::default(); self.experts.len()];
        for (slot, expert) in experts.into_data().iter::<i64>().enumerate() {
            let expert = usize::try_from(expert).expect("an index is not negative");
            chosen[expert].tokens.push((slot / self.per_token) as i64);
            chosen[expert].slots.push(slot as i64);
        }
        (softmax(top, 1), chosen)
    }
}

/// The tokens that chose one expert.
#[derive(Clone, Default)]
struct Chosen {
    /// Which tokens.
    tokens: Vec<i64>,
    /// The place of the choice among all choices of all tokens.
    slots: Vec<i64>,
}

impl Chosen {
    fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn tensors(self, like: &Tensor<2>) -> [Tensor<1, Int>; 2] {
        [self.tokens, self.slots].map(|indices| {
            let count = indices.len();
            Tensor::from_data(TensorData::new(indices, [count]), &like.device())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::{Device, Distribution};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::LlamaConfig;
    use crate::feed_forward::FeedForward;

    fn experts(per_token: usize) -> Experts {
        let Value::Object(config) = json!({
            "model_type": "mixtral", "vocab_size": 8, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 8, "num_local_experts": 5, "num_experts_per_tok": per_token,
        }) else {
            unreachable!("the literal is an object")
        };
        let device = Device::default();
        device.seed(7);
        let config = LlamaConfig::from_hugging_face(config, Path::new("config.json")).unwrap();
        let llama = config.init(&device);
        match llama.model.layers.into_iter().next().map(|block| block.mlp) {
            Some(FeedForward::Experts(experts)) => experts,
            other => panic!("needs experts, got {other:?}"),
        }
    }

    /// The obvious twin: every expert computes every token, and the weights of those not chosen are zero.
    fn dense(experts: &Experts, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let x = x.reshape([batch * seq, width]);
        let scores = experts.gate.forward(x.clone());
        let smallest = scores.clone().topk(experts.per_token, 1).min_dim(1);
        let hidden = scores.clone().lower(smallest.expand(scores.dims()));
        let weights = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 1);
        let parts = experts.experts.iter().enumerate().map(|(index, expert)| {
            expert.forward(x.clone(), None) * weights.clone().narrow(1, index, 1)
        });
        parts.reduce(|sum, part| sum + part).unwrap().reshape([batch, seq, width])
    }

    #[test]
    fn tokens_sent_to_their_experts_come_back_as_if_all_had_computed_all() {
        for per_token in [1, 2, 5] {
            let experts = experts(per_token);
            let x = Tensor::random([2, 33, 16], Distribution::Default, &Device::default()) * 30.0;
            let (ours, theirs) = (experts.forward(x.clone()), dense(&experts, x));
            let error = (ours - theirs.clone()).abs().max() / theirs.abs().max();
            let error = error.into_scalar::<f32>();
            assert!(error < 1e-6, "{per_token} of 5 experts: off by {error:e}");
        }
    }
}
