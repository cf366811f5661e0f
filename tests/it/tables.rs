//! The table at the end of a run, from outside: what it is measured on, what of it is kept, what is said before it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use longlora_data::SourceFile;
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{check_mistake, finetune, last_line, longlora, text, tiny_model, with_ids};
use crate::fixture::{json, read, write};
use crate::place::names;

/// A folder with token ids to learn from, in `ids.json`, and others to measure on, in `held.json`.
fn texts() -> TempDir {
    let folder = with_ids((0..4000).map(|i| (i * i / 3 + i) % 96));
    write_ids(&folder.path().join("held.json"), 700, 2);
    folder
}

fn write_ids(path: &Path, count: usize, factor: usize) {
    let ids: Vec<usize> = (0..count).map(|i| (i * i / 3 + factor * i) % 96).collect();
    write(path, format!("{ids:?}"));
}

fn model() -> String {
    tiny_model().to_str().expect("the checkout's path is UTF-8").to_owned()
}

/// A run of two steps into `run`; what it says.
#[track_caller]
fn train(here: &Path, more: &[&str]) -> String {
    let size = ["--steps", "2", "--accumulation", "1", "--warmup-steps", "0", "--out", "run"];
    succeed(here, &finetune(&model(), &[&size[..], more].concat()))
}

/// `--resume`; what it says.
#[track_caller]
fn resume(here: &Path, more: &[&str]) -> String {
    succeed(here, &[&["finetune", "--resume", "run"][..], more].concat())
}

#[track_caller]
fn succeed(here: &Path, args: &[&str]) -> String {
    let output = longlora(here, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?} said: {said}");
    said
}

/// The lengths of the table.
#[track_caller]
fn lengths(here: &Path) -> Vec<usize> {
    let report = json(&here.join("run/report.json"));
    let cells = report["perplexity"]["rows"][0]["cells"].as_object().expect("a row").clone();
    let mut lengths: Vec<usize> =
        cells.keys().map(|key| key.parse().expect("a number of tokens")).collect();
    lengths.sort_unstable();
    lengths
}

/// What the report says that it was measured on.
#[track_caller]
fn text_of_table(here: &Path) -> String {
    let report = json(&here.join("run/report.json"));
    let facts = report["facts"].as_array().expect("a list").clone();
    let is_text = |fact: &&Value| fact[0] == "text to measure on";
    let fact = facts.iter().find(is_text).expect("what the table was measured on");
    fact[1].as_str().expect("a text").to_owned()
}

fn config(here: &Path) -> String {
    fs::read_to_string(here.join("run/config.toml")).expect("the settings")
}

#[test]
fn a_resumed_run_ends_with_the_table_that_was_asked_for() {
    let folder = texts();
    let here = folder.path();
    train(here, &["--eval-lengths", "64,128", "--eval-tokens", "200"]);
    assert_eq!(lengths(here), [64, 128]);
    let toml = config(here);
    assert!(toml.contains("[evaluation]") && toml.contains("lengths = [64, 128]"), "{toml}");
    let said = text_of_table(here);
    let share = format!("the last 5 % of {}: 200 tokens", here.join("ids.json").display());
    assert!(said.contains(&share), "{said}");

    // A report that is there stays; one that is not is made as it was to be.
    let report = here.join("run/report.html");
    write(&report, "mine");
    let said = resume(here, &[]);
    assert!(said.contains("stays as it is"), "{said}");
    assert_eq!(read(&report), b"mine");
    for name in ["report.html", "report.json"] {
        fs::remove_file(here.join("run").join(name)).expect("a report");
    }
    resume(here, &[]);
    assert_eq!(lengths(here), [64, 128]);
    assert!(text_of_table(here).contains("200 tokens"));

    // What is asked for anew is kept in its turn.
    resume(here, &["--eval-lengths", "128"]);
    assert_eq!(lengths(here), [128]);
    fs::remove_file(&report).expect("a report");
    resume(here, &["--memory", "1GiB"]);
    assert_eq!(lengths(here), [128]);
}

#[test]
fn a_run_without_a_table_stays_without_one_until_it_is_asked_for() {
    let folder = texts();
    let here = folder.path();
    let report = here.join("run/report.json");
    train(here, &["--no-eval"]);
    resume(here, &[]);
    assert!(!report.exists());
    resume(here, &["--eval-tokens", "300"]);
    assert!(report.exists());
    let toml = config(here);
    assert!(!toml.contains("enabled = false") && toml.contains("tokens = 300"), "{toml}");
}

