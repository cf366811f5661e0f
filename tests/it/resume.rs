//! Runs that are stopped or crash: going on ends where an uninterrupted run does.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use burn::train::TrainStep;
use longlora_adapters::Dropout;
use longlora_attention::AttentionPattern;
use longlora_data::{BatchStream, Order, Windows};
use longlora_llama::{
    Llama, Selection, WeightStorage, collect, load_adapter, load_pretrained, read_tensors,
    write_tensors,
};
use longlora_train::{
    Event, Execution, FinetuneConfig, HeldOut, ModelConfig, ModelSizes, Optimizer, Outcome,
    PretrainConfig, RunFolder, StepBatch, StepReport, Stop, Trainee, TrainingConfig,
    clip_by_global_norm, held_out_documents, pretrain,
};
use serde_json::json;

use crate::fixture::{Tensors, golden, json as json_of, model_with, read, write, write_json};
use crate::place::{NEVER, Place, adapters, files, metrics, names};
use crate::random::tokens;
use crate::sentence;

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
    let checkpoint = |run: &Path| {
        let folder = run.join("checkpoints/step-000012");
        let mut state = json_of(&folder.join("state.json"));
        state["sha256"]["optimizer.bpk"].take();
        (read(&folder.join("trained.safetensors")), state)
    };
    let [ours, theirs] = [checkpoint(&broken), checkpoint(&whole)];
    assert!(ours.0 == theirs.0, "what was trained differs");
    assert_eq!(ours.1, theirs.1);
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
fn a_run_with_weights_in_few_bits_is_resumed_to_the_bit() {
    check_with(|config| config.model.weights = WeightStorage::Bf16, |_| {});
    check_with(|config| config.model.weights = WeightStorage::Nf4, |_| {});
    let tied = model_with(&golden("tiny/model"), json!({ "tie_word_embeddings": true }));
    let change = |config: &mut FinetuneConfig| {
        let (path, weights) = (tied.path().to_owned(), WeightStorage::Bf16);
        config.model = ModelConfig { path, weights, fetched: None };
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
        let (mut config, documents) = of_few_tokens(&place);
        config.training.max_grad_norm = 0.0;
        config.training.weight_decay = weight_decay;
        let Outcome::Finished(by_rows) = place.run("run", &config, NEVER).unwrap() else {
            panic!("nobody asked it to stop")
        };
        let kept = place.path("run/checkpoints/step-000012/table.safetensors");
        let kept = read_tensors(&kept).unwrap()["moment_1"].shape().to_vec();
        assert_eq!(kept, [40, by_rows.config.hidden_size], "rows that never occurred are kept");

        let (whole, _) = trained_whole(&config, documents);
        let selection = config.selection();
        assert_eq!(collect(&by_rows, &selection), collect(&whole, &selection));
    }
}

/// A run over documents that have 40 of the model's 96 tokens, none of them held out; and those documents.
fn of_few_tokens(place: &Place) -> (FinetuneConfig, Vec<Vec<u32>>) {
    let documents: Vec<_> = (0..9).map(|n| tokens(150 + 31 * n, 40, n as u64)).collect();
    write_json(&place.path("data.json"), &json!(documents));
    let mut config = place.config();
    config.data.held_out = HeldOut::Fraction(0.0);
    (config, documents)
}

/// With so large an epsilon a step is as long as its gradient, so that clipping shows in the norms of the steps behind it.
#[test]
fn a_run_is_clipped_by_the_norm_of_all_that_it_trains() {
    let place = Place::new();
    let (mut config, documents) = of_few_tokens(&place);
    config.training.epsilon = 1e-2;
    config.training.max_grad_norm = 0.05;
    place.run("run", &config, NEVER).unwrap();
    let ours: Vec<f64> =
        metrics(&place.path("run")).iter().map(|report| report.grad_norm).collect();
    let close = |theirs: &[f64], tolerance: f64| {
        assert_eq!(ours.len(), theirs.len());
        ours.iter().zip(theirs).all(|(ours, theirs)| (ours / theirs - 1.0).abs() < tolerance)
    };

    let (_, theirs) = trained_whole(&config, documents.clone());
    assert!(theirs.iter().all(|&norm| norm > 0.05), "nothing would be clipped: {theirs:?}");
    assert!(close(&theirs, 1e-4), "{ours:?} instead of {theirs:?}");
    config.training.max_grad_norm = 0.0;
    let (_, unclipped) = trained_whole(&config, documents);
    assert!(!close(&unclipped, 1e-3), "it makes no difference here: {unclipped:?}");
}

