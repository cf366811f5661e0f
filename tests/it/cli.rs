//! The program from outside: what the terminal shows, and the exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{golden, json, model_with};

/// 96 tokens of vocabulary, no tokenizer, native context 128.
pub(crate) fn tiny_model() -> PathBuf {
    golden("tiny/model")
}

pub(crate) fn longlora(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longlora"))
        .args(args)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .output()
        .expect("the program starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

pub(crate) fn last_line(output: &Output) -> String {
    text(&output.stderr).trim_end().lines().last().unwrap_or_default().to_owned()
}

/// Exit code 1, and as its last words one sentence that says all of `needles`.
#[track_caller]
pub(crate) fn check_mistake(folder: &Path, args: &[&str], needles: &[&str]) {
    let output = longlora(folder, args);
    let said = last_line(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?} said: {said}");
    assert!(said.starts_with("error: "), "{args:?} said: {said}");
    for needle in needles {
        assert!(said.contains(needle), "`{needle}` is not in: {said}");
    }
}

/// A folder with token ids that the tiny model can learn from.
pub(crate) fn with_ids(ids: impl Iterator<Item = usize>) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let ids: Vec<usize> = ids.collect();
    fs::write(folder.path().join("ids.json"), format!("{ids:?}")).expect("a small file");
    folder
}

/// `finetune` of the tiny model to 256 tokens on `ids.json`, with more options.
pub(crate) fn finetune<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["finetune", "--model", model, "--data", "ids.json", "--context-length", "256"];
    args.extend(more);
    args
}

#[test]
fn mistakes_are_told_in_one_sentence_with_exit_code_one() {
    let folder = with_ids((0..3000).map(|i| i * 7 % 96));
    let here = folder.path();
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let run = |more: &[&'static str]| finetune(model, more);

    check_mistake(here, &finetune("nowhere", &[]), &["nowhere`", "cannot open", "No such file"]);
    check_mistake(here, &finetune(".", &[]), &["config.json", "not a Hugging Face model folder"]);
    check_mistake(here, &run(&["--group-size", "7"]), &["`7`", "even"]);
    check_mistake(here, &run(&["--group-size", "256"]), &["`256`", "groups"]);
    check_mistake(here, &run(&["--group-ratio", "1.5"]), &["`1.5`", "(0, 1]"]);
    check_mistake(here, &run(&["--lora-rank", "0"]), &["rank", "`0`"]);
    check_mistake(here, &run(&["--lr=-1"]), &["learning_rates", "`-1`"]);
    check_mistake(here, &run(&["--steps", "0"]), &["training.steps", "`0`"]);
    check_mistake(here, &run(&["--window", "8"]), &["--window", "sliding-window"]);
    check_mistake(here, &run(&["--offload-activations"]), &["--offload-activations", "`flex`"]);
    check_mistake(here, &["finetune", "--resume", "nowhere"], &["`nowhere`", "run folder"]);
    check_mistake(here, &["finetune", "--data", "ids.json"], &["--model"]);

    fs::write(here.join("typo.toml"), "sed = 1\n").expect("a small file");
    check_mistake(here, &["finetune", "--config", "typo.toml"], &["typo.toml", "sed", "seed"]);
    check_mistake(here, &["finetune", "--config", "none.toml"], &["none.toml"]);

    fs::create_dir(here.join("taken")).expect("a folder");
    fs::write(here.join("taken/note.txt"), "mine").expect("a small file");
    check_mistake(here, &run(&["--out", "taken"]), &["taken", "exists", "--out"]);

    // A folder of the user's own, with a config.toml in it, is not cleared away after a mistake.
    fs::create_dir(here.join("own")).expect("a folder");
    fs::write(here.join("own/config.toml"), "mine = true\n").expect("a small file");
    let pretrain = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/pretrain.toml");
    let args = ["pretrain", pretrain, "--data", "nope", "--out", "made", "--run", "own"];
    check_mistake(here, &args, &["nope"]);
    assert!(here.join("own/config.toml").exists(), "a folder of the user's own was removed");
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/text/train/shakespeare_lear.txt");
    let args = ["pretrain", pretrain, "--data", text, "--out", "made", "--run", "own"];
    check_mistake(here, &args, &["own", "config.toml", "another run folder"]);
    assert_eq!(fs::read_to_string(here.join("own/config.toml")).unwrap(), "mine = true\n");

    let rate = ["--rope-offset", "none", "--rope-offset-learning-rate", "0.1"];
    check_mistake(here, &run(&rate), &["--rope-offset-learning-rate", "none are trained"]);
    check_mistake(here, &run(&["--full", "--weights", "bf16"]), &["`bf16`", "f32"]);
    let huge = run(&["--batch-size", "9223372036854775807"]);
    check_mistake(here, &huge, &["training.batch_size", "9223372036854775807"]);
    let among = ["finetune", "--model", model, "--data", ".", "--context-length", "256"];
    check_mistake(here, &among, &["runs/1", "among the data", "--out"]);
}

#[test]
fn mistakes_in_data_are_told_in_one_sentence_with_exit_code_one() {
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");

    let folder = with_ids((0..3000).map(|i| i % 5000));
    let needles = ["token id", "`96`", "vocabulary"];
    check_mistake(folder.path(), &finetune(model, &["--out", "a"]), &needles);

    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("ids.json"), "[]").expect("a small file");
    check_mistake(folder.path(), &finetune(model, &["--out", "a"]), &["ids.json", "text"]);
    fs::write(folder.path().join("ids.json"), "[1, 2").expect("a small file");
    check_mistake(folder.path(), &finetune(model, &["--out", "b"]), &["ids.json"]);

    fs::create_dir(folder.path().join("empty")).expect("a folder");
    let args = ["finetune", "--model", model, "--data", "empty", "--context-length", "256"];
    check_mistake(folder.path(), &args, &["empty", ".txt"]);
}

