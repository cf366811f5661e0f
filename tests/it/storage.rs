//! Weights kept in bf16 and NF4: the model is the one of the same numbers in f32.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, TensorData, bf16};
use longlora_adapters::{
    AdapterConfig, LoraConfig, RopeGranularity, RopeOffsetConfig, TargetModule,
};
use longlora_attention::{AttentionPattern, Layout};
use longlora_gguf::{Metadata, TensorKind};
use longlora_kernels::nf4;
use longlora_llama::{
    Footprint, GenerateOptions, Llama, LlamaConfig, MAX_SHARD_BYTES, Selection, WeightStorage,
    collect, count_trainable, largest_tensor, load_pretrained, load_pretrained_as, read_tensors,
    restore, save_gguf, save_pretrained, write_tensors,
};
use longlora_train::Execution;
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{Tensors, golden, model_with, step_batch};
use crate::gradients::{check_close, of_reference, of_step, relative_error};
use crate::random::{config, redraw, tokens};

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

/// Whether a tensor of a checkpoint is kept in NF4: of a layer, whose rows are of whole blocks.
fn is_in_blocks(storage: WeightStorage, name: &str, tensor: &TensorData) -> bool {
    let of_layer = is_narrowed(name) && name.contains(".layers.");
    storage == WeightStorage::Nf4 && of_layer && tensor.shape()[1].is_multiple_of(nf4::BLOCK)
}

/// The numbers that NF4 keeps, as QLoRA's equation 1 has them: the nearest of 16 levels times the largest of 64.
fn in_levels(weight: &TensorData) -> TensorData {
    let nearest = |x: f32| {
        let distance = |level: &&f32| (x - **level).abs();
        nf4::LEVELS.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).copied().unwrap()
    };
    let block = |block: &[f32]| {
        let largest = block.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
        block.iter().map(|x| largest * nearest(x * (1.0 / largest))).collect::<Vec<_>>()
    };
    let numbers = weight.as_slice::<f32>().unwrap();
    TensorData::new(numbers.chunks(nf4::BLOCK).flat_map(block).collect(), weight.shape().clone())
}

/// The tensors of a model, matrices rounded as `storage` does, in f32.
fn rounded(model: &Path, storage: WeightStorage) -> Tensors {
    let round = |(name, tensor): (String, TensorData)| {
        let tensor = tensor.convert::<f32>();
        let tensor = match storage {
            _ if !is_narrowed(&name) => tensor,
            _ if is_in_blocks(storage, &name, &tensor) => in_levels(&tensor),
            _ => tensor.convert::<bf16>().convert::<f32>(),
        };
        (name, tensor)
    };
    read_tensors(&model.join("model.safetensors")).unwrap().into_iter().map(round).collect()
}

/// A copy of a model folder with the rounded weights.
fn rounded_folder(model: &Path, storage: WeightStorage) -> TempDir {
    let folder = model_with(model, json!({}));
    write_tensors(&folder.path().join("model.safetensors"), &rounded(model, storage)).unwrap();
    folder
}

const NARROW: [WeightStorage; 2] = [WeightStorage::Bf16, WeightStorage::Nf4];

/// Every model in every storage that rounds.
fn cases() -> impl Iterator<Item = (PathBuf, TargetsOf, WeightStorage)> {
    let all = models().into_iter();
    all.flat_map(|(model, targets)| NARROW.map(|storage| (model.clone(), targets, storage)))
}

/// `(kept in few bits, the same numbers in f32)`
fn both(model: &Path, storage: WeightStorage, device: &Device) -> [Llama; 2] {
    let narrow = load_pretrained_as(model, storage, device).unwrap();
    [narrow, load_pretrained(rounded_folder(model, storage).path(), device).unwrap()]
}

