//! `eval` beside perplexity, and `compare`: what is asked, kept, gone on with, and what a gate says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use burn::tensor::Device;
use longlora_attention::{AttentionPattern, GroupSize, Shift};
use longlora_eval::{PerplexityConfig, Protocol, divergence};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::by_hand::{self, choice, logits};
use crate::cli::{check_mistake, longlora, text};
use crate::fixture::golden;
use crate::random::{config, redraw, tokens};

/// The model inside the program: 256 tokens of context, a tokenizer of its own.
fn model() -> String {
    asset("model")
}

fn asset(path: &str) -> String {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets")).join(path);
    path.to_str().expect("the checkout's path is UTF-8").to_owned()
}

#[track_caller]
fn succeed(folder: &Path, args: &[&str]) -> Output {
    let output = longlora(folder, args);
    assert_eq!(output.status.code(), Some(0), "{args:?} said: {}", text(&output.stderr));
    output
}

#[track_caller]
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = succeed(folder, &[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).expect("standard output is JSON")
}

#[test]
fn an_exam_that_was_interrupted_goes_on_where_it_was() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    let model = model();
    let args = ["eval", "passkey", "--model", &model, "--lengths", "200,250", "--depths", "0,1"];
    let first = json(here, &args);
    assert_eq!(first["answers"].as_array().unwrap().len(), 4);
    let file = here.join("results/passkey.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 4);

    // An answer that the model would not give shows that what stands in the file is not asked again; half a line is. It is
    // judged anew.
    let answer: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(answer["score"], 0.0, "so small a model finds nothing");
    assert_eq!(answer["model"], model);
    let right = format!("\"output\":{}", answer["answers"][0]);
    let forged = lines[0].replace(&format!("\"output\":{}", answer["output"]), &right);
    assert_ne!(forged, lines[0]);
    fs::write(&file, format!("{forged}\n{}\n{}", lines[1], &lines[2][..40])).unwrap();
    let second = json(here, &args);
    assert_eq!(second["answers"][0]["score"], 1.0);
    for index in 1..4 {
        assert_eq!(second["answers"][index], first["answers"][index]);
    }
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("{forged}\n{}\n", lines[1..].join("\n"))
    );

    // Nor is one question two.
    let with = |lengths, depths| {
        ["eval", "passkey", "--model", &model, "--lengths", lengths, "--depths", depths]
    };
    check_mistake(here, &with("200,250,200", "0,1"), &["--lengths", "`200` twice"]);
    check_mistake(here, &with("200,250", "0,1,0"), &["--depths", "`0` twice"]);

    // Another model's answers are others.
    let longer =
        ["eval", "passkey", "--model", &model, "--lengths", "400", "--rope-scaling", "yarn"];
    let table = text(&succeed(here, &longer).stdout);
    assert!(table.contains("400") && table.contains("100 %"), "{table}");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 4 + 5);
    let last: Value =
        serde_json::from_str(fs::read_to_string(&file).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(last["model"], format!("{model} stretched to 400 by yarn"));
    check_mistake(here, &longer[..6], &["passkey", "`256`", "--rope-scaling"]);
}

#[test]
fn longloras_passkeys_are_asked_in_its_measure() {
    let folder = TempDir::new().unwrap();
    let model = model();
    let args = ["eval", "passkey", "--model", &model, "--protocol", "longlora", "--max", "1000"];
    let args = [&args[..], &["--trials", "1", "--rope-scaling", "yarn"]].concat();
    let answers = json(folder.path(), &args)["answers"].clone();
    // numpy.random.seed(0); randint(0, 3072), randint(1, 50000)
    assert_eq!(answers[0]["answers"][0], "43568");
    check_mistake(
        folder.path(),
        &[&args[..], &["--lengths", "100"]].concat(),
        &["--lengths", "grid"],
    );
}

#[test]
fn needles_are_hidden_in_the_users_documents() {
    let folder = TempDir::new().unwrap();
    let (model, data) = (model(), asset("text/held-out"));
    let args = ["eval", "needle", "--model", &model, "--data", &data, "--lengths", "240"];
    let args = [&args[..], &["--depths", "0.5", "--kinds", "single,key"]].concat();
    let answers = json(folder.path(), &args)["answers"].clone();
    let tasks: Vec<_> = answers.as_array().unwrap().iter().map(|answer| &answer["task"]).collect();
    assert_eq!(tasks, ["needle", "needle_key"]);
    check_mistake(folder.path(), &[&args[..], &["--depths", "50"]].concat(), &["`50`", "0 to 1"]);
}

