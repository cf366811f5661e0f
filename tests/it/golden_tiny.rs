//! Against `transformers` 4.57.1, f32, on a CPU: two layers, 4 heads, 2 kv heads; `golden/README.md` says more.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use longlora_attention::{AttentionPattern, GroupSize, Layout, Shift};
use longlora_llama::{Llama, Selection, load_pretrained};
use serde_json::json;

use crate::fixture::{self, Vectors, golden, model_with, step_batch};
use crate::gradients::{check_close, of_reference, of_step, relative_error};
use longlora_train::Execution;

/// S²-Attn without the leak: half of the heads shifted, groups of 16 tokens.
const SHIFTED: AttentionPattern =
    AttentionPattern::Shifted { group_size: GroupSize::Tokens(16), shift: Shift::HalfHeads };

/// The tiny model with the RoPE scaling of case `name`, set in `config.json` as a user would.
#[track_caller]
fn check(name: &str, pattern: AttentionPattern) {
    let facts = &fixture::json(&golden("tiny/summary.json"))[name];
    let folder = model_with(
        &golden("tiny/model"),
        json!({
            "rope_scaling": facts["rope_scaling"],
            "max_position_embeddings": facts["max_position_embeddings"],
        }),
    );
    let vectors = Vectors::read(&golden(&format!("tiny/{name}.safetensors")));
    check_model(name, folder.path(), &vectors, pattern);
}

/// Logits, loss, and the gradient of every parameter, from a model folder.
///
/// Another order of summation in f32 is all that may differ: transformers' own two attention paths, eager and sdpa,
/// differ by 3e-6 in logits of up to 5. Relative to the largest entry, the largest errors that were measured are 1.3e-6
/// for logits, 3e-7 for the loss and 2.9e-6 for gradients.
#[track_caller]
pub(crate) fn check_model(name: &str, model: &Path, vectors: &Vectors, pattern: AttentionPattern) {
    let llama = load_pretrained(model, &Device::default().autodiff()).unwrap().train_all();
    check_llama(name, llama, vectors, pattern);
}

/// The same, of a model at hand.
#[track_caller]
pub(crate) fn check_llama(name: &str, llama: Llama, vectors: &Vectors, pattern: AttentionPattern) {
    let batch = step_batch(&vectors.input_ids());

    let plain = llama.valid();
    let ids = batch.micro_batches[0].inputs(&plain.device());
    let pass = plain.pass(pattern, &Layout::dense(ids.dims()[0], ids.dims()[1]));
    let error = relative_error(&plain.logits(ids, &pass).into_data(), vectors.tensor("logits"));
    assert!(error < 3e-6, "{name}: logits are off by {error:.2e} of the largest");

    let of_step = of_step(&llama, &Selection::Base, pattern, &batch, Execution::SMALLEST);
    let of_reference = of_reference(&llama, &Selection::Base, pattern, &batch);
    for (path, ours) in [("step", of_step), ("reference", of_reference)] {
        let case = format!("{name}, {path}");
        let error = (ours.loss / vectors.number("loss") - 1.0).abs();
        assert!(error < 1e-6, "{case}: the loss is off by {error:.2e}");
        check_close(&ours.gradients, &vectors.below("grad."), 1e-5, &case);
    }
}

#[test]
fn full_attention_matches_hugging_face() {
    check("full_b1s64", AttentionPattern::Full);
    check("full_b2s64", AttentionPattern::Full);
}

#[test]
fn rope_scalings_match_hugging_face() {
    check("linear_x4_b2s64", AttentionPattern::Full);
    check("yarn_x4_b2s64", AttentionPattern::Full);
    check("llama3_x4_b2s64", AttentionPattern::Full);
}

#[test]
fn shifted_attention_matches_longloras_flash_code() {
    check("s2_flash_b1s64_G16", SHIFTED);
}
