//! Runs that are stopped, crash, or go wrong: what is left, and that going on ends where an uninterrupted run does.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use burn::train::TrainStep;
use longlora_adapters::AdapterConfig;
use longlora_attention::AttentionPattern;
use longlora_data::{BatchStream, Order, Windows};
use longlora_llama::{
    Llama, Selection, WeightStorage, collect, load_adapter, load_pretrained, read_tensors,
    write_tensors,
};
use longlora_train::{
    Checkpoint, Event, Execution, FinetuneConfig, HeldOut, LearningRates, ModelConfig, ModelSizes,
    Optimizer, Outcome, PretrainConfig, RunFolder, StepBatch, StepReport, Stop, TrainError,
    Trainee, TrainingConfig, extended_rope, finetune, pretrain, resume,
};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{Tensors, golden, model_with, read, write, write_json};
use crate::random::tokens;

/// A folder with training data, in which runs are made.
struct Place {
    folder: TempDir,
    model: PathBuf,
}

impl Place {
    /// Nine documents of token ids, of unequal lengths.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let documents: Vec<_> = (0..9).map(|n| tokens(150 + 31 * n, 96, n as u64)).collect();
        write_json(&folder.path().join("data.json"), &json!(documents));
        Self { folder, model: golden("tiny/model") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Twelve steps at 160 tokens, beyond the 128 of the model: dropout, warm-up, clipping, two micro-batches, and a
    /// checkpoint at every fourth step.
    fn config(&self) -> FinetuneConfig {
        let mut config = FinetuneConfig::longlora(self.model.clone(), self.path("data.json"), 160);
        config.seed = 21;
        adapters(&mut config).lora.as_mut().unwrap().dropout = 0.1;
        let training = &mut config.training;
        training.steps = 12;
        training.accumulation = 2;
        training.parallel = 2;
        training.warmup_steps = 3;
        training.save_every = 4;
        training.learning_rates =
            LearningRates { lora: 1e-2, norms_and_embeddings: 1e-3, rope_offsets: 1e-2 };
        config
    }

    /// Runs `config` into a folder, and asks it to stop after step `stop_after`.
    fn run(
        &self,
        name: &str,
        config: &FinetuneConfig,
        stop_after: u64,
    ) -> Result<Outcome, TrainError> {
        let run = RunFolder::create(&self.path(name)).unwrap();
        let stop = Stop::default();
        finetune(config, &run, &Device::default(), &stop, &mut |event| {
            if matches!(event, Event::Stepped(report) if report.step == stop_after) {
                stop.request();
            }
        })
    }

    fn resume(&self, name: &str) -> Result<Outcome, TrainError> {
        let run = RunFolder::open(&self.path(name))?;
        resume(&run, &Device::default(), &Stop::default(), &mut |_| {})
    }
}

const NEVER: u64 = 0;

/// What the run attaches.
fn adapters(config: &mut FinetuneConfig) -> &mut AdapterConfig {
    config.adapters.as_mut().expect("something is attached")
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), read(&entry.path())))
        .collect();
    files.sort();
    files
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `metrics.jsonl`, without what two runs never share: time and memory.
fn metrics(run: &Path) -> Vec<StepReport> {
    let text = String::from_utf8(read(&run.join("metrics.jsonl"))).unwrap();
    let report = |line: &str| StepReport {
        step_time_ms: 0.0,
        peak_memory_bytes: None,
        ..serde_json::from_str(line).unwrap()
    };
    text.lines().map(report).collect()
}

/// Stops a run after step 5, lets `meddle` do to its folder what a crash may do, resumes it, and expects the files of
/// an uninterrupted run: every byte of the adapter and of the last checkpoint's weights, every number of the metrics.
#[track_caller]
fn check(meddle: impl Fn(&Path)) {
    check_with(|_| {}, meddle);
}

