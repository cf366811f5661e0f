//! Inputs of blocks that wait in the host's memory; on a GPU they really leave it.

use burn::tensor::Device;
use longlora_adapters::Dropout;
use longlora_attention::{AttentionPattern, GroupSize, Shift};
use longlora_data::TokenBatch;
use longlora_llama::Selection;
use longlora_train::{Execution, InputsWait, StepBatch};
use serde_json::json;

use crate::gradients::of_step;
use crate::random::{config, redraw, window};

#[test]
fn a_step_is_the_same_to_the_bit() {
    let vocab = 37;
    let pattern =
        AttentionPattern::Shifted { group_size: GroupSize::Tokens(8), shift: Shift::HalfHeads };
    let config = config(json!({ "num_hidden_layers": 5 }));
    let llama = redraw(config.init(&Device::default().autodiff()).train_all(), 11);
    let windows = [29, 17].map(|length| [window(length, &[0, 9], vocab, length as u64)]);
    let batch = StepBatch {
        micro_batches: windows.map(|windows| TokenBatch::from_windows(&windows, 0)).into(),
        dropout: Dropout::new(71),
    };
    let [here, away] = [InputsWait::OnDevice, InputsWait::InHostMemory].map(|inputs_wait| {
        let execution = Execution { inputs_wait, ..Execution::SMALLEST };
        of_step(&llama, &Selection::Base, pattern, &batch, execution)
    });
    assert_eq!(away.loss.to_bits(), here.loss.to_bits());
    assert_eq!(away.gradients, here.gradients);
}
