//! Loss and gradients in the memory of one block, or of as many as there is room for.
//!
//! Forward, most blocks build no graph: only their inputs are kept. The head and its loss run in chunks and hand back
//! the gradient by the hidden states. Backward, blocks are walked from last to first; each of those is run once
//! more from its kept input, this time under autodiff, and its graph is gone before the next one's is built. As many of the
//! last blocks as the memory has room for keep their graphs from the forward instead. The result equals plain
//! autodiff over the whole model, [`crate::reference::gradients`].

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use longlora_adapters::Dropout;
use longlora_attention::AttentionPattern;
use longlora_data::TokenBatch;
use longlora_llama::{Block, Llama, Pass, loss_and_gradient, pull_back};
use rayon::prelude::*;

use crate::batch::{StepBatch, layout};
use crate::execution::Execution;
use crate::kept_input::{InputsWait, KeptInput};
use crate::row_gradient::RowGradient;
use crate::step_gradients::{StepGradients, table_is_looked_up_alone};
use crate::step_output::StepOutput;

/// The gradient of the mean loss over all targets of all micro-batches.
///
/// `llama` is on an autodiff device; parameters that do not require gradients get none. So many micro-batches as
/// `execution` says run side by side, each in memory of its own; their gradients are added up in order, so that the
/// result does not depend on the number of threads.
pub(crate) fn gradients(
    llama: &Llama,
    pattern: AttentionPattern,
    batch: &StepBatch,
    execution: Execution,
) -> (StepGradients, StepOutput) {
    let targets = batch.num_targets();
    let plain = llama.valid();
    let mut sum = GradientsAccumulator::new();
    let mut table = None;
    let mut nll_sum = 0.0;
    let micro_batches: Vec<(Dropout, &TokenBatch)> = batch.with_dropout().collect();
    for side_by_side in micro_batches.chunks(execution.parallel) {
        let results: Vec<(StepGradients, f64)> = side_by_side
            .par_iter()
            .map(|&(dropout, micro_batch)| {
                // Leaves of its own. Burn puts graphs that share a leaf under one lock, and takes that lock and the
                // one of its table of graphs in either order (burn-autodiff 0.22.1, `runtime/graph.rs`: `backward`,
                // `merge`): a forward and a backward side by side would wait for each other forever.
                let llama = plain.clone().train();
                let mut backward = Backward {
                    llama: &llama,
                    plain: &plain,
                    scale: 1.0 / targets as f64,
                    kept_blocks: execution.kept_blocks,
                    inputs_wait: execution.inputs_wait,
                    sum: GradientsAccumulator::new(),
                    table: None,
                };
                let nll = backward.micro_batch(pattern, micro_batch, dropout);
                let whole = backward.sum.grads();
                (StepGradients { whole, table: backward.table }, nll)
            })
            .collect();
        for (grads, nll) in results {
            sum.accumulate(llama, grads.whole);
            table = added(table, grads.table);
            nll_sum += nll;
        }
    }
    (StepGradients { whole: sum.grads(), table }, StepOutput { nll_sum, targets })
}

/// The same forward on both devices.
struct Passes {
    plain: Pass,
    tracked: Pass,
}

/// Inputs that are on their way to the host while the device computes on: more would be in its memory all the while.
const LEAVING: usize = 2;

/// What the forward leaves of a block.
#[expect(clippy::large_enum_variant, reason = "there is one per block, and its tensors are larger")]
enum Kept {
    /// Its input, from which it is run again.
    Input(KeptInput),
    /// Everything.
    Graphs(Graphs),
}

impl Kept {
    /// Waits until what is to wait elsewhere is there.
    fn arrive(&mut self) {
        if let Self::Input(input) = self {
            input.arrive();
        }
    }

    /// Begins to bring back what waits elsewhere.
    fn called_back(self) -> Self {
        match self {
            Self::Input(input) => Self::Input(input.call_back()),
            graphs => graphs,
        }
    }
}

/// The graphs of a block's attention and of the tiles of its MLP.
struct Graphs {
    attention: Graph,
    mlp: Vec<Graph>,
}