/// The same, of a run that is described otherwise.
#[track_caller]
fn check_with(change: impl Fn(&mut FinetuneConfig), meddle: impl Fn(&Path)) {
    let place = Place::new();
    let mut config = place.config();
    change(&mut config);
    let outcome = place.run("whole", &config, NEVER).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    let outcome = place.run("broken", &config, 5).unwrap();
    assert!(matches!(outcome, Outcome::Stopped { step: 5 }));
    let (whole, broken) = (place.path("whole"), place.path("broken"));
    assert_eq!(metrics(&broken).len(), 5);
    let unfinished = ["adapter", "model"].map(|name| broken.join(name).exists());
    assert_eq!(unfinished, [false; 2], "a result that is not finished");

    meddle(&broken);
    let outcome = place.resume("broken").unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));

    let result: &[&str] = match config.adapters {
        Some(_) => &[
            "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
            "adapter/longlora.json",
            "adapter/rope_offsets.safetensors",
        ],
        None => &["model/config.json", "model/model.safetensors"],
    };
    for path in result {
        assert!(read(&broken.join(path)) == read(&whole.join(path)), "`{path}` differs");
    }
    // Burn lays out `optimizer.bpk` in another order each time; that it was read shows in the weights after step 5.
    for name in ["trained.safetensors", "state.json"] {
        let path = format!("checkpoints/step-000012/{name}");
        assert!(read(&broken.join(&path)) == read(&whole.join(&path)), "`{path}` differs");
    }
    assert_eq!(metrics(&broken), metrics(&whole));
    let steps: Vec<u64> = metrics(&whole).iter().map(|report| report.step).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_does() {
    check(|_| {});
}

#[test]
fn a_run_with_magnitudes_ranks_of_their_own_and_an_untied_head_is_resumed_to_the_bit() {
    let tied = model_with(&golden("tiny/model"), json!({ "tie_word_embeddings": true }));
    let change = |config: &mut FinetuneConfig| {
        config.model.path = tied.path().to_owned();
        adapters(config).head = true;
        let lora = adapters(config).lora.as_mut().unwrap();
        lora.use_dora = true;
        lora.use_rslora = true;
        lora.exclude_modules = vec!["layers.0.self_attn.k_proj".to_owned()];
        lora.rank_pattern = [("o_proj".to_owned(), 3)].into();
    };
    check_with(change, |_| {});
}

#[test]
fn full_finetuning_is_resumed_to_the_bit_and_leaves_a_model() {
    check_with(|config| config.adapters = None, |_| {});

    let place = Place::new();
    let config = FinetuneConfig { adapters: None, ..place.config() };
    let Outcome::Finished(llama) = place.run("run", &config, NEVER).unwrap() else {
        panic!("nobody asked it to stop")
    };
    let loaded = load_pretrained(&place.path("run/model"), &Device::default()).unwrap();
    assert_eq!(loaded.config.rope, llama.config.rope);
    let now = collect(&loaded, &Selection::Base);
    assert_eq!(now, collect(&llama, &Selection::Base));
    let base = load_pretrained(&place.model, &Device::default()).unwrap();
    let base = collect(&base, &Selection::Base);
    assert!(now.iter().all(|(name, tensor)| *tensor != base[name]), "a weight stood still");
}

/// The frozen base is no part of a checkpoint: it is read and rounded anew.
#[test]
fn a_run_with_weights_in_bf16_is_resumed_to_the_bit() {
    check_with(|config| config.model.weights = WeightStorage::Bf16, |_| {});
    let tied = model_with(&golden("tiny/model"), json!({ "tie_word_embeddings": true }));
    let change = |config: &mut FinetuneConfig| {
        config.model = ModelConfig { path: tied.path().to_owned(), weights: WeightStorage::Bf16 };
        adapters(config).head = true;
        adapters(config).lora.as_mut().unwrap().use_dora = true;
    };
    check_with(change, |_| {});
}