#[test]
fn text_to_measure_on_is_noted_compared_and_named_anew() {
    let folder = texts();
    let here = folder.path();
    let [held, other] = ["held.json", "other.json"].map(|name| here.join(name));
    train(here, &["--eval-data", "held.json"]);
    let measured_on = format!("{}: 700 tokens in one document", held.display());
    assert_eq!(text_of_table(here), measured_on);
    for name in ["report.md", "report.html"] {
        let report = fs::read_to_string(here.join("run").join(name)).expect("a report");
        assert!(report.contains("700 tokens in one document"), "{name}");
    }
    let noted = || json(&here.join("run/manifest.json"))["held_out"].clone();
    assert_eq!(noted()[0]["sha256"], SourceFile::read(&held).unwrap().sha256);

    write_ids(&held, 700, 3);
    let needles = ["held.json", "no longer", "--eval-data"];
    check_mistake(here, &["finetune", "--resume", "run"], &needles);
    let nowhere = ["finetune", "--resume", "run", "--eval-data", "nowhere"];
    check_mistake(here, &nowhere, &["nowhere` does not exist"]);
    assert!(config(here).contains("held.json"), "what cannot be measured on was kept");

    write_ids(&other, 600, 5);
    resume(here, &["--eval-data", "other.json"]);
    assert!(text_of_table(here).contains("other.json: 600 tokens"), "{}", text_of_table(here));
    assert!(config(here).contains("other.json"), "{}", config(here));
    assert_eq!(noted()[0]["sha256"], SourceFile::read(&other).unwrap().sha256);
    resume(here, &[]);
}

/// What is held out stays held out: a run goes on with the windows that it began with.
#[test]
fn other_text_to_measure_on_changes_nothing_of_what_is_learned_from() {
    let folder = texts();
    let here = folder.path();
    train(here, &[]);
    resume(here, &["--eval-data", "held.json"]);
    assert!(text_of_table(here).contains("held.json: 700 tokens"), "{}", text_of_table(here));
    let toml = config(here);
    assert!(toml.contains("fraction = 0.05") && toml.contains("held.json"), "{toml}");
    resume(here, &[]);
}

#[test]
fn tokens_to_measure_on_that_the_model_does_not_know_are_found_before_the_first_step() {
    let folder = texts();
    let here = folder.path();
    fs::create_dir(here.join("held")).expect("a folder");
    write_ids(&here.join("held/a.json"), 700, 2);
    let ids: Vec<usize> = (0..700).map(|i| i % 5000).collect();
    write(&here.join("held/b.json"), format!("{ids:?}"));
    let model = model();
    let needles = ["held/b.json", "token id `96`", "vocabulary", "`96`"];
    for more in [&["--dry-run"][..], &["--steps", "2"]] {
        let more = [&["--eval-data", "held"], more].concat();
        check_mistake(here, &finetune(&model, &more), &needles);
    }
    assert!(!here.join("runs/1").exists(), "nothing was begun");
    let without = finetune(&model, &["--dry-run", "--no-eval"]);
    succeed(here, &without);
}

#[test]
fn options_of_a_table_that_contradict_each_other_are_refused() {
    let folder = texts();
    let here = folder.path();
    let model = model();
    let twice = finetune(&model, &["--eval-lengths", "128,256,128"]);
    check_mistake(here, &twice, &["--eval-lengths", "`128` twice"]);
    for option in [["--eval-lengths", "128"], ["--eval-tokens", "500"]] {
        let output = longlora(here, &finetune(&model, &[&["--no-eval"], &option[..]].concat()));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--no-eval") && said.contains(option[0]), "{said}");
    }
    for option in [["--rope-scaling", "yarn"], ["--train-length", "128"], ["--group-size", "8"]] {
        let output = longlora(here, &[&["finetune", "--resume", "run"], &option[..]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--resume") && said.contains(option[0]), "{said}");
    }
    assert_eq!(names(here), ["held.json", "ids.json"]);
}

#[test]
fn what_makes_a_run_worth_less_is_said_before_it() {
    let folder = texts();
    let here = folder.path();
    let model = model();
    let dry = |more: &[&str]| {
        succeed(here, &finetune(&model, &[&["--dry-run", "--steps", "8"], more].concat()))
    };
    assert!(dry(&[]).contains("the warm-up takes 20 steps and the run has 8"));
    assert!(!dry(&["--warmup-steps", "7"]).contains("warm-up"));

    let learned = "among the text to learn from, too";
    assert!(!dry(&["--eval-data", "held.json"]).contains(learned));
    assert!(dry(&["--eval-data", "ids.json"]).contains(learned));
    fs::create_dir(here.join("both")).expect("a folder");
    fs::copy(here.join("held.json"), here.join("both/a.json")).expect("a copy");
    fs::copy(here.join("ids.json"), here.join("both/b.json")).expect("a copy");
    let said = dry(&["--eval-data", "both"]);
    assert!(said.contains(learned) && said.contains("both/b.json"), "{said}");
}

/// The adapter is whole, so that the table is all that is missing.
#[cfg(unix)]
#[test]
fn ctrl_c_in_the_table_says_how_to_get_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let child = Command::new(env!("CARGO_BIN_EXE_longlora"))
        .args(["finetune", "--steps", "1", "--out", "run"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let adapter = folder.path().join("run/adapter/adapter_config.json");
    let started = Instant::now();
    while !adapter.exists() {
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was trained");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(300));
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill starts").success());

    let output = child.wait_with_output().expect("the program ends");
    let said = last_line(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let program = env!("CARGO_BIN_EXE_longlora");
    let how = format!("make it with: {program} finetune --resume run");
    assert!(said.starts_with("stopped") && said.ends_with(&how), "{said}");
    assert!(!folder.path().join("run/report.json").exists(), "the table was faster");
}