/// The steps of `config` with every gradient and moment whole; the norms before clipping, too.
fn trained_whole(config: &FinetuneConfig, documents: Vec<Vec<u32>>) -> (Llama, Vec<f64>) {
    let device = Device::default().autodiff();
    let mut llama = load_pretrained(&config.model.path, &device).unwrap();
    let length = config.context.length;
    llama.config.rope = llama.config.rope.extended(config.context.rope_scaling, length).unwrap();
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
    let (mut optimizer, mut norms) = (Optimizer::new(training, 0), vec![]);
    let limit = training.max_grad_norm;
    let max_norm = if limit > 0.0 { limit } else { f64::INFINITY };
    for number in 0..training.steps {
        let dropout = Dropout::new(config.seed).part(number + 1);
        let batch = StepBatch { micro_batches: stream.step(number), dropout };
        let grads = TrainStep::step(&trainee, batch).grads;
        let (grads, norm) = clip_by_global_norm(&trainee.llama, grads, max_norm);
        norms.push(norm);
        trainee = optimizer.adam_w.step(optimizer.rates.step(), trainee, grads);
    }
    (trainee.llama.valid(), norms)
}

#[test]
fn what_is_held_out_is_not_learned_from() {
    let place = Place::new();
    let text: Vec<u32> = (0..9).flat_map(|n| tokens(150 + 31 * n, 96, n as u64)).collect();
    assert_eq!(text.len(), 2466);
    let mut config = place.config();
    config.training.steps = 1;
    let learned_from = |name: &str, config: &FinetuneConfig| {
        place.run(name, config, NEVER).unwrap();
        let manifest = json_of(&place.path(name).join("manifest.json"));
        ["data_tokens", "data_windows"].map(|count| manifest[count].as_u64().unwrap())
    };
    // Four of sixteen windows, and the last one, which is short.
    config.data.held_out = HeldOut::Fraction(0.25);
    assert_eq!(learned_from("run", &config), [11 * 160, 11]);
    assert_eq!(held_out_documents(&config).unwrap().documents.concat(), text[11 * 160..]);

    let other = [tokens(200, 96, 77), tokens(30, 96, 78)];
    write_json(&place.path("other.json"), &json!(other));
    config.data.held_out = HeldOut::Path(place.path("other.json"));
    assert_eq!(learned_from("other", &config), [2466, 16]);
    assert_eq!(held_out_documents(&config).unwrap().documents, other);
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
    assert!(error.contains("table.safetensors") && error.contains("other bytes"), "{error}");
    // As checkpoints were before they noted hashes.
    let state = path.with_file_name("state.json");
    let mut without = json_of(&state);
    without.as_object_mut().unwrap().remove("sha256");
    write_json(&state, &without);
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

/// A disk that gives back other bytes, and files that a crash left empty.
#[test]
fn a_checkpoint_that_is_not_what_was_saved_is_refused() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    let folder = place.path("run/checkpoints/step-000005");
    for name in ["trained.safetensors", "optimizer.bpk", "state.json"] {
        let path = folder.join(name);
        let whole = read(&path);
        let mut other = whole.clone();
        *other.last_mut().unwrap() ^= 0xFF;
        for torn in [other, vec![]] {
            write(&path, torn);
            let error = place.resume("run").unwrap_err().to_string();
            let parts = [name, "remove this checkpoint"];
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        write(&path, whole);
    }
}

#[test]
fn what_was_never_finished_is_removed() {
    let place = Place::new();
    place.run("run", &place.config(), 5).unwrap();
    let partial = place.path("run/checkpoints/.partial-x7Yz");
    fs::create_dir(&partial).unwrap();
    place.resume("run").unwrap();
    assert!(!partial.exists());
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

/// A crash, or a full disk, behind the last checkpoint.
#[test]
fn a_result_that_was_half_written_is_written_again() {
    let place = Place::new();
    place.run("run", &place.config(), NEVER).unwrap();
    let adapter = place.path("run/adapter");
    let before = files(&adapter);
    fs::remove_file(adapter.join("adapter_config.json")).unwrap();
    write(&adapter.join("adapter_model.safetensors"), b"half a fi");
    assert!(matches!(place.resume("run").unwrap(), Outcome::Finished(_)));
    assert_eq!(files(&adapter), before);
}

/// One that is whole is its owner's.
#[test]
fn a_result_that_was_changed_stays_as_it_is() {
    let place = Place::new();
    place.run("run", &place.config(), NEVER).unwrap();
    let config = place.path("run/adapter/adapter_config.json");
    let mut changed = json_of(&config);
    changed["lora_alpha"] = 4.into();
    write_json(&config, &changed);
    place.resume("run").unwrap();
    assert_eq!(json_of(&config), changed);
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
    assert_eq!(facts.unwrap().training_pattern(), AttentionPattern::LONGLORA);
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
    sentence::check(&error.err().unwrap(), &["text.txt", "no longer what the run began with"]);
}
