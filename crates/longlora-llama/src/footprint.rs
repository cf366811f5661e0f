//! What a training step holds in memory, predicted from the model's sizes.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use longlora_adapters::LoraLinear;
use longlora_kernels::nf4;

use crate::attention::SelfAttention;
use crate::block::{Block, TOKENS_PER_TILE};
use crate::feed_forward::FeedForward;
use crate::llama::Llama;
use crate::mlp::Mlp;
use crate::parameters::Selection;
use crate::storage::{WeightStorage, is_narrow};
use crate::trainable::count_trainable;

const F32: usize = size_of::<f32>();

/// Bytes of a training step, by what they grow with.
///
/// A block keeps what its operations read again in their backwards: the input of a norm, the rotated queries and keys,
/// the output of attention, gate and up of the MLP, and the input of every layer with something to train. A frozen layer
/// keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The weights, as they are kept.
    pub weights: u64,
    /// Those of them that are in memory already.
    pub read: u64,
    /// The largest matrix in f32, if it is kept in bf16 or NF4: a micro-batch widens one at a time to compute with it.
    pub widened: u64,
    /// Gradients and AdamW's two moments of what is trained, all of it: of an embedding table that is not the head they
    /// are kept for the rows that occurred alone, and how many that will be is not known before.
    pub state: u64,
    /// The logits that exist at a time in a micro-batch, and on a GPU their gradients, with what a trained head takes beside them.
    pub logits: u64,
    /// The gradient of a trained table that is the head, once more: a micro-batch lays it out as the table lies.
    pub turned: u64,
    /// Blocks.
    pub blocks: usize,
    /// Per token: the input of a block.
    pub input: u64,
    /// Per token: gradients on their way.
    pub per_token: u64,
    /// Per token that one block keeps of its attention.
    pub of_attention: u64,
    /// Per token that one block keeps of its MLP.
    pub of_mlp: u64,
    /// Per token of gradients inside an MLP.
    pub inside_mlp: u64,
}

impl Footprint {
    /// Predicts it; weights that were never read are counted in f32, without being drawn.
    pub fn of(llama: &Llama, selection: &Selection) -> Self {
        Self::kept_as(WeightStorage::F32, llama, selection)
    }

    /// The same, where weights that were not read yet will be kept as `storage` says.
    pub fn kept_as(storage: WeightStorage, llama: &Llama, selection: &Selection) -> Self {
        let llama = &storage.prepare(llama.clone());
        let trainable = count_trainable(llama, selection);
        let hidden = llama.config.hidden_size;
        let sizes = Sizes {
            hidden,
            shared_offset: llama.model.rope_offset.is_some(),
            all: matches!(selection, Selection::Base),
        };
        let blocks = &llama.model.layers;
        let activation = llama.compute.dtype().size();
        let largest = |of_block: &dyn Fn(&Block) -> usize| {
            (blocks.iter().map(of_block).max().unwrap_or(0) * activation) as u64
        };
        let mut kept =
            Kept { storage, selection, path: vec![], bytes: 0, read: 0, largest_narrow: 0 };
        llama.visit(&mut kept);
        Self {
            weights: kept.bytes as u64,
            read: kept.read as u64,
            widened: (kept.largest_narrow * F32) as u64,
            state: (3 * trainable.total() * F32) as u64,
            logits: logits(llama, selection) as u64,
            turned: turned(llama, selection) as u64,
            blocks: blocks.len(),
            input: (hidden * activation) as u64,
            per_token: (7 * hidden * activation) as u64,
            of_attention: largest(&|block| sizes.attention(&block.self_attn)),
            // The input of its norm, and what comes after.
            of_mlp: largest(&|block| hidden + sizes.feed_forward(&block.mlp)),
            inside_mlp: largest(&|block| inside(&block.mlp)),
        }
    }