/// The table of the tiny model is not its head: a run keeps gradient and moments of the rows that occurred, and ends
/// bit for bit where burn's AdamW over the whole table does. Nothing is clipped, since the norm is summed in another
/// order.
#[test]
fn a_table_trained_by_rows_ends_where_the_whole_table_does() {
    for weight_decay in [0.0, 0.1] {
        let place = Place::new();
        let documents: Vec<_> = (0..9).map(|n| tokens(150 + 31 * n, 40, n as u64)).collect();
        write_json(&place.path("data.json"), &json!(documents));
        let mut config = place.config();
        adapters(&mut config).lora.as_mut().unwrap().dropout = 0.0;
        config.data.held_out = HeldOut::Fraction(0.0);
        config.training.max_grad_norm = 0.0;
        config.training.weight_decay = weight_decay;
        let Outcome::Finished(by_rows) = place.run("run", &config, NEVER).unwrap() else {
            panic!("nobody asked it to stop")
        };
        let kept = place.path("run/checkpoints/step-000012/table.safetensors");
        let kept = read_tensors(&kept).unwrap()["moment_1"].shape().to_vec();
        assert_eq!(kept, [40, by_rows.config.hidden_size], "rows that never occurred are kept");

        let whole = trained_whole(&config, documents);
        let selection = config.selection();
        assert_eq!(collect(&by_rows, &selection), collect(&whole, &selection));
    }
}

/// The steps of `config` with every gradient and moment whole.
fn trained_whole(config: &FinetuneConfig, documents: Vec<Vec<u32>>) -> Llama {
    let device = Device::default().autodiff();
    let mut llama = load_pretrained(&config.model.path, &device).unwrap();
    let length = config.context.length;
    llama.config.rope = extended_rope(&llama.config.rope, config.context.rope_scaling, length);
    let training = &config.training;
    let windows = Windows::pack(documents, length).unwrap();
    let order = Order::Shuffled { seed: config.seed };
    let stream = BatchStream::new(windows, order, training.batch_size, training.accumulation);
    let mut trainee = Trainee {
        llama: config.trainable(llama),
        pattern: config.attention,
        max_grad_norm: None,
        execution: Execution::SMALLEST,
    };
    let mut optimizer = Optimizer::new(training, 0);
    for number in 0..training.steps {
        let batch = StepBatch { micro_batches: stream.step(number), dropout_seed: 0 };
        let grads = TrainStep::step(&trainee, batch).grads;
        trainee = optimizer.adam_w.step(optimizer.rates.step(), trainee, grads);
    }
    trainee.llama.valid()
}

/// Without its moments a table would go on as if it had just begun.
#[test]
fn a_checkpoint_without_the_moments_of_its_table_is_refused() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    let path = place.path("run/checkpoints/step-000005/table.safetensors");
    fs::remove_file(&path).unwrap();
    let error = place.resume("run").unwrap_err().to_string();
    assert!(error.contains("table.safetensors"), "{error}");
    write_tensors(&path, &Tensors::new()).unwrap();
    let error = place.resume("run").unwrap_err().to_string();
    assert!(error.contains("table.safetensors") && error.contains("`rows`"), "{error}");
}

/// The softmax reaches every row of a table that is the head: its moments are whole, in burn's file.
#[test]
fn a_run_with_a_tied_table_is_resumed_to_the_bit() {
    let tied = model_with(&golden("tiny/model"), json!({ "tie_word_embeddings": true }));
    let change = |config: &mut FinetuneConfig| config.model.path = tied.path().to_owned();
    check_with(change, |run| {
        assert!(!run.join("checkpoints/step-000005/table.safetensors").exists());
    });
}