#[test]
fn ruler_tells_scores_and_an_effective_context() {
    let folder = TempDir::new().unwrap();
    let (model, data) = (model(), asset("text/held-out"));
    let args = ["eval", "ruler", "--model", &model, "--data", &data, "--lengths", "1024"];
    let args = [&args[..], &["--tasks", "niah_single_1,vt", "--samples", "1"]].concat();
    let args = [&args[..], &["--rope-scaling", "yarn"]].concat();
    let shown = text(&succeed(folder.path(), &args).stdout);
    for part in ["niah_single_1", "vt", "effective context"] {
        assert!(shown.contains(part), "{shown}");
    }
    let mean = json(folder.path(), &args)["means"][0].clone();
    let [low, value, high] =
        ["low", "mean", "high"].map(|part| mean["interval"][part].as_f64().unwrap());
    assert_eq!(mean["length"], 1024);
    assert!(low <= value && value <= high && low < high, "{mean}");
    check_mistake(
        folder.path(),
        &[&args[..8], &["--tasks", "niah"]].concat(),
        &["`niah`", "niah_single_1"],
    );
}

#[test]
fn token_files_are_prepared_and_measured() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    let (model, data) = (model(), asset("text/held-out/shakespeare_hamlet.txt"));
    let prepare = ["eval", "prepare", "--model", &model, "--data", &data, "--out", "hamlet.bin"];
    let said = text(&succeed(here, &prepare).stderr);
    assert!(said.contains("tokens of 2 bytes"), "{said}");
    check_mistake(here, &prepare, &["hamlet.bin", "exists", "--out"]);

    let measure = |data| {
        let args = ["eval", "perplexity", "--model", &model, "--data", data, "--lengths", "128"];
        json(here, &[&args[..], &["--max-tokens", "4000"]].concat())
    };
    let of_file = measure("hamlet.bin");
    assert_eq!(of_file["rows"], measure(&data)["rows"]);
    let positions = &of_file["rows"][0]["cells"]["128"]["positions"];
    assert_eq!(positions[0]["start"], 1);
    fs::write(here.join("odd.bin"), [0; 3]).unwrap();
    let args = ["eval", "perplexity", "--model", &model, "--data", "odd.bin", "--lengths", "128"];
    check_mistake(here, &args, &["odd.bin", "`3` bytes"]);
}

#[test]
fn a_pattern_is_compared_with_full_attention() {
    let folder = TempDir::new().unwrap();
    let (model, data) = (model(), asset("text/held-out/shakespeare_hamlet.txt"));
    let args = ["eval", "perplexity", "--model", &model, "--data", &data, "--lengths", "128"];
    let args = [&args[..], &["--max-tokens", "2000", "--divergence"]].concat();
    check_mistake(folder.path(), &args, &["--divergence", "--attention"]);
    let shifted = [&args[..], &["--attention", "shifted"]].concat();
    let divergence = json(folder.path(), &shifted)["divergences"][0].clone();
    let nats = divergence["divergence"].as_f64().unwrap();
    assert!(nats > 1e-3 && nats < 5.0, "{nats}");
    assert!(divergence["same_choice"].as_f64().unwrap() < 1.0);
    let by_position =
        text(&succeed(folder.path(), &[&args[..10], &["--by-position"]].concat()).stdout);
    assert!(by_position.contains("120 to 127"), "{by_position}");
}