    /// The peak of a step over so many micro-batches of `tokens` tokens at once, when so many blocks keep their
    /// activations, and as many `gradients` of all that is trained are held: one, or one for each of those and their sum. With
    /// `inputs_away`, the inputs of the others wait elsewhere, but for two on their way.
    ///
    /// Or of what comes after it: to save the moments, they are copied.
    pub fn peak(
        &self,
        micro_batches: usize,
        tokens: usize,
        gradients: usize,
        kept_blocks: usize,
        inputs_away: bool,
    ) -> u64 {
        let trained = self.state / 3;
        let saving = self.weights + 4 * trained;
        let micro_batches = micro_batches as u64;
        let all = micro_batches * tokens as u64;
        let tile = micro_batches * tokens.min(TOKENS_PER_TILE) as u64;
        let kept = kept_blocks as u64 * all * (self.of_attention + self.of_mlp);
        // A block that is run again takes the place of those that were kept.
        let again = if kept_blocks < self.blocks {
            all * self.of_attention + tile * self.of_mlp
        } else {
            0
        };
        let widened = micro_batches * self.widened;
        let inputs = if inputs_away { kept_blocks.max(2).min(self.blocks) } else { self.blocks };
        let per_token = self.per_token + inputs as u64 * self.input;
        let state = self.state + (gradients as u64 - 1) * trained;
        let of_head = micro_batches * (self.logits + self.turned);
        let steady = self.weights + widened + state + of_head + all * per_token;
        (steady + kept.max(again) + tile * self.inside_mlp).max(saving)
    }
}

/// On the processor gradients take the place of logits. On a GPU they stand beside them, in the type of activations, and a
/// trained head has a second gradient while a chunk's is added to it, and is narrowed to that type.
fn logits(llama: &Llama, selection: &Selection) -> usize {
    let at_once = longlora_kernels::logits_at_once(&llama.device());
    if llama.device().without_autodiff() == Device::flex() {
        return at_once * F32;
    }
    let activation = llama.compute.dtype().size();
    let head_is_trained = selection.contains(match &llama.lm_head {
        Some(_) => "lm_head.weight",
        None => "model.embed_tokens.weight",
    });
    let of_weight = if activation < F32 { F32 + activation } else { F32 };
    let of_head = match head_is_trained {
        true => llama.config.hidden_size * llama.config.vocab_size * of_weight,
        false => 0,
    };
    at_once * (F32 + activation) + of_head
}

fn turned(llama: &Llama, selection: &Selection) -> usize {
    let is_trained = selection.contains("model.embed_tokens.weight");
    let table = llama.config.hidden_size * llama.config.vocab_size * F32;
    if llama.lm_head.is_none() && is_trained { table } else { 0 }
}

/// Parameters as they are kept.
struct Kept<'a> {
    /// Of what is not read yet, and not trained.
    storage: WeightStorage,
    selection: &'a Selection,
    path: Vec<String>,
    bytes: usize,
    /// Of those, what was read.
    read: usize,
    /// Numbers of the largest one in bf16 or NF4.
    largest_narrow: usize,
}

impl Kept<'_> {
    fn is_narrow<const D: usize>(&self, param: &Param<Tensor<D>>) -> bool {
        if param.is_initialized() {
            return is_narrow(param);
        }
        let path = self.path.join(".");
        let device = param.lazy_device();
        self.storage.of(&path, &device) == DType::BF16 && !self.selection.contains(&path)
    }
}

impl ModuleVisitor for Kept<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (floats, narrow) = (param.lazy_shape().num_elements(), self.is_narrow(param));
        let bytes = if narrow { floats * F32 / 2 } else { floats * F32 };
        self.bytes += bytes;
        if param.is_initialized() {
            self.read += bytes;
        }
        if narrow {
            self.largest_narrow = self.largest_narrow.max(floats);
        }
    }

    /// Blocks of NF4.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let words = param.lazy_shape().num_elements();
        self.bytes += words * size_of::<i32>();
        if param.is_initialized() {
            self.read += words * size_of::<i32>();
        }
        self.largest_narrow = self.largest_narrow.max(nf4::width(words));
    }
}

/// What the layers of a block have in common.
struct Sizes {
    hidden: usize,
    /// Whether the rotation is trained for all layers together.
    shared_offset: bool,
    /// Whether every weight is trained.
    all: bool,
}

impl Sizes {
    /// Floats per token that attention keeps.
    fn attention(&self, attention: &SelfAttention) -> usize {
        let SelfAttention { q_proj, k_proj, v_proj, o_proj, rope_offset, .. } = attention;
        let [queries, keys] = [q_proj, k_proj].map(d_output);
        let input = self.input(&[q_proj, k_proj, v_proj], self.hidden);
        let joined = self.input(&[o_proj], queries);
        let of_layers: usize = [q_proj, k_proj, v_proj, o_proj].map(own).iter().sum();
        // q, k, v and the output; q and k before their norm, and before a rotation that is trained.
        let mut copies = 2 * queries + 2 * keys;
        copies += if attention.q_norm.is_some() { queries + keys } else { 0 };
        let trained = rope_offset.is_some() || self.shared_offset;
        copies += if trained { queries + keys } else { 0 };
        input + joined + of_layers + copies + queries / attention.head_dim
    }

