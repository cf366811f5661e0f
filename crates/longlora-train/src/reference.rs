//! The slow, obvious twin of the step: plain autodiff over the whole model and all logits at once.

use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use longlora_attention::AttentionPattern;
use longlora_llama::Llama;

use crate::batch::{StepBatch, layout};
use crate::step_output::StepOutput;

/// The gradient of the mean loss over all targets of all micro-batches; the same as the step's.
pub fn gradients(
    llama: &Llama,
    pattern: AttentionPattern,
    batch: &StepBatch,
) -> (GradientsParams, StepOutput) {
    let targets = batch.num_targets();
    let (device, sums) = (llama.device(), llama.compute.of_sums());
    let mut nll_sum: Tensor<1> = Tensor::zeros([1], (&device, sums));
    for (dropout, micro_batch) in batch.with_dropout() {
        let pass = llama.pass(pattern, &layout(micro_batch)).with_dropout(dropout);
        let logits = llama.logits(micro_batch.inputs(&device), &pass);
        let target_ids = micro_batch.target_ids();
        let rows = target_ids.len();
        let counts: Vec<f32> =
            target_ids.iter().map(|&id| if id < 0 { 0.0 } else { 1.0 }).collect();
        let counts = Tensor::<2>::from_data(TensorData::new(counts, [rows, 1]), (&device, sums));
        let ids: Vec<i64> = target_ids.iter().map(|&id| id.max(0)).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, 1]), &device);
        let log_likelihoods = log_softmax(logits.flatten::<2>(0, 1).cast(sums), 1).gather(1, ids);
        nll_sum = nll_sum - (log_likelihoods * counts).sum();
    }
    let loss = nll_sum.clone().div_scalar(targets as f64);
    let grads = GradientsParams::from_grads(loss.backward(), llama);
    let nll_sum = nll_sum.into_data().iter::<f64>().next().expect("a sum is one number");
    (grads, StepOutput { nll_sum, targets })
}
