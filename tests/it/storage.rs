//! Weights kept in bf16: the model is the one of the same numbers in f32.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, TensorData, bf16};
use longlora_adapters::{
    AdapterConfig, LoraConfig, RopeGranularity, RopeOffsetConfig, TargetModule,
};
use longlora_attention::{AttentionPattern, Layout};
use longlora_llama::{
    Footprint, GenerateOptions, Llama, LlamaConfig, MAX_SHARD_BYTES, Selection, WeightStorage,
    collect, load_pretrained, load_pretrained_as, read_tensors, restore, save_pretrained,
    write_tensors,
};
use longlora_train::Execution;
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{Tensors, golden, model_with, step_batch};
use crate::gradients::{check_close, of_reference, of_step, relative_error};
use crate::random::{redraw, tokens};

/// Models of every kind: tied and not, with biases, normed heads and experts.
fn models() -> Vec<(PathBuf, TargetsOf)> {
    let family = |name: &str| golden(&format!("families/{name}"));
    vec![
        (golden("tiny/model"), TargetsOf::All),
        (family("llama_tied"), TargetsOf::All),
        (family("qwen2"), TargetsOf::All),
        (family("qwen3"), TargetsOf::All),
        (family("mixtral"), TargetsOf::Attention),
    ]
}

#[derive(Clone, Copy)]
enum TargetsOf {
    All,
    Attention,
}

/// Whether a tensor of a checkpoint is a matrix of a layer, a table or a head.
fn is_narrowed(name: &str) -> bool {
    !["norm.weight", ".bias", ".block_sparse_moe.gate.weight"].iter().any(|end| name.ends_with(end))
}

/// The tensors of a model, matrices rounded to bf16, in f32.
fn rounded(model: &Path) -> Tensors {
    let round = |(name, tensor): (String, TensorData)| {
        let tensor = if is_narrowed(&name) { tensor.convert::<bf16>() } else { tensor };
        (name, tensor.convert::<f32>())
    };
    read_tensors(&model.join("model.safetensors")).unwrap().into_iter().map(round).collect()
}

/// A copy of a model folder with the rounded weights.
fn rounded_folder(model: &Path) -> TempDir {
    let folder = model_with(model, json!({}));
    write_tensors(&folder.path().join("model.safetensors"), &rounded(model)).unwrap();
    folder
}

/// `(kept in bf16, the same numbers in f32)`
fn both(model: &Path, device: &Device) -> [Llama; 2] {
    let narrow = load_pretrained_as(model, WeightStorage::Bf16, device).unwrap();
    [narrow, load_pretrained(rounded_folder(model).path(), device).unwrap()]
}

/// Attaches everything, and draws what starts at zero.
fn attached(llama: Llama, adapters: &AdapterConfig) -> Llama {
    let llama = llama.attach(adapters, 3);
    let drawn = AdapterConfig { norms: false, embeddings: false, head: false, ..adapters.clone() };
    let selection = Selection::Adapter(drawn);
    let values = collect(&redraw(llama.clone(), 5), &selection);
    restore(llama, &selection, Path::new("drawn"), |name| Ok(values[name].clone())).unwrap()
}

fn adapters(targets: TargetsOf, tables: bool, use_dora: bool) -> AdapterConfig {
    let target_modules = match targets {
        TargetsOf::All => TargetModule::ALL.to_vec(),
        TargetsOf::Attention => TargetModule::ATTENTION.to_vec(),
    };
    AdapterConfig {
        lora: Some(LoraConfig { rank: 3, target_modules, use_dora, ..LoraConfig::default() }),
        norms: true,
        embeddings: tables,
        head: tables,
        rope_offset: Some(RopeOffsetConfig::new(RopeGranularity::Head)),
    }
}

/// Logits, loss and every gradient, of the step and of its twin. Products of few rows are summed in another order.
#[test]
fn logits_loss_and_every_gradient_are_those_of_the_rounded_model() {
    let device = Device::default().autodiff();
    for (model, targets) in models() {
        for (tables, use_dora) in [(false, false), (true, true)] {
            let case = format!("{}, tables: {tables}", model.display());
            let adapters = adapters(targets, tables, use_dora);
            let selection = Selection::Adapter(adapters.clone());
            let [narrow, wide] = both(&model, &device).map(|llama| attached(llama, &adapters));
            let vocab = wide.config.vocab_size;
            let batch = step_batch(&[tokens(40, vocab, 1), tokens(23, vocab, 2)]);

            let [ours, theirs] = [&narrow, &wide].map(|llama| {
                let llama = llama.valid();
                let ids = batch.micro_batches[0].inputs(&llama.device());
                let pass = llama.pass(AttentionPattern::Full, &Layout::dense(2, ids.dims()[1]));
                llama.logits(ids, &pass).into_data()
            });
            let error = relative_error(&ours, &theirs);
            assert!(error < 1e-6, "{case}: logits are off by {error:.2e}");

            let pattern = AttentionPattern::LONGLORA;
            for kept_blocks in [0, usize::MAX] {
                let execution = Execution { kept_blocks, ..Execution::SMALLEST };
                let [ours, theirs] = [&narrow, &wide]
                    .map(|llama| of_step(llama, &selection, pattern, &batch, execution));
                assert!((ours.loss / theirs.loss - 1.0).abs() < 1e-6, "{case}");
                check_close(&ours.gradients, &theirs.gradients, 1e-6, &case);
            }
            let [ours, theirs] =
                [&narrow, &wide].map(|llama| of_reference(llama, &selection, pattern, &batch));
            assert!((ours.loss / theirs.loss - 1.0).abs() < 1e-6, "{case}, reference");
            check_close(&ours.gradients, &theirs.gradients, 1e-6, &case);
        }
    }
}