/// What the three windows predict and the protocol scores, token by token.
#[test]
fn a_divergence_is_the_mean_of_its_definition_over_what_is_scored() {
    let llama = redraw(config(json!({})).init(&Device::default()), 5);
    let (group_size, shift) = (GroupSize::Tokens(4), Shift::HalfHeads);
    let pattern = AttentionPattern::Shifted { group_size, shift };
    let text = tokens(22, 37, 6);
    let mut rows = vec![];
    for (window, unscored) in [(0..10, 0), (6..16, 3), (12..22, 3)] {
        let [full, sparse] =
            [AttentionPattern::Full, pattern].map(|it| logits(&llama, &text[window.clone()], it));
        rows.extend(full.into_iter().zip(sparse).take(9).skip(unscored));
    }
    let nats: f64 = rows.iter().map(|(full, sparse)| by_hand::divergence(full, sparse)).sum();
    let same = rows.iter().filter(|(full, sparse)| choice(full) == choice(sparse)).count();

    let protocol = Protocol::LastTokens { stride: 6 };
    let config = PerplexityConfig { length: 10, protocol, pattern, max_tokens: None };
    let measured = divergence(&llama, &[text], &config, &mut |_, _| {}).unwrap();

    assert_eq!((measured.windows, measured.tokens, rows.len()), (3, 21, 21));
    let error = measured.divergence / (nats / 21.0) - 1.0;
    assert!(error.abs() < 1e-4, "{} instead of {}", measured.divergence, nats / 21.0);
    assert_eq!(measured.same_choice, same as f64 / 21.0);
}

/// A comparison of the embedded model, too short to learn anything: its report, and what it said meanwhile.
fn comparison(here: &Path, out: &str, methods: &str, seeds: &str) -> (Value, String) {
    let args = ["compare", "--out", out, "--methods", methods, "--seeds", seeds, "--steps", "2"];
    let more =
        ["--eval-tokens", "3200", "--context-length", "512", "--eval-lengths", "128,256,512"];
    let embedded = ["--data", &asset("text/train/shakespeare_lear.txt")];
    let said = text(&succeed(here, &[&args[..], &more, &embedded].concat()).stderr).to_owned();
    let report = fs::read(here.join(out).join("report.json")).unwrap();
    (serde_json::from_slice(&report).unwrap(), said)
}

#[test]
fn methods_are_compared_and_what_is_finished_is_kept() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    let (first, said) = comparison(here, "all", "yarn,longlora,full", "0");
    assert!(said.contains("training LongLoRA with seed 0"), "{said}");
    assert!(!said.contains("nothing is held out"), "the text to measure on is: {said}");
    let methods: Vec<_> =
        first["runs"].as_array().unwrap().iter().map(|run| run["method"].clone()).collect();
    assert_eq!(methods, ["untouched", "yarn", "longlora", "full"]);
    let html = fs::read_to_string(here.join("all/report.html")).unwrap();
    assert!(html.contains("YaRN, untrained") && !html.contains("http"));
    let findings = first["report"]["findings"].to_string();
    // Five windows, by which YaRN cannot be told from two steps of training.
    for part in
        ["lowest perplexity", "Measured was 5 stretches", "No recommendation", "--eval-data"]
    {
        assert!(findings.contains(part), "`{part}` is not in {findings}");
    }
    let tables = first["report"]["tables"].to_string();
    assert!(tables.contains("by Student's t over 5 stretches of text"), "{tables}");

    // A second seed is added; what was trained and measured stays to the last bit.
    let runs = || -> Vec<PathBuf> {
        let entries = fs::read_dir(here.join("all/runs")).unwrap();
        let mut runs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        runs
    };
    let before = runs();
    let (second, said) = comparison(here, "all", "longlora", "0,1");
    assert!(!said.contains("with seed 0"), "{said}");
    assert_eq!(runs().len(), before.len() + 2, "the seed is added to every method of the folder");
    assert_eq!(second["runs"][2], first["runs"][2]);
    assert_eq!(second["runs"][3]["seed"], 1);
    assert_eq!(second["runs"].as_array().unwrap().len(), 6);
    let train = || fs::read(here.join("all/train.json")).unwrap();
    let (learnt_from, other) = (train(), ["compare", "--out", "all", "--steps", "3"]);
    check_mistake(here, &other, &["`all`", "--out"]);
    assert!(train() == learnt_from, "a refused command changed the folder");

    // It may be moved.
    fs::rename(here.join("all"), here.join("moved")).unwrap();
    let (third, said) = comparison(here, "moved", "longlora", "0,1");
    assert!(!said.contains("training"), "{said}");
    assert_eq!(third["runs"], second["runs"]);
}

/// Extends the included model from 256 to 512 tokens in one step: `run/adapter`.
fn train(here: &Path) {
    let (model, data) = (model(), asset("text/train/shakespeare_lear.txt"));
    let args = ["finetune", "--model", &model, "--data", &data, "--context-length", "512"];
    let more = ["--steps", "1", "--accumulation", "1", "--no-eval", "--out", "run"];
    succeed(here, &[&args[..], &more].concat());
}

