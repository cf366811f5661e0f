//! Against PEFT 0.17.1 on `transformers` 4.57.1, f32, on a CPU: rank 8 on q, k, v and o of the tiny model.

use std::path::Path;

use burn::module::{Module, ParamGroup};
use burn::tensor::Device;
use burn::train::TrainStep;
use longlora_adapters::{AdapterConfig, RopeGranularity, RopeOffsetConfig};
use longlora_attention::{AttentionPattern, GroupSize, Layout, Shift};
use longlora_llama::{
    AdapterFacts, BaseModel, Llama, Selection, collect, load_adapter, load_pretrained,
    read_tensors, save_adapter,
};
use longlora_train::{
    Decay, Execution, LearningRates, Optimizer, Trainee, TrainingConfig, clip_by_global_norm,
};

use crate::fixture::{self, Tensors, Vectors, golden, step_batch};
use crate::gradients::{absolute_error, check_close, of_reference, of_step};
use crate::random::redraw;

/// S²-Attn without the leak: half of the heads shifted, groups of 16 tokens.
const SHIFTED: AttentionPattern =
    AttentionPattern::Shifted { group_size: GroupSize::Tokens(16), shift: Shift::HalfHeads };

fn base(device: &Device) -> Llama {
    load_pretrained(&golden("tiny/model"), device).unwrap()
}

/// The tiny model with PEFT's adapter, on the autodiff device.
fn adapted() -> (Llama, AdapterConfig) {
    let device = Device::default().autodiff();
    let (llama, config, facts) = load_adapter(base(&device), &golden("tiny_lora/adapter")).unwrap();
    assert_eq!(facts, None, "PEFT does not write our file");
    (llama, config)
}

/// LongLoRA's "LoRA+": norms and embeddings are trained, too.
fn plus((llama, config): (Llama, AdapterConfig)) -> (Llama, AdapterConfig) {
    let group = ParamGroup::from_any_predicates(vec!["norm.gamma", "embed_tokens.weight"]);
    (llama.unfreeze_group(group), AdapterConfig { norms: true, embeddings: true, ..config })
}

fn vectors(name: &str) -> Vectors {
    Vectors::read(&golden(&format!("tiny_lora/{name}.safetensors")))
}

/// Every run of this adapter saw the same tokens.
fn rows() -> Vec<Vec<u32>> {
    vectors("logits").input_ids()
}

/// Logits, of which only the order of summation may differ. They are up to 9 here; PEFT's own differ by 1.2e-5 between
/// the adapter and the merged model.
#[track_caller]
fn check_logits(llama: &Llama, name: &str) {
    let llama = llama.valid();
    let ids = step_batch(&rows()).micro_batches[0].inputs(&llama.device());
    let pass = llama.pass(AttentionPattern::Full, &Layout::dense(ids.dims()[0], ids.dims()[1]));
    let error =
        absolute_error(&llama.logits(ids, &pass).into_data(), vectors("logits").tensor(name));
    assert!(error < 2e-5, "{name} are off by {error:.2e}");
}

/// Loss and every gradient of one step.
#[track_caller]
fn check_gradients(name: &str, (llama, config): (Llama, AdapterConfig), pattern: AttentionPattern) {
    let vectors = vectors(name);
    let selection = Selection::Adapter(config);
    let batch = step_batch(&rows());
    let of_step = of_step(&llama, &selection, pattern, &batch, Execution::SMALLEST);
    let of_reference = of_reference(&llama, &selection, pattern, &batch);
    for (path, ours) in [("step", of_step), ("reference", of_reference)] {
        let case = format!("{name}, {path}");
        let error = (ours.loss / vectors.number("loss") - 1.0).abs();
        assert!(error < 1e-6, "{case}: the loss is off by {error:.2e}");
        check_close(&ours.gradients, &vectors.below("grad."), 1e-5, &case);
    }
}