/// What is trained whole is widened, and then nothing distinguishes the two.
#[test]
fn a_model_that_is_trained_whole_is_the_rounded_one_to_the_bit() {
    for (model, _) in models() {
        let [narrow, wide] = both(&model, &Device::default().autodiff()).map(Llama::train_all);
        let batch = step_batch(&[tokens(40, wide.config.vocab_size, 1)]);
        let [ours, theirs] = [narrow, wide].map(|llama| {
            let pattern = AttentionPattern::Full;
            of_step(&llama, &Selection::Base, pattern, &batch, Execution::SMALLEST)
        });
        assert_eq!(ours.loss.to_bits(), theirs.loss.to_bits());
        assert_eq!(ours.gradients, theirs.gradients);
    }
}

/// Off the autodiff device and back, and when something is trained beside them.
#[test]
fn frozen_matrices_stay_in_bf16_and_count_two_bytes() {
    let adapters = adapters(TargetsOf::All, false, false);
    let [narrow, wide] = both(&golden("tiny/model"), &Device::default().autodiff())
        .map(|llama| llama.attach(&adapters, 0));
    let narrow = narrow.valid().train();
    for (name, tensor) in collect(&narrow, &Selection::Base) {
        let expected = if is_narrowed(&name) { DType::BF16 } else { DType::F32 };
        assert_eq!(tensor.dtype(), expected, "{name}");
    }
    let selection = Selection::Adapter(adapters);
    let [ours, theirs] = [&narrow, &wide].map(|llama| Footprint::of(llama, &selection));
    let narrowed = |(name, tensor): (&String, &TensorData)| {
        if is_narrowed(name) { tensor.num_elements() as u64 } else { 0 }
    };
    let tensors = collect(&wide, &Selection::Base);
    let narrowed: u64 = tensors.iter().map(narrowed).sum();
    assert!(narrowed > 0);
    assert_eq!(ours.weights, theirs.weights - 2 * narrowed);
    let largest = tensors.values().map(|tensor| tensor.num_elements() as u64).max();
    assert_eq!((Some(ours.widened), theirs.widened), (largest.map(|floats| 4 * floats), 0));
    assert_eq!(ours.state, theirs.state);

    // The same is known before anything is read.
    let config = LlamaConfig::read(&golden("tiny/model")).unwrap();
    let Selection::Adapter(adapters) = &selection else { unreachable!("it was made above") };
    let unread = config.init(&Device::default().autodiff()).attach(adapters, 0);
    let foreseen = Footprint::kept_as(WeightStorage::Bf16, &unread, &selection);
    assert!(foreseen.read < foreseen.weights && ours.read == ours.weights);
    assert_eq!(Footprint { read: ours.read, ..foreseen }, ours);
}

#[test]
fn a_model_kept_in_bf16_is_written_as_its_rounded_numbers() {
    for (model, _) in models() {
        let narrow = load_pretrained_as(&model, WeightStorage::Bf16, &Device::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_pretrained(&narrow, folder.path(), DType::F32, MAX_SHARD_BYTES).unwrap();
        let written = read_tensors(&folder.path().join("model.safetensors")).unwrap();
        assert_eq!(written, rounded(&model), "{}", model.display());
    }
}

/// Token by token, products read the weights in bf16: 1e-6 of the logits, so the likeliest token is the same.
#[test]
fn a_model_kept_in_bf16_writes_what_the_rounded_one_does() {
    for (model, _) in models() {
        let [ours, theirs] = both(&model, &Device::default()).map(|llama| {
            let options = GenerateOptions { max_new_tokens: 20, ..GenerateOptions::default() };
            let prompt = tokens(17, llama.config.vocab_size, 4);
            llama.generate(&prompt, &options, |_| ControlFlow::Continue(())).ids
        });
        assert_eq!(ours, theirs, "{}", model.display());
    }
}