#[test]
fn answers_with_an_adapter_are_not_those_without() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    train(here);
    let model = model();
    let base = ["eval", "passkey", "--model", &model, "--lengths", "250", "--depths", "0.5"];
    let with = [&base[..], &["--adapter", "run/adapter"]].concat();
    let (base, with): (&[&str], &[&str]) = (&base, &with);
    for (args, lines) in [(base, 1), (with, 2), (base, 2), (with, 2)] {
        succeed(here, args);
        let results = fs::read_to_string(here.join("results/passkey.jsonl")).unwrap();
        assert_eq!(results.lines().count(), lines, "{args:?}");
    }

    // Of one name: changed in its place, and kept in half the memory.
    let config = here.join("run/adapter/adapter_config.json");
    let whole = fs::read_to_string(&config).unwrap();
    let smaller = whole.replace("\"lora_alpha\": 16", "\"lora_alpha\": 8");
    assert_ne!(smaller, whole);
    fs::write(&config, smaller).unwrap();
    succeed(here, with);
    succeed(here, &[with, &["--weights", "bf16"]].concat());
    let results = fs::read_to_string(here.join("results/passkey.jsonl")).unwrap();
    let answers: Vec<Value> =
        results.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |key: &str| answers.iter().map(|answer| answer[key].clone()).collect::<Vec<_>>();
    assert_eq!(told("weights"), ["f32", "f32", "f32", "bf16"]);
    assert_eq!(told("model")[1], told("model")[2]);
    let adapters = told("adapter");
    assert!(adapters[0].is_null());
    assert_eq!(adapters[1].as_str().unwrap().len(), 12);
    assert_ne!(adapters[1], adapters[2]);
    assert_eq!(adapters[2], adapters[3]);
}

#[test]
fn a_gate_fails_with_exit_code_two() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    let (model, data) = (model(), asset("text/held-out/shakespeare_hamlet.txt"));
    train(here);
    let gate = |limit: &str| {
        let args =
            ["eval", "retention", "--model", &model, "--adapter", "run/adapter", "--data", &data];
        let more = ["--lengths", "128,256", "--max-tokens", "3000", "--max-increase", limit];
        longlora(here, &[&args[..], &more].concat())
    };
    // Position interpolation without training costs far more than 5 %.
    let failed = gate("0.05");
    assert_eq!(failed.status.code(), Some(2), "{}", text(&failed.stderr));
    assert!(text(&failed.stderr).contains("`256` tokens the perplexity"), "the largest rise");
    assert!(text(&failed.stdout).contains("256"));
    assert_eq!(gate("1000").status.code(), Some(0));
    let bare = ["eval", "retention", "--model", &model, "--data", &data];
    check_mistake(here, &bare, &["--adapter", "--base"]);

    // What a model was before, instead of an adapter: nothing was lost of itself, and all of it by another one.
    let more = ["--base", &model, "--lengths", "128", "--max-tokens", "600", "--max-increase", "0"];
    let same = succeed(here, &[&bare[..], &more].concat());
    assert!(text(&same.stdout).contains("+0.00 %"), "{}", text(&same.stdout));
    let tiny = golden("tiny/model");
    let stranger = [&bare[..], &["--base", tiny.to_str().unwrap()]].concat();
    check_mistake(here, &stranger, &["--base", "vocabulary"]);
}

#[test]
fn a_model_without_a_chat_template_is_asked_with_text_alone() {
    let folder = TempDir::new().unwrap();
    let model = model();
    let args = ["eval", "passkey", "--model", &model, "--lengths", "250", "--chat"];
    check_mistake(folder.path(), &args, &["chat template", "--chat"]);
    let tiny = golden("tiny/model");
    let args = ["eval", "passkey", "--model", tiny.to_str().unwrap(), "--lengths", "100"];
    check_mistake(folder.path(), &args, &["tokenizer"]);
}

/// It freezes nothing that could be.
#[test]
fn full_fine_tuning_is_not_compared_in_few_bits() {
    let folder = TempDir::new().unwrap();
    let compare =
        ["compare", "--out", "c", "--steps", "2", "--weights", "nf4", "--methods", "full"];
    check_mistake(folder.path(), &compare, &["`nf4`", "--weights f32"]);
}
