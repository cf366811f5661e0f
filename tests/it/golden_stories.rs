//! Against `transformers` 4.57.1, f32, on a CPU, for a real model: stories260K, 5 layers, tied head, native context 512.
//!
//! Its files are no part of the project; without them these tests say that they are skipped.

use burn::tensor::Device;
use longlora_adapters::{RopeKind, RopeScaling};
use longlora_attention::{AttentionPattern, GroupSize, Layout, Shift};
use longlora_llama::{Llama, Selection, load_pretrained};

use crate::fixture::{self, Vectors, shared, step_batch};
use crate::gradients::{absolute_error, check_close, of_step};
use longlora_train::Execution;

/// The model, stretched from 512 to 2,048 tokens.
fn stories(test: &str, kind: RopeKind, device: &Device) -> Option<Llama> {
    let mut llama = load_pretrained(&shared(test, "models/stories260k")?, device).unwrap();
    llama.config.rope.scaling = RopeScaling::stretch(kind, 512, 2048);
    Some(llama)
}

/// Logits of 64 and of 512 tokens. They reach 22, and the order of summation is all that may differ: 6.4e-5 was
/// measured.
#[track_caller]
fn check_logits(test: &str, name: &str, kind: RopeKind) {
    let Some(llama) = stories(test, kind, &Device::default()) else { return };
    let file = shared(test, &format!("golden/stories260k/logits_{name}.safetensors")).unwrap();
    let vectors = Vectors::read(&file);
    let ids = vectors.input_ids().remove(0);
    for length in [64, 512] {
        let batch = step_batch(&[ids[..length].to_vec()]);
        let pass = llama.pass(AttentionPattern::Full, &Layout::dense(1, length));
        let logits = llama.logits(batch.micro_batches[0].inputs(&llama.device()), &pass);
        let ours = logits.squeeze_dim::<2>(0).into_data();
        let theirs = vectors.tensor(&format!("logits{length}"));
        let error = absolute_error(&ours, theirs);
        assert!(error < 1e-4, "{name}: logits of {length} tokens are off by {error:.2e}");
    }
}

#[test]
fn logits_of_a_real_model_match_hugging_face() {
    let test = "logits_of_a_real_model_match_hugging_face";
    check_logits(test, "unmodified", RopeKind::None);
    check_logits(test, "linear_x4", RopeKind::Linear);
    check_logits(test, "yarn_x4", RopeKind::Yarn);
    check_logits(test, "llama3_x4", RopeKind::Llama3);
}

/// Loss and every gradient of a step over the first `length` tokens of sampled stories. Sums over 2,048 tokens round
/// differently: 1.2e-5 was measured.
#[track_caller]
fn check_gradients(test: &str, name: &str, length: usize, pattern: AttentionPattern) {
    let device = Device::default().autodiff();
    let Some(llama) = stories(test, RopeKind::Linear, &device) else { return };
    let file = format!("golden/stories260k/grads_linear_x4_{name}_{length}.safetensors");
    let vectors = Vectors::read(&shared(test, &file).unwrap());
    let ids = fixture::json(&shared(test, "golden/stories260k/sampled_stories_ids.json").unwrap());
    let mut ids: Vec<u32> = serde_json::from_value(ids["ids"].clone()).unwrap();
    ids.truncate(length);

    let ours = of_step(
        &llama.train_all(),
        &Selection::Base,
        pattern,
        &step_batch(&[ids]),
        Execution::SMALLEST,
    );
    let case = format!("{name}, {length} tokens");
    let error = (ours.loss / vectors.number("loss") - 1.0).abs();
    assert!(error < 1e-6, "{case}: the loss is off by {error:.2e}");
    check_close(&ours.gradients, &vectors.below("grad."), 2e-5, &case);
}

/// Half of the heads shifted, groups of so many tokens.
fn shifted(group_size: usize) -> AttentionPattern {
    let group_size = GroupSize::Tokens(group_size);
    AttentionPattern::Shifted { group_size, shift: Shift::HalfHeads }
}

#[test]
fn gradients_of_a_real_model_match_hugging_face() {
    let test = "gradients_of_a_real_model_match_hugging_face";
    check_gradients(test, "eager", 512, AttentionPattern::Full);
    check_gradients(test, "eager", 2048, AttentionPattern::Full);
}

#[test]
fn gradients_of_a_real_model_match_longloras_flash_code() {
    let test = "gradients_of_a_real_model_match_longloras_flash_code";
    check_gradients(test, "s2_flash", 512, shifted(128));
    check_gradients(test, "s2_flash", 2048, shifted(512));
}