#[test]
fn what_a_crash_left_behind_does_no_harm() {
    check(|run| {
        // Steps after the last checkpoint had been reported, and the last line is torn.
        let mut metrics = read(&run.join("metrics.jsonl"));
        let fifth = String::from_utf8(metrics.clone()).unwrap().lines().last().unwrap().to_owned();
        let sixth = fifth.replace("\"step\":5", "\"step\":6");
        assert_ne!(sixth, fifth);
        metrics.extend(format!("{sixth}\n{{\"step\":7,\"ste").bytes());
        write(&run.join("metrics.jsonl"), metrics);
        // A checkpoint was being written.
        let partial = run.join("checkpoints/.partial-x7Yz");
        fs::create_dir(&partial).unwrap();
        write(&partial.join("trained.safetensors"), b"half a fi");
    });
}

#[test]
fn a_crash_goes_back_to_the_last_whole_checkpoint() {
    check(|run| fs::remove_dir_all(run.join("checkpoints/step-000005")).unwrap());
}

#[test]
fn a_finished_run_can_be_resumed_and_does_nothing() {
    let place = Place::new();
    place.run("run", &place.config(), NEVER).unwrap();
    let before = files(&place.path("run/adapter"));
    assert!(matches!(place.resume("run").unwrap(), Outcome::Finished(_)));
    assert_eq!(files(&place.path("run/adapter")), before);
}

#[test]
fn a_run_learns_and_leaves_the_frozen_weights_as_they_were() {
    let place = Place::new();
    let mut config = place.config();
    config.training.steps = 30;
    let Outcome::Finished(llama) = place.run("run", &config, NEVER).unwrap() else {
        panic!("nobody asked it to stop")
    };

    let metrics = metrics(&place.path("run"));
    let rates: Vec<f64> = metrics.iter().map(|report| report.learning_rate).collect();
    assert_eq!(rates[..4], [1e-2 / 3.0, 2e-2 / 3.0, 1e-2, 1e-2]);
    assert!(metrics.iter().all(|report| report.steps == 30 && report.tokens <= 2 * 160));
    let mean = |reports: &[StepReport]| {
        reports.iter().map(|report| report.loss).sum::<f64>() / reports.len() as f64
    };
    let (first, last) = (mean(&metrics[..5]), mean(&metrics[25..]));
    assert!(last < first - 0.3, "the loss went from {first} to {last} only");

    let trained = |name: &String| name.contains("norm") || name.contains("embed_tokens");
    let base = read_tensors(&golden("tiny/model/model.safetensors")).unwrap();
    let now = collect(&llama, &Selection::Base);
    let (now_trained, now_frozen): (Tensors, Tensors) =
        now.into_iter().partition(|(name, _)| trained(name));
    assert_eq!((now_trained.len(), now_frozen.len()), (6, 15));
    assert!(now_frozen.iter().all(|(name, tensor)| *tensor == base[name]), "a frozen weight moved");
    assert!(now_trained.iter().all(|(name, tensor)| *tensor != base[name]), "one stood still");

    // The folder holds the very model that training ended with, its stretched RoPE included.
    let loaded = load_pretrained(&golden("tiny/model"), &Device::default()).unwrap();
    let (loaded, adapters, facts) = load_adapter(loaded, &place.path("run/adapter")).unwrap();
    assert_eq!(Some(&adapters), config.adapters.as_ref());
    assert_eq!(facts.unwrap().training_pattern, AttentionPattern::LONGLORA);
    assert_eq!(loaded.config.rope, llama.config.rope);
    assert_eq!(loaded.config.rope.max_position_embeddings, 160);
    for selection in [Selection::Base, Selection::Adapter(adapters)] {
        assert_eq!(collect(&loaded, &selection), collect(&llama, &selection));
    }
}

#[test]
fn only_the_latest_checkpoints_are_kept() {
    let place = Place::new();
    let mut config = place.config();
    config.training.save_every = 2;
    config.training.keep_checkpoints = 3;
    place.run("run", &config, NEVER).unwrap();
    let expected = ["step-000008", "step-000010", "step-000012"];
    assert_eq!(names(&place.path("run/checkpoints")), expected);
    let whole = ["optimizer.bpk", "state.json", "table.safetensors", "trained.safetensors"];
    assert_eq!(names(&place.path("run/checkpoints/step-000008")), whole);
}