    /// Floats per token that an MLP, or a mixture of them, keeps.
    fn feed_forward(&self, mlp: &FeedForward) -> usize {
        match mlp {
            FeedForward::Dense(mlp) => self.dense(mlp),
            FeedForward::Experts(experts) => {
                let of_each = experts.experts.iter().map(|mlp| 2 * self.hidden + self.dense(mlp));
                self.hidden + experts.per_token * of_each.max().unwrap_or(0)
            }
        }
    }

    fn dense(&self, Mlp { gate_proj, up_proj, down_proj }: &Mlp) -> usize {
        let width = d_output(gate_proj);
        let inputs =
            self.input(&[gate_proj, up_proj], self.hidden) + self.input(&[down_proj], width);
        inputs + 2 * width + [gate_proj, up_proj, down_proj].map(own).iter().sum::<usize>()
    }

    /// The input that some layers share, if the gradient of something trained in one of them needs it.
    fn input(&self, layers: &[&LoraLinear], width: usize) -> usize {
        let read_again = self.all || layers.iter().any(|layer| layer.update.is_some());
        if read_again { width } else { 0 }
    }
}

/// Floats per token of gradients inside an MLP.
fn inside(mlp: &FeedForward) -> usize {
    match mlp {
        FeedForward::Dense(mlp) => 4 * d_output(&mlp.gate_proj),
        FeedForward::Experts(experts) => {
            let widest = experts.experts.iter().map(|mlp| 4 * d_output(&mlp.gate_proj)).max();
            experts.per_token * widest.unwrap_or(0)
        }
    }
}

fn d_output(layer: &LoraLinear) -> usize {
    layer.base.dims()[1]
}

/// What a layer keeps beside its input: the low-rank product; the dropped input; with DoRA, its outputs.
fn own(layer: &LoraLinear) -> usize {
    let [d_input, d_output] = layer.base.dims();
    let Some(update) = &layer.update else { return 0 };
    let dropped = if update.dropout > 0.0 { d_input } else { 0 };
    let decomposed = if update.magnitude.is_some() { 2 * d_output } else { 0 };
    update.lora_b.lazy_shape()[0] + dropped + decomposed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number another one, so that none can stand for another.
    const SMALL: Footprint = Footprint {
        weights: 1_000,
        read: 17,
        widened: 10,
        state: 300,
        logits: 7,
        turned: 19,
        blocks: 4,
        input: 2,
        per_token: 3,
        of_attention: 5,
        of_mlp: 11,
        inside_mlp: 13,
    };

    /// Two micro-batches of 5,000 tokens, and three gradients of 100 bytes, of which `state` holds one: `inputs` inputs of
    /// blocks per token, and `of_blocks` bytes in blocks.
    #[track_caller]
    fn check(footprint: Footprint, kept: usize, away: bool, inputs: u64, of_blocks: u64) {
        let per_token = 10_000 * (3 + 2 * inputs);
        let inside_tiles = 2 * 4_096 * 13;
        let expected = 1_000 + 2 * 10 + 500 + 2 * (7 + 19) + per_token + of_blocks + inside_tiles;
        let found = footprint.peak(2, 5_000, 3, kept, away);
        assert_eq!(found, expected, "{kept} blocks kept, inputs away: {away}");
    }

    #[test]
    fn a_step_holds_all_its_terms() {
        let run_again = 10_000 * 5 + 2 * 4_096 * 11;
        let of_a_block = 10_000 * (5 + 11);
        check(SMALL, 0, false, 4, run_again);
        check(SMALL, 1, false, 4, of_a_block);
        check(SMALL, 4, false, 4, 4 * of_a_block);
        // What is on its way, and what is kept with its block.
        check(SMALL, 0, true, 2, run_again);
        check(SMALL, 3, true, 3, 3 * of_a_block);
        check(Footprint { blocks: 1, ..SMALL }, 0, true, 1, run_again);
        assert_eq!(SMALL.peak(2, 5_000, 3, 1, false), 378_068);
    }

    /// Of ten tokens, which are less than a tile.
    #[test]
    fn a_short_text_is_one_tile_and_to_save_many_moments_takes_more_than_its_step() {
        let step = 1_000 + 10 + 300 + 7 + 19 + 10 * (3 + 4 * 2) + 10 * (5 + 11) + 10 * 13;
        assert_eq!(SMALL.peak(1, 10, 1, 0, false), step);
        let many = Footprint { state: 300_000, ..SMALL };
        assert_eq!(many.peak(1, 10, 1, 0, false), 1_000 + 4 * 100_000);
    }
}
