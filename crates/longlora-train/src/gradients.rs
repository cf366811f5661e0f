//! Loss and gradients in the memory of one block.
//!
//! Forward, no graph is built: only the input of each block is kept. The head and its loss run in chunks and hand back
//! the gradient by the hidden states. Backward, blocks are walked from last to first; each is run once more from its
//! kept input, this time under autodiff, and its graph is gone before the next one's is built. The result equals plain
//! autodiff over the whole model, [`crate::reference::gradients`].

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, IndexingUpdateOp, Int, Tensor};
use longlora_attention::AttentionPattern;
use longlora_data::TokenBatch;
use longlora_llama::{Llama, Pass, loss_and_gradient};
use rayon::prelude::*;

use crate::batch::{StepBatch, layout};
use crate::step_output::StepOutput;

/// The gradient of the mean loss over all targets of all micro-batches.
///
/// `llama` is on an autodiff device; parameters that do not require gradients get none. So many micro-batches as
/// `parallel` says run side by side, each in memory of its own; their gradients are added up in order, so that the
/// result does not depend on the number of threads.
pub(crate) fn gradients(
    llama: &Llama,
    pattern: AttentionPattern,
    batch: &StepBatch,
    parallel: usize,
) -> (GradientsParams, StepOutput) {
    let targets = batch.num_targets();
    let plain = llama.valid();
    let mut sum = GradientsAccumulator::new();
    let mut nll_sum = 0.0;
    let seeded: Vec<(u64, &TokenBatch)> =
        (batch.dropout_seed..).zip(&batch.micro_batches).collect();
    for side_by_side in seeded.chunks(parallel) {
        let results: Vec<(GradientsParams, f64)> = side_by_side
            .par_iter()
            .map(|&(seed, micro_batch)| {
                // Leaves of its own. Burn puts graphs that share a leaf under one lock, and takes that lock and the
                // one of its table of graphs in either order (burn-autodiff 0.22.1, `runtime/graph.rs`: `backward`,
                // `merge`): a forward and a backward side by side would wait for each other forever.
                let llama = plain.clone().train();
                let mut backward = Backward {
                    llama: &llama,
                    plain: &plain,
                    scale: 1.0 / targets as f64,
                    sum: GradientsAccumulator::new(),
                };
                let nll = backward.micro_batch(pattern, micro_batch, seed);
                (backward.sum.grads(), nll)
            })
            .collect();
        for (grads, nll) in results {
            sum.accumulate(llama, grads);
            nll_sum += nll;
        }
    }
    (sum.grads(), StepOutput { nll_sum, targets })
}

/// One micro-batch on its way back.
struct Backward<'a> {
    llama: &'a Llama,
    /// The same weights off the autodiff device: handles, not copies.
    plain: &'a Llama,
    scale: f64,
    sum: GradientsAccumulator<Llama>,
}

impl Backward<'_> {
    /// Adds the gradients of one micro-batch; returns its summed negative log-likelihood.
    fn micro_batch(&mut self, pattern: AttentionPattern, batch: &TokenBatch, seed: u64) -> f64 {
        let layout = layout(batch);
        let pass = |llama: &Llama| llama.pass(pattern, &layout).with_dropout(seed);
        let ids = batch.inputs(&self.plain.device());

        let mut inputs = self.block_inputs(&ids, &pass(self.plain));
        let last = inputs.pop().expect("the last norm has an input");
        let (nll_sum, mut upstream, d_head) = self.head(last, batch.target_ids());

        let pass = pass(self.llama);
        for (layer, input) in inputs.into_iter().enumerate().rev() {
            upstream = self.block(layer, input, upstream, &pass);
        }
        self.embeddings(ids, upstream, d_head);
        nll_sum
    }

    /// Runs all blocks forward; the inputs of each, and of the last norm.
    fn block_inputs(&self, ids: &Tensor<2, Int>, pass: &Pass) -> Vec<Tensor<3>> {
        let mut inputs = vec![self.plain.model.embed_tokens.forward(ids.clone())];
        for (layer, block) in self.plain.model.layers.iter().enumerate() {
            let input = inputs[layer].clone();
            inputs.push(block.forward(input, layer, pass));
        }
        inputs
    }

    /// Last norm, head and loss: `(nll_sum, gradient by input, gradient by the head's matrix if it is trained)`.
    fn head(&mut self, input: Tensor<3>, targets: &[i64]) -> (f64, Tensor<3>, Option<Tensor<2>>) {
        let input = input.autodiff().require_grad();
        let hidden = self.llama.final_norm(input.clone());
        let [batch, seq, width] = hidden.dims();
        let loss = loss_and_gradient(
            hidden.clone().without_autodiff().reshape([batch * seq, width]),
            self.plain.head(),
            targets,
            self.scale,
            head_is_trained(self.llama),
        );
        let d_hidden = loss.d_hidden.reshape([batch, seq, width]);
        let mut grads = pull_back(hidden, d_hidden);
        let d_input = take(&input, &mut grads);
        self.add(grads);
        (loss.nll_sum, d_input, loss.d_head)
    }

    /// Runs one block under autodiff; the gradient by its input.
    fn block(
        &mut self,
        layer: usize,
        input: Tensor<3>,
        upstream: Tensor<3>,
        pass: &Pass,
    ) -> Tensor<3> {
        let input = input.autodiff().require_grad();
        let output = self.llama.model.layers[layer].forward(input.clone(), layer, pass);
        let mut grads = pull_back(output, upstream);
        let d_input = take(&input, &mut grads);
        self.add(grads);
        d_input
    }

    /// Gradients of the embedding table and of the head, which may be one and the same.
    fn embeddings(&mut self, ids: Tensor<2, Int>, upstream: Tensor<3>, d_head: Option<Tensor<2>>) {
        let table = &self.llama.model.embed_tokens.weight;
        let mut grads = GradientsParams::new();
        let tied = self.llama.lm_head.is_none();
        if table.is_require_grad() {
            let zeros = Tensor::<2>::zeros(table.dims(), &upstream.device());
            let d_table = match (&d_head, tied) {
                (Some(d_head), true) => d_head.clone().transpose(),
                _ => zeros,
            };
            let rows = ids.flatten::<1>(0, 1);
            let upstream = upstream.flatten::<2>(0, 1);
            let d_table = d_table.select_assign(0, rows, upstream, IndexingUpdateOp::Add);
            grads.register(table.id, d_table);
        }
        if let (Some(head), Some(d_head)) = (&self.llama.lm_head, d_head) {
            grads.register(head.weight.id, d_head);
        }
        self.sum.accumulate(self.llama, grads);
    }

    fn add(&mut self, grads: Gradients) {
        self.sum.accumulate(self.llama, GradientsParams::from_grads(grads, self.llama));
    }
}

fn head_is_trained(llama: &Llama) -> bool {
    match &llama.lm_head {
        Some(head) => head.weight.is_require_grad(),
        None => llama.model.embed_tokens.weight.is_require_grad(),
    }
}

/// The gradients of `⟨output, upstream⟩`: the chain rule through one piece of the model.
fn pull_back(output: Tensor<3>, upstream: Tensor<3>) -> Gradients {
    (output * upstream.autodiff()).sum().backward()
}

fn take(input: &Tensor<3>, grads: &mut Gradients) -> Tensor<3> {
    input.grad_remove(grads).expect("the output depends on the input")
}