#[test]
fn a_torn_model_is_named_with_its_file() {
    let folder = with_ids((0..3000).map(|i| i * 7 % 96));
    let torn = folder.path().join("torn");
    fs::create_dir(&torn).expect("a folder");
    fs::copy(tiny_model().join("config.json"), torn.join("config.json")).expect("a copy");
    let whole = fs::read(tiny_model().join("model.safetensors")).expect("the golden model");
    fs::write(torn.join("model.safetensors"), &whole[..whole.len() - 100]).expect("a torn copy");
    let needles = ["model.safetensors", "not a whole safetensors file"];
    check_mistake(folder.path(), &finetune("torn", &["--out", "a"]), &needles);
}

#[test]
fn an_unknown_option_has_exit_code_one_and_help_has_zero() {
    let folder = TempDir::new().expect("a temporary folder");
    let output = longlora(folder.path(), &["finetune", "--no-such-option"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--no-such-option"));
    for args in [&["--help"][..], &["finetune", "--help"], &["eval", "perplexity", "--help"]] {
        let output = longlora(folder.path(), args);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("Usage: longlora"));
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_model_of_ones_own_is_extended_measured_and_resumable() {
    let folder = with_ids((0..4000).map(|i| (i * i / 3 + i) % 96));
    let here = folder.path();
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let more = ["--steps", "3", "--lr", "1e-3", "--accumulation", "1", "--out", "run"];

    let output = longlora(here, &finetune(model, &more));

    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("from 128 to 256 tokens") && said.contains("LoRA"), "{said}");
    assert!(shown.contains("base, YaRN") && shown.contains("fine-tuned, full"), "{shown}");
    assert!(said.contains("0 s of training left"), "{said}");
    let program = env!("CARGO_BIN_EXE_longlora");
    let next =
        format!("{program} eval passkey --model {model} --adapter run/adapter --lengths 256");
    assert!(said.contains(&next), "{said}");
    for file in
        ["config.toml", "manifest.json", "metrics.jsonl", "report.md", "report.json", "report.html"]
    {
        assert!(here.join("run").join(file).exists(), "{file} is missing");
    }
    let lines = fs::read_to_string(here.join("run/metrics.jsonl")).expect("the metrics");
    assert_eq!(lines.lines().count(), 3);

    let adapter = here.join("run/adapter/adapter_model.safetensors");
    let before = fs::read(&adapter).expect("the adapter");
    let output = longlora(here, &["finetune", "--resume", "run", "--memory", "1GiB"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::read(&adapter).expect("the adapter"), before);
    let config = fs::read_to_string(here.join("run/config.toml")).expect("the settings");
    assert!(config.contains("memory = \"1.0 GiB\""), "{config}");
    let output = longlora(here, &["finetune", "--resume", "run", "--seed", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("--seed") && said.contains("--resume"), "{said}");

    let eval = ["eval", "perplexity", "--model", model, "--adapter", "run/adapter", "--data"];
    let output = longlora(here, &[&eval[..], &["ids.json", "--lengths", "128,256"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("256"));
}

/// Of its findings, a loss that is lower than another has a minus.
#[test]
fn a_table_shows_what_each_model_would_be_measured_as() {
    let folder = with_ids((0..4000).map(|i| (i * i / 3 + i) % 96));
    let here = folder.path();
    let held_out: Vec<usize> = (0..700).map(|i| (i * i / 3 + 2 * i) % 96).collect();
    fs::write(here.join("held.json"), format!("{held_out:?}")).expect("a small file");
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let more = ["--steps", "8", "--lr", "3e-3", "--accumulation", "1", "--warmup-steps", "0"];
    let more = [&more[..], &["--eval-data", "held.json", "--out", "run"]].concat();
    let output = longlora(here, &finetune(model, &more));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = json(&here.join("run/report.json"));

    let eval = ["eval", "perplexity", "--model", model, "--data", "held.json", "--json"];
    let eval = [&eval[..], &["--lengths", "128,256"]].concat();
    let rows: [(&str, &[&str]); 5] = [
        ("base, untouched", &[]),
        ("base, position interpolation", &["--rope-scaling", "linear"]),
        ("base, YaRN", &["--rope-scaling", "yarn"]),
        ("fine-tuned, full attention", &["--adapter", "run/adapter"]),
        ("fine-tuned, sparse attention", &["--adapter", "run/adapter", "--attention", "shifted"]),
    ];
    let mut losses = vec![];
    for (index, (name, options)) in rows.into_iter().enumerate() {
        let row = &report["perplexity"]["rows"][index];
        assert_eq!(row["model"], name);
        let output = longlora(here, &[&eval[..], options].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let measured: Value = serde_json::from_slice(&output.stdout).expect("a table");
        for length in ["128", "256"] {
            let [ours, theirs] =
                [row, &measured["rows"][0]].map(|row| &row["cells"][length]["nll_sum"]);
            assert_eq!(ours, theirs, "{name} at {length} tokens");
        }
        let cell = &row["cells"]["256"];
        let [sum, tokens] = ["nll_sum", "tokens"].map(|key| cell[key].as_f64().expect("a number"));
        losses.push(sum / tokens);
    }
    for (index, loss) in losses.iter().enumerate() {
        assert!(!losses[..index].contains(loss), "two rows are the same: {losses:?}");
    }
    for (index, other) in [(1, "position interpolation"), (2, "YaRN")] {
        let change = losses[3] - losses[index];
        assert!(change.abs() > 1e-3, "nothing was learned: {losses:?}");
        let finding = report["findings"][index - 1].as_str().expect("a sentence");
        assert!(finding.contains(&format!("by {change:+.4}")), "{finding}");
        assert!(finding.contains(&format!("against {other} alone")), "{finding}");
    }
}

#[test]
fn a_dry_run_says_what_would_be_read_trained_and_held_in_memory() {
    let folder = with_ids((0..4000).map(|i| i * 7 % 96));
    let here = folder.path();
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    for args in [finetune(model, &["--dry-run", "--steps", "4"]), vec!["finetune", "--dry-run"]] {
        let output = longlora(here, &args);
        let (shown, said) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(shown.contains("[training]"), "{shown}");
        for needle in ["tokens in", "windows", "trained", "memory: about"] {
            assert!(said.contains(needle), "`{needle}` is not in: {said}");
        }
        assert!(!here.join("runs").exists(), "a dry run leaves nothing behind");
    }
    let dry = |more: &[&'static str]| finetune(model, &[&["--dry-run"], more].concat());
    check_mistake(here, &dry(&["--lora-rank", "999999999"]), &["rank", "`999999999`", "smaller"]);
    check_mistake(here, &dry(&["--eval-lengths", "0"]), &["--eval-lengths", "`0`"]);
    let far = ["finetune", "--model", model, "--data", "ids.json", "--context-length", "100000"];
    let far = [&far[..], &["--no-eval"]].concat();
    check_mistake(here, &far, &["ids.json", "`100000`", "more text"]);
    assert!(!here.join("runs/1").exists(), "nothing was begun");
}

/// Positions are stretched to the whole context all the same.
#[test]
fn windows_may_be_shorter_than_the_context() {
    let folder = with_ids((0..4000).map(|i| i * 7 % 96));
    let here = folder.path();
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let more = ["--train-length", "64", "--steps", "1", "--accumulation", "1", "--no-eval"];
    let output = longlora(here, &finetune(model, &[&more[..], &["--out", "run"]].concat()));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("from 128 to 256 tokens"), "{said}");
    assert!(said.contains("windows have 64 tokens"), "{said}");
    let config = fs::read_to_string(here.join("run/config.toml")).expect("the settings");
    assert!(config.contains("train_length = 64"), "{config}");
    let facts = json(&here.join("run/adapter/longlora.json"));
    let reach = [&facts["context_length"], &facts["rope"]["max_position_embeddings"]];
    assert_eq!(reach, [&Value::from(256); 2]);
    let long = finetune(model, &["--train-length", "512", "--dry-run"]);
    check_mistake(here, &long, &["context.train_length", "`512`"]);
}

/// In the settings of the run, so that it is resumed and measured as it was begun.
#[test]
fn weights_in_few_bits_are_trained_measured_and_resumed() {
    for weights in ["bf16", "nf4"] {
        check_weights(weights);
    }
}

#[track_caller]
fn check_weights(weights: &str) {
    let folder = with_ids((0..4000).map(|i| (i * i / 3 + i) % 96));
    let here = folder.path();
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let more =
        ["--steps", "2", "--accumulation", "1", "--weights", weights, "--no-eval", "--out", "run"];
    let output = longlora(here, &finetune(model, &more));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let config = fs::read_to_string(here.join("run/config.toml")).expect("the settings");
    assert!(config.contains(&format!("weights = \"{weights}\"")), "{config}");
    let output = longlora(here, &["finetune", "--resume", "run"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let facts = json(&here.join("run/adapter/longlora.json"));
    assert_eq!(facts["trained_beside"], weights);
    for (kept, is_told) in [(weights, false), ("f32", true)] {
        let eval = ["eval", "perplexity", "--model", model, "--adapter", "run/adapter"];
        let more = ["--data", "ids.json", "--lengths", "256", "--json", "--weights", kept];
        let output = longlora(here, &[&eval[..], &more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let measured: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(measured["weights"], kept);
        let told = text(&output.stderr).contains(&format!("trained beside weights in {weights}"));
        assert_eq!(told, is_told, "{}", text(&output.stderr));
    }
}

#[test]
fn options_of_peft_are_taken_by_their_names_and_reach_the_adapter() {
    let folder = with_ids((0..4000).map(|i| (i * i / 3 + i) % 96));
    let here = folder.path();
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let run = |out: &str, more: &[&str]| {
        let common = ["--steps", "1", "--accumulation", "1", "--no-eval", "--out", out];
        let output = longlora(here, &finetune(model, &[&common[..], more].concat()));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        json(&here.join(out).join("adapter/adapter_config.json"))
    };
    let adapter = run("one", &["--use-dora", "--use-rslora", "true", "--train-head", "true"]);
    assert_eq!((&adapter["use_dora"], &adapter["use_rslora"]), (&true.into(), &true.into()));
    let saved = adapter["modules_to_save"].as_array().expect("a list");
    assert!(saved.contains(&"lm_head".into()));
    let adapter = run("two", &["--config", "one/config.toml", "--use-dora", "false"]);
    assert_eq!((&adapter["use_dora"], &adapter["use_rslora"]), (&false.into(), &true.into()));
}

#[test]
fn the_embedded_run_needs_no_arguments_and_keeps_what_it_used() {
    let folder = TempDir::new().expect("a temporary folder");
    let args = ["finetune", "--steps", "1", "--eval-tokens", "4096"];

    let output = longlora(folder.path(), &args);

    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("With 1024 tokens of context"));
    let model = folder.path().join("runs/1/embedded/model");
    let model = model.to_str().expect("a temporary path is UTF-8");
    let generate =
        ["generate", "--model", model, "--prompt", "And God said", "--max-new-tokens", "4"];
    let output = longlora(folder.path(), &generate);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("And God said"));
}

/// A run may be resumed on another machine.
#[test]
fn a_run_ends_in_the_same_bits_on_any_number_of_threads() {
    let folder = TempDir::new().expect("a temporary folder");
    let adapter = |threads: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_longlora"))
            .args(["finetune", "--steps", "2", "--no-eval", "--out", threads])
            .current_dir(folder.path())
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", last_line(&output));
        fs::read(folder.path().join(threads).join("adapter/adapter_model.safetensors")).unwrap()
    };
    assert!(adapter("1") == adapter("3"), "the adapters differ");
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_saves_and_says_how_to_go_on() {
    let folder = TempDir::new().expect("a temporary folder");
    let child = Command::new(env!("CARGO_BIN_EXE_longlora"))
        .args(["finetune", "--steps", "100000", "--out", "run"])
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let metrics = folder.path().join("run/metrics.jsonl");
    let started = Instant::now();
    while fs::metadata(&metrics).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "no step was taken");
        std::thread::sleep(Duration::from_millis(50));
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill starts").success());

    let output = child.wait_with_output().expect("the program ends");
    let steps = fs::read_to_string(metrics).expect("the metrics").lines().count();
    assert_eq!(output.status.code(), Some(1), "the adapter is not there yet");
    let program = env!("CARGO_BIN_EXE_longlora");
    let how = format!("stopped after step {steps}; go on with: {program} finetune --resume run");
    assert_eq!(last_line(&output), how);
    let checkpoint = folder.path().join(format!("run/checkpoints/step-{steps:06}"));
    assert!(checkpoint.join("state.json").exists(), "no checkpoint of step {steps}");
}

/// A window no longer than a group has no sparse attention to be measured in, and documents that are too short one by one are
/// read as one text: neither ends a run that has been trained.
#[test]
fn a_table_leaves_out_what_cannot_be_measured_and_says_so() {
    let folder = TempDir::new().expect("a temporary folder");
    let documents: Vec<Vec<usize>> =
        (0..60).map(|document| (0..150).map(|i| (i * 7 + document) % 96).collect()).collect();
    fs::write(folder.path().join("ids.json"), format!("{documents:?}")).expect("a small file");
    let model = tiny_model();
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let options = ["--group-size", "128", "--steps", "1", "--accumulation", "1"];
    let output = longlora(folder.path(), &finetune(model, &options));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("held-out documents has 150 tokens"), "{said}");
    let report = json(&folder.path().join("runs/1/report.json")).to_string();
    assert!(report.contains("fine-tuned, sparse attention"), "{report}");
}

/// As LongLoRA's own models, and as DeepSeek-Coder, which means something else by it.
#[test]
fn a_model_that_does_not_tell_from_where_it_was_stretched_is_not_stretched_further() {
    let folder = with_ids((0..4000).map(|i| i * 7 % 96));
    let config = |more: Value| {
        let scaling = json!({ "type": "linear", "factor": 2.0 });
        let mut config = json!({ "max_position_embeddings": 128, "rope_scaling": scaling });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        model_with(&tiny_model(), config)
    };
    let unclear = config(json!({}));
    let unclear = unclear.path().to_str().expect("a temporary folder's path is UTF-8");
    let needles = ["`128`", "`2`", "\"original_max_position_embeddings\""];
    for more in [&["--dry-run"][..], &["--steps", "1"]] {
        check_mistake(folder.path(), &finetune(unclear, more), &needles);
    }
    for (original, says) in [(128, "at 256 of its 256 tokens"), (64, "from 64 to 256 tokens")] {
        let told = config(json!({ "original_max_position_embeddings": original }));
        let told = told.path().to_str().expect("a temporary folder's path is UTF-8");
        let output = longlora(folder.path(), &finetune(told, &["--dry-run"]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