/// What the way back needs of one tile of an MLP.
#[expect(clippy::large_enum_variant, reason = "there is one per tile, and its tensors are larger")]
enum Tile {
    Input(Tensor<3>),
    Graph(Graph),
}

/// A piece of the model that was run under autodiff.
struct Graph {
    input: Tensor<3>,
    output: Tensor<3>,
}

impl Graph {
    fn new(input: Tensor<3>, piece: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Self {
        let input = input.autodiff().require_grad();
        let output = piece(input.clone());
        Self { input, output }
    }

    fn plain_output(&self) -> Tensor<3> {
        self.output.clone().without_autodiff()
    }
}

/// One micro-batch on its way back.
struct Backward<'a> {
    llama: &'a Llama,
    /// The same weights off the autodiff device: handles, not copies.
    plain: &'a Llama,
    scale: f64,
    /// Blocks, from the last, that keep their graphs.
    kept_blocks: usize,
    /// Where the inputs of the others wait.
    inputs_wait: InputsWait,
    sum: GradientsAccumulator<Llama>,
    /// Of an embedding table that is not the head.
    table: Option<RowGradient>,
}

impl Backward<'_> {
    /// Adds the gradients of one micro-batch; returns its summed negative log-likelihood.
    fn micro_batch(
        &mut self,
        pattern: AttentionPattern,
        batch: &TokenBatch,
        dropout: Dropout,
    ) -> f64 {
        let layout = layout(batch);
        let pass = |llama: &Llama| llama.pass(pattern, &layout).with_dropout(dropout);
        let ids = batch.inputs(&self.plain.device());

        let passes = Passes { plain: pass(self.plain), tracked: pass(self.llama) };
        let (blocks, last) = self.forward(&ids, &passes);
        let (nll_sum, mut upstream, d_head) = self.head(last, batch.target_ids());
        let mut blocks = blocks.into_iter().enumerate().rev();
        let mut next = blocks.next();
        while let Some((layer, block)) = next {
            // The one below is on its way while this one is computed.
            next = blocks.next().map(|(layer, block)| (layer, block.called_back()));
            upstream = self.block(layer, block, upstream, &passes);
        }
        self.embeddings(ids, upstream, d_head);
        nll_sum
    }

    /// Runs all blocks forward: what is kept of each, and the input of the last norm.
    fn forward(&self, ids: &Tensor<2, Int>, passes: &Passes) -> (Vec<Kept>, Tensor<3>) {
        let blocks = &self.plain.model.layers;
        let first_graph = blocks.len() - self.kept_blocks.min(blocks.len());
        let mut hidden = self.plain.embed(ids.clone());
        let mut kept: Vec<Kept> = vec![];
        for (layer, block) in blocks.iter().enumerate() {
            if layer < first_graph {
                let output = block.forward(hidden.clone(), layer, &passes.plain);
                kept.push(Kept::Input(KeptInput::new(hidden, self.inputs_wait)));
                hidden = output;
                if let Some(earlier) = kept.len().checked_sub(LEAVING + 1) {
                    kept[earlier].arrive();
                }
            } else {
                let (graphs, output) = self.graphs(layer, hidden, passes);
                kept.push(graphs);
                hidden = output;
            }
        }
        (kept, hidden)
    }

    /// Runs one block under autodiff: its graphs and its output.
    fn graphs(&self, layer: usize, input: Tensor<3>, passes: &Passes) -> (Kept, Tensor<3>) {
        let attention = self.attention(layer, input, passes);
        let shape = attention.output.dims();
        let tiles = Block::tiles(attention.plain_output()).into_iter().enumerate();
        let mlp: Vec<Graph> =
            tiles.map(|(tile, hidden)| self.mlp(layer, tile, hidden, passes)).collect();
        let output = Block::join(mlp.iter().map(Graph::plain_output).collect(), shape);
        (Kept::Graphs(Graphs { attention, mlp }), output)
    }

    fn attention(&self, layer: usize, input: Tensor<3>, passes: &Passes) -> Graph {
        let block = &self.llama.model.layers[layer];
        Graph::new(input, |input| block.attend(input, layer, &passes.tracked))
    }

    fn mlp(&self, layer: usize, tile: usize, input: Tensor<3>, passes: &Passes) -> Graph {
        let block = &self.llama.model.layers[layer];
        Graph::new(input, |input| block.feed_forward(input, layer, tile, &passes.tracked))
    }

    /// The way back through one block; the gradient by its input.
    fn block(
        &mut self,
        layer: usize,
        block: Kept,
        upstream: Tensor<3>,
        passes: &Passes,
    ) -> Tensor<3> {
        let shape = upstream.dims();
        let (attention, tiles) = match block {
            Kept::Graphs(Graphs { attention, mlp }) => {
                (attention, mlp.into_iter().map(Tile::Graph).collect::<Vec<_>>())
            }
            Kept::Input(input) => {
                let attention = self.attention(layer, input.into_tensor(), passes);
                let tiles = Block::tiles(attention.plain_output());
                (attention, tiles.into_iter().map(Tile::Input).collect())
            }
        };
        let mut d_hidden = vec![];
        for (index, (tile, upstream)) in tiles.into_iter().zip(Block::tiles(upstream)).enumerate() {
            let graph = match tile {
                Tile::Graph(graph) => graph,
                Tile::Input(input) => self.mlp(layer, index, input, passes),
            };
            d_hidden.push(self.pull_back(graph, upstream));
        }
        self.pull_back(attention, Block::join(d_hidden, shape))
    }

    /// Last norm, head and loss: `(nll_sum, gradient by input, gradient by the head's matrix if it is trained)`.
    fn head(&mut self, input: Tensor<3>, targets: &[i64]) -> (f64, Tensor<3>, Option<Tensor<2>>) {
        let norm = Graph::new(input, |input| self.llama.final_norm(input));
        let [batch, seq, width] = norm.output.dims();
        let loss = loss_and_gradient(
            norm.plain_output().reshape([batch * seq, width]),
            self.plain.head(),
            targets,
            self.scale,
            head_is_trained(self.llama),
        );
        let d_hidden = loss.d_hidden.reshape([batch, seq, width]);
        (loss.nll_sum, self.pull_back(norm, d_hidden), loss.d_head)
    }

    /// Walks one graph back; the gradient by its input.
    fn pull_back(&mut self, Graph { input, output }: Graph, upstream: Tensor<3>) -> Tensor<3> {
        let mut grads = pull_back(output, upstream);
        let d_input = input.grad_remove(&mut grads).expect("the output depends on the input");
        self.sum.accumulate(self.llama, GradientsParams::from_grads(grads, self.llama));
        d_input
    }

    /// Gradients of the embedding table and of the head, which may be one and the same.
    fn embeddings(&mut self, ids: Tensor<2, Int>, upstream: Tensor<3>, d_head: Option<Tensor<2>>) {
        let mut grads = GradientsParams::new();
        let (ids, upstream) = (ids.flatten::<1>(0, 1), upstream.flatten::<2>(0, 1));
        if table_is_looked_up_alone(self.llama) {
            let ids: Vec<i64> = ids.into_data().iter().collect();
            self.table = added(self.table.take(), Some(RowGradient::of_lookup(&ids, upstream)));
            if let (Some(head), Some(d_head)) = (&self.llama.lm_head, d_head) {
                grads.register(head.weight.id, d_head);
            }
        } else if let Some(d_head) = d_head {
            match &self.llama.lm_head {
                Some(head) => grads.register(head.weight.id, d_head),
                // The softmax reaches every row of a table that is the head, too.
                None => {
                    let add = IndexingUpdateOp::Add;
                    let upstream = upstream.cast(d_head.dtype());
                    let d_table = d_head.transpose().select_assign(0, ids, upstream, add);
                    grads.register(self.llama.model.embed_tokens.weight.id, d_table);
                }
            }
        }
        self.sum.accumulate(self.llama, grads);
    }
}

fn added(sum: Option<RowGradient>, term: Option<RowGradient>) -> Option<RowGradient> {
    match (sum, term) {
        (Some(sum), Some(term)) => Some(sum.plus(term)),
        (sum, term) => sum.or(term),
    }
}

fn head_is_trained(llama: &Llama) -> bool {
    match &llama.lm_head {
        Some(head) => head.weight.is_require_grad(),
        None => llama.model.embed_tokens.weight.is_require_grad(),
    }
}