/// One sentence that holds all of `parts`.
#[track_caller]
fn check_error(error: &TrainError, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[test]
fn changed_data_are_refused() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    write_json(&place.path("data.json"), &json!([tokens(2000, 96, 77)]));
    let error = place.resume("run").unwrap_err();
    assert!(matches!(error, TrainError::NotResumable { .. }), "{error:?}");
    check_error(&error, &["data.json", "no longer what the run began with"]);
}

#[test]
fn a_run_folder_is_never_overwritten_and_another_folder_never_resumed() {
    let place = Place::new();
    place.run("run", &place.config(), 1).unwrap();
    let error = RunFolder::create(&place.path("run")).unwrap_err();
    check_error(&error, &[&place.path("run").display().to_string(), "exists already"]);
    let error = place.resume("nowhere").unwrap_err();
    check_error(&error, &["nowhere", "not a run folder"]);
    fs::remove_dir_all(place.path("run/checkpoints")).unwrap();
    let error = place.resume("run").unwrap_err();
    check_error(&error, &["checkpoints", "no checkpoint"]);
}

#[test]
fn a_diverging_run_stops_and_keeps_its_last_checkpoint() {
    let place = Place::new();
    let mut config = place.config();
    config.training.warmup_steps = 0;
    config.training.save_every = 1;
    config.training.learning_rates =
        LearningRates { lora: 1e30, norms_and_embeddings: 1e30, rope_offsets: 1e30 };
    let error = place.run("run", &config, NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 2, .. }), "{error:?}");
    check_error(&error, &["step 2", "lower the learning rate", "last checkpoint is kept"]);
    assert_eq!(names(&place.path("run/checkpoints")), ["step-000001"]);
    assert_eq!(metrics(&place.path("run")).len(), 1);
    let kept = read_tensors(&place.path("run/checkpoints/step-000001/trained.safetensors"));
    let entries = kept.unwrap().into_values().flat_map(|t| t.iter::<f32>().collect::<Vec<_>>());
    assert!({ entries }.all(f32::is_finite));
}

#[test]
fn weights_that_are_no_numbers_are_found_at_the_first_step() {
    let mut place = Place::new();
    let broken = model_with(&golden("tiny/model"), json!({}));
    let path = broken.path().join("model.safetensors");
    let mut tensors = read_tensors(&path).unwrap();
    let norm = tensors.get_mut("model.layers.1.input_layernorm.weight").unwrap();
    *norm = TensorData::new(vec![f32::NAN; norm.num_elements()], norm.shape().clone());
    write_tensors(&path, &tensors).unwrap();
    place.model = broken.path().to_owned();
    let error = place.run("run", &place.config(), NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 1, .. }), "{error:?}");
    assert!(!place.path("run/checkpoints").exists(), "a checkpoint of what went wrong");
}

#[test]
fn documents_of_one_token_are_nothing_to_learn_from() {
    let place = Place::new();
    let one_token_each: Vec<[u32; 1]> = (0..96).map(|token| [token]).collect();
    write_json(&place.path("data.json"), &json!(one_token_each));
    let mut config = place.config();
    config.context.length = 12;
    let error = place.run("run", &config, NEVER).unwrap_err();
    assert!(matches!(error, TrainError::NoTargets { step: 1 }), "{error:?}");
    check_error(&error, &["step 1", "nothing to predict"]);
}

#[test]
fn tokens_of_another_model_are_refused_before_the_first_step() {
    let place = Place::new();
    write_json(&place.path("data.json"), &json!([tokens(900, 97, 1)]));
    let error = place.run("run", &place.config(), NEVER).unwrap_err();
    check_error(&error, &["`96`", "do not belong together"]);
    assert!(!place.path("run/metrics.jsonl").exists());
}