/// Twenty steps of AdamW with clipping by the global norm: every loss, every norm, and where the parameters end.
///
/// The largest errors that were measured are 3e-7 for losses and norms and 3e-6 for parameters.
#[track_caller]
fn check_training(name: &str, pattern: AttentionPattern) {
    let (llama, config) = plus(adapted());
    let selection = Selection::Adapter(config);
    let rate = 2e-3;
    let config = TrainingConfig {
        steps: 20,
        learning_rates: LearningRates {
            lora: rate,
            norms_and_embeddings: rate,
            rope_offsets: rate,
        },
        warmup_steps: 0,
        decay: Decay::Constant,
        betas: [0.9, 0.95],
        epsilon: 1e-8,
        weight_decay: 0.0,
        max_grad_norm: 1.0,
        ..TrainingConfig::default()
    };
    let mut optimizer = Optimizer::new(&config, 0);
    let mut trainee =
        Trainee { llama, pattern, max_grad_norm: None, execution: Execution::SMALLEST };
    let batch = step_batch(&rows());
    let (mut losses, mut norms) = (vec![], vec![]);
    for _ in 0..config.steps {
        let output = TrainStep::step(&trainee, batch.clone());
        losses.push(output.item.loss());
        let (grads, norm) = clip_by_global_norm(&trainee.llama, output.grads, config.max_grad_norm);
        norms.push(norm);
        let rates = optimizer.rates.step();
        trainee = optimizer.adam_w.step(rates, trainee, grads);
    }
    losses.push(TrainStep::step(&trainee, batch).item.loss());

    let summary = fixture::json(&golden("tiny_lora/summary.json"));
    let numbers = |key: &str| -> Vec<f64> {
        serde_json::from_value(summary[format!("trajectory_{name}")][key].clone()).unwrap()
    };
    for (what, ours, theirs) in
        [("loss", losses, numbers("loss")), ("norm", norms, numbers("grad_norm_before_clip"))]
    {
        assert_eq!(ours.len(), theirs.len(), "{name}: {what}");
        for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let error = (ours / theirs - 1.0).abs();
            assert!(error < 2e-6, "{name}: {what} of step {step} is {ours} instead of {theirs}");
        }
    }
    let theirs = vectors(&format!("after20_{name}")).below("");
    check_close(&collect(&trainee.llama, &selection), &theirs, 1e-5, name);
}

#[test]
fn logits_match_peft_before_and_after_attaching_and_merging() {
    check_logits(&base(&Device::default()), "logits_base");
    let (llama, _) = adapted();
    check_logits(&llama, "logits_adapter");
    check_logits(&llama.merge(), "logits_merged");
}

#[test]
fn merged_weights_match_peft() {
    let merged = collect(&adapted().0.merge(), &Selection::Base);
    // One product of rank 8 and one sum per entry.
    check_close(&merged, &vectors("merged_model").below(""), 1e-6, "merged_model");
}

#[test]
fn gradients_of_lora_match_peft() {
    check_gradients("grads_eager", adapted(), AttentionPattern::Full);
    check_gradients("grads_s2_flash", adapted(), SHIFTED);
}

#[test]
fn gradients_of_lora_with_norms_and_embeddings_match_peft() {
    check_gradients("grads_eager_plus_embed_norm", plus(adapted()), AttentionPattern::Full);
    check_gradients("grads_s2_flash_plus_embed_norm", plus(adapted()), SHIFTED);
}

#[test]
fn twenty_steps_end_where_pytorch_ends() {
    check_training("eager", AttentionPattern::Full);
    check_training("s2_flash", SHIFTED);
}

/// Saves an adapter, loads it into the base model, and expects every bit of it, its configuration and its facts.
#[track_caller]
fn check_round_trip(llama: &Llama, config: &AdapterConfig) -> Tensors {
    let folder = tempfile::tempdir().unwrap();
    let facts = AdapterFacts::new(llama, config, 512, AttentionPattern::LONGLORA);
    let of = BaseModel::at(Path::new("tiny/model"));
    save_adapter(llama, config, &facts, &of, folder.path()).unwrap();

    let (loaded, loaded_config, loaded_facts) =
        load_adapter(base(&Device::default()), folder.path()).unwrap();
    assert_eq!((&loaded_config, loaded_facts), (config, Some(facts)));
    for selection in [Selection::Adapter(config.clone()), Selection::Base] {
        assert_eq!(collect(&loaded, &selection), collect(llama, &selection));
    }
    read_tensors(&folder.path().join("adapter_model.safetensors")).unwrap()
}

#[test]
fn a_saved_adapter_is_pefts_own_file_again() {
    let (llama, config) = adapted();
    let saved = check_round_trip(&llama, &config);
    let theirs = golden("tiny_lora/adapter/adapter_model.safetensors");
    assert_eq!(saved, read_tensors(&theirs).unwrap());
}

#[test]
fn every_kind_of_adapter_survives_a_round_trip() {
    let with = |granularity| AdapterConfig {
        rope_offset: Some(RopeOffsetConfig { bound: 0.5, ..RopeOffsetConfig::new(granularity) }),
        ..AdapterConfig::longlora()
    };
    let only_offsets = AdapterConfig {
        lora: None,
        norms: false,
        embeddings: false,
        ..with(RopeGranularity::Pair)
    };
    let cases = [
        AdapterConfig::longlora(),
        with(RopeGranularity::Head),
        with(RopeGranularity::Pair),
        with(RopeGranularity::Shared),
        only_offsets,
    ];
    for (seed, config) in (0..).zip(&cases) {
        let device = Device::default();
        // Norms and embeddings are drawn anew only where the adapter carries them.
        let redrawn = redraw(base(&device).attach(config, seed), seed);
        let adapter = collect(&redrawn, &Selection::Adapter(config.clone()));
        let llama = longlora_llama::restore(
            base(&device).attach(config, seed),
            &Selection::Adapter(config.clone()),
            &golden("tiny/model"),
            |name| Ok(adapter[name].clone()),
        );
        check_round_trip(&llama.unwrap(), config);
    }
}