/// Both with everything attached, and the same drawn for what starts at zero.
fn attached([narrow, wide]: [Llama; 2], adapters: &AdapterConfig) -> [Llama; 2] {
    let drawn = AdapterConfig { norms: false, embeddings: false, head: false, ..adapters.clone() };
    let selection = Selection::Adapter(drawn);
    let [narrow, wide] = [narrow, wide].map(|llama| llama.attach(adapters, 3));
    let values = collect(&redraw(wide.clone(), 5), &selection);
    [narrow, wide].map(|llama| {
        let value = |name: &str| Ok(values[name].clone());
        restore(llama, &selection, Path::new("drawn"), value).unwrap()
    })
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
    for (model, targets, storage) in cases() {
        for (tables, use_dora) in [(false, false), (true, true)] {
            let case = format!("{}, {storage:?}, tables: {tables}", model.display());
            let adapters = adapters(targets, tables, use_dora);
            let selection = Selection::Adapter(adapters.clone());
            let [narrow, wide] = attached(both(&model, storage, &device), &adapters);
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
    for (model, _, storage) in cases() {
        let [narrow, wide] =
            both(&model, storage, &Device::default().autodiff()).map(Llama::train_all);
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
fn frozen_matrices_stay_as_they_are_kept_and_count_their_bytes() {
    for storage in NARROW {
        check_bytes(storage);
    }
}

#[track_caller]
fn check_bytes(storage: WeightStorage) {
    let adapters = adapters(TargetsOf::All, false, false);
    let [narrow, wide] = both(&golden("tiny/model"), storage, &Device::default().autodiff())
        .map(|llama| llama.attach(&adapters, 0));
    let narrow = narrow.valid().train();
    for (name, tensor) in collect(&narrow, &Selection::Base) {
        let in_bf16 = is_narrowed(&name) && !is_in_blocks(storage, &name, &tensor);
        let expected = if in_bf16 { DType::BF16 } else { DType::F32 };
        assert_eq!(tensor.dtype(), expected, "{name}");
    }
    let selection = Selection::Adapter(adapters);
    let [ours, theirs] = [&narrow, &wide].map(|llama| Footprint::of(llama, &selection));
    let saved = |(name, tensor): (&String, &TensorData)| match tensor.num_elements() as u64 {
        _ if !is_narrowed(name) => 0,
        floats if is_in_blocks(storage, name, tensor) => 4 * floats - floats / 64 * 36,
        floats => 2 * floats,
    };
    let tensors = collect(&wide, &Selection::Base);
    let saved: u64 = tensors.iter().map(saved).sum();
    assert!(saved > 0);
    assert_eq!(ours.weights, theirs.weights - saved);
    let largest = tensors.values().map(|tensor| tensor.num_elements() as u64).max();
    assert_eq!((Some(ours.widened), theirs.widened), (largest.map(|floats| 4 * floats), 0));
    assert_eq!(ours.state, theirs.state);

    // The same is known before anything is read.
    let config = LlamaConfig::read(&golden("tiny/model")).unwrap();
    let Selection::Adapter(adapters) = &selection else { unreachable!("it was made above") };
    let unread = config.init(&Device::default().autodiff()).attach(adapters, 0);
    let foreseen = Footprint::kept_as(storage, &unread, &selection);
    assert!(foreseen.read < foreseen.weights && ours.read == ours.weights);
    assert_eq!(Footprint { read: ours.read, ..foreseen }, ours);
}

#[test]
fn a_model_kept_in_few_bits_is_written_as_its_rounded_numbers() {
    for (model, _, storage) in cases() {
        let narrow = load_pretrained_as(&model, storage, &Device::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_pretrained(&narrow, folder.path(), DType::F32, MAX_SHARD_BYTES).unwrap();
        let written = read_tensors(&folder.path().join("model.safetensors")).unwrap();
        assert_eq!(written, rounded(&model, storage), "{}, {storage:?}", model.display());
    }
}

/// From another file, by another reader.
#[test]
fn a_gguf_file_is_kept_in_few_bits_as_a_folder_is() {
    for storage in NARROW {
        let model = golden("tiny/model");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let llama = load_pretrained(&model, &Device::default()).unwrap();
        save_gguf(&llama, &path, TensorKind::F32, &Metadata::new()).unwrap();
        let kept = load_pretrained_as(&path, storage, &Device::default()).unwrap();
        let selection = Selection::Base;
        let expected = load_pretrained_as(&model, storage, &Device::default()).unwrap();
        let [ours, theirs] = [&kept, &expected].map(|llama| Footprint::of(llama, &selection));
        assert_eq!(ours, theirs, "{storage:?}");
        assert_eq!(collect(&kept, &selection), collect(&expected, &selection), "{storage:?}");
        // And back, as what is kept.
        let again = folder.path().join("again.gguf");
        save_gguf(&kept, &again, TensorKind::F32, &Metadata::new()).unwrap();
        let again = load_pretrained(&again, &Device::default()).unwrap();
        let numbers = collect(&again, &selection).into_iter();
        let numbers: Tensors = numbers.map(|(name, x)| (name, x.convert::<f32>())).collect();
        assert_eq!(numbers, rounded(&model, storage), "{storage:?}");
    }
}

/// Where the largest matrix is one in NF4.
#[test]
fn a_matrix_in_nf4_counts_as_the_floats_that_it_becomes() {
    let sizes = json!({ "hidden_size": 64, "intermediate_size": 640, "head_dim": 16,
        "num_attention_heads": 4 });
    let folder = tempfile::tempdir().unwrap();
    let llama = config(sizes).init(&Device::default());
    save_pretrained(&llama, folder.path(), DType::F32, MAX_SHARD_BYTES).unwrap();
    let [kept, wide] = [WeightStorage::Nf4, WeightStorage::F32]
        .map(|storage| load_pretrained_as(folder.path(), storage, &Device::default()).unwrap());
    assert_eq!(Footprint::of(&kept, &Selection::Base).widened, 4 * 64 * 640);
    assert_eq!(largest_tensor(&kept, 1), largest_tensor(&wide, 1));
    let adapters = Selection::Adapter(adapters(TargetsOf::All, false, false));
    assert_eq!(count_trainable(&kept, &adapters).frozen, count_trainable(&wide, &adapters).frozen);
}

/// Token by token, products read the weights as they are kept: 1e-6 of the logits, so the likeliest token is the same.
#[test]
fn a_model_kept_in_few_bits_writes_what_the_rounded_one_does() {
    for (model, _, storage) in cases() {
        let [ours, theirs] = both(&model, storage, &Device::default()).map(|llama| {
            let options = GenerateOptions { max_new_tokens: 20, ..GenerateOptions::default() };
            let prompt = tokens(17, llama.config.vocab_size, 4);
            llama.generate(&prompt, &options, |_| ControlFlow::Continue(())).ids
        });
        assert_eq!(ours, theirs, "{}, {storage:?}", model.display());
    }
}

/// The other one's is in the weights. Of layers of attention, since all of those are in NF4.
#[test]
fn an_adapter_beside_weights_in_nf4_writes_what_it_does_in_others() {
    let cases = models().into_iter().map(|(model, _)| model);
    for (model, use_dora) in cases.flat_map(|model| [(model.clone(), false), (model, true)]) {
        let device = Device::default();
        let adapters = adapters(TargetsOf::Attention, false, use_dora);
        let llamas = attached(both(&model, WeightStorage::Nf4, &device), &adapters);
        let [ours, theirs] = llamas.map(|llama| {
            let llama = llama.for_generation();
            let options = GenerateOptions { max_new_tokens: 20, ..GenerateOptions::default() };
            let prompt = tokens(17, llama.config.vocab_size, 4);
            let ids = llama.generate(&prompt, &options, |_| ControlFlow::Continue(())).ids;
            (ids, collect(&llama, &Selection::Adapter(adapters.clone())).len())
        });
        assert_eq!(ours.0, theirs.0, "{}", model.display());
        assert!(ours.1 > theirs.1, "the update is not beside the weights");
    }
}