/// Pre-training in the same way: stopped after step 3 of 6, and called again with the same folder.
#[test]
fn a_resumed_pretraining_writes_the_same_model() {
    let place = Place::new();
    let words = tokens(3000, 40, 5).into_iter().map(|word| format!("w{} ", word * word));
    write(&place.path("text.txt"), words.collect::<String>());
    let config = PretrainConfig {
        seed: 3,
        data: place.path("text.txt"),
        context_length: 48,
        model: ModelSizes {
            vocab_size: 300,
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: 1,
            head_dim: 8,
        },
        training: TrainingConfig { steps: 6, warmup_steps: 2, ..TrainingConfig::default() },
    };
    let pretrain_into = |run: &RunFolder, model: &str, stop_after: u64| {
        let stop = Stop::default();
        pretrain(&config, run, &place.path(model), &Device::default(), &stop, &mut |event| {
            if matches!(event, Event::Stepped(report) if report.step == stop_after) {
                stop.request();
            }
        })
        .unwrap()
    };
    let whole = RunFolder::create(&place.path("whole")).unwrap();
    assert!(matches!(pretrain_into(&whole, "whole-model", NEVER), Outcome::Finished(_)));
    let broken = RunFolder::create(&place.path("broken")).unwrap();
    assert!(matches!(pretrain_into(&broken, "model", 3), Outcome::Stopped { step: 3 }));
    assert!(!place.path("model").exists(), "a model that is not finished");
    assert!(matches!(pretrain_into(&broken, "model", NEVER), Outcome::Finished(_)));
    assert_eq!(metrics(broken.path()), metrics(whole.path()));
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let of = |model: &str| read(&place.path(model).join(name));
        assert!(of("model") == of("whole-model"), "`{name}` differs");
    }
    load_pretrained(&place.path("model"), &Device::default()).unwrap();

    write(&place.path("text.txt"), "another text ".repeat(500));
    let error = pretrain(
        &config,
        &broken,
        &place.path("model"),
        &Device::default(),
        &Stop::default(),
        &mut |_| {},
    );
    check_error(&error.err().unwrap(), &["text.txt", "no longer what the run began with"]);
}

/// Cuts off, empties or spoils each file of a checkpoint: resuming names the file.
#[test]
fn a_torn_checkpoint_is_an_error_that_names_the_file() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    let checkpoint = place.path("run/checkpoints/step-000005");
    for (name, contents) in files(&checkpoint) {
        let path = checkpoint.join(&name);
        let length = contents.len();
        for kept in [0, 1, 7, 8, 9, 20, length / 2, length - 1] {
            write(&path, &contents[..kept]);
            let error = place.resume("run").unwrap_err();
            check_error(&error, &[&path.display().to_string()]);
        }
        write(&path, vec![b'x'; length]);
        check_error(&place.resume("run").unwrap_err(), &[&path.display().to_string()]);
        fs::remove_file(&path).unwrap();
        check_error(&place.resume("run").unwrap_err(), &[&path.display().to_string()]);
        write(&path, &contents);
    }
    place.resume("run").unwrap();
}

#[test]
fn a_checkpoint_of_another_adapter_is_refused() {
    let place = Place::new();
    let config = place.config();
    place.run("run", &config, 5).unwrap();
    let checkpoints = place.path("run/checkpoints");
    let llama = load_pretrained(&place.model, &Device::default().autodiff()).unwrap();
    let mut other = config.adapters.clone().unwrap();
    other.lora.as_mut().unwrap().rank = 4;
    let llama = llama.attach(&other, 0);
    let selection = Selection::Adapter(other);
    let error = Checkpoint::load(&checkpoints, llama, &selection, &config.training).err().unwrap();
    check_error(&error, &["trained.safetensors", "lora_A.weight", "[8, 64]", "[4, 64]"]);
}
