//! A mixture of experts (Mixtral, arXiv:2401.04088, sec. 2.1).

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};

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
            out = out.select_assign(0, tokens, y * weight.unsqueeze_dim(1), IndexingUpdateOp::Add);
        }
        out.reshape([batch, seq, width])
    }

    /// The weights of the chosen experts, `[tokens, per_token]`, and for each expert the tokens that chose it.
    fn route(&self, x: Tensor<2>) -> (Tensor<2>, Vec<Chosen>) {
        let scores = self.gate.forward(x);
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
