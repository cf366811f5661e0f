//! `--device` and `longlora devices`, from outside.

use std::fs;
use std::path::{Path, PathBuf};

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use burn::tensor::{DType, Device};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use longlora_llama::{MAX_SHARD_BYTES, save_pretrained};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{check_mistake, longlora, text};
use crate::fixture::golden;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::random::config;

/// What `--device` takes, with whether this build has its code.
const KINDS: [(&str, bool); 5] = [
    ("flex", true),
    ("cuda", cfg!(feature = "cuda")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
];

/// Every command that computes.
const COMMANDS: [&str; 12] = [
    "finetune --model MODEL --data ids.json --context-length 512",
    "pretrain recipe.toml --out out",
    "eval perplexity --model MODEL --data ids.json --lengths 64",
    "generate --model MODEL --prompt The",
    "export --model MODEL --out out",
    "convert MODEL --out out",
    "bench gemm --model MODEL",
    "bench attention --model MODEL --tokens 64",
    "bench step --model MODEL --tokens 64 --attention full",
    "bench forward --model MODEL --tokens 64",
    "bench floor --model MODEL --tokens 64 --attention full",
    "bench memory --model MODEL --tokens 64 --attention full",
];

fn assets() -> PathBuf {
    golden("../../assets")
}

/// A command with the included model in place of `MODEL`, and a device.
fn on(device: &str, command: &str) -> Vec<String> {
    let model = assets().join("model").display().to_string();
    let words = command.replace("MODEL", &model);
    words.split(' ').chain(["--device", device]).map(str::to_owned).collect()
}

#[track_caller]
fn check_refused(place: &Path, device: &str, command: &str, needles: &[&str]) {
    let words = on(device, command);
    check_mistake(place, &words.iter().map(String::as_str).collect::<Vec<_>>(), needles);
}

/// The lines of `longlora devices`.
fn listed() -> Vec<String> {
    let output = longlora(TempDir::new().unwrap().path(), &["devices"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn a_build_without_the_device_is_told_with_the_build_that_has_it() {
    let place = TempDir::new().unwrap();
    let ids: Vec<usize> = (0..3000).map(|i| i * 7 % 96).collect();
    fs::write(place.path().join("ids.json"), format!("{ids:?}")).unwrap();
    fs::copy(assets().join("pretrain.toml"), place.path().join("recipe.toml")).unwrap();
    for (kind, _) in KINDS.into_iter().filter(|(_, built)| !built) {
        let how = format!("`cargo xtask build --device {kind}`");
        let needles = [&format!("this build cannot compute on `{kind}`"), how.as_str()];
        for command in COMMANDS {
            check_refused(place.path(), kind, command, &needles);
        }
        assert!(
            listed().iter().any(|line| line.starts_with(&format!("{kind}: not in this build")))
        );
    }
    for left in ["out", "runs/1"] {
        assert!(!place.path().join(left).exists(), "{left} was left behind");
    }
}

#[test]
fn what_names_no_device_is_told_with_what_does() {
    let place = TempDir::new().unwrap();
    let said = |device: &str| {
        let words = on(device, COMMANDS[0]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = longlora(place.path(), &words);
        assert_eq!(output.status.code(), Some(1), "{device}");
        text(&output.stderr)
    };
    assert!(said("tpu").contains("`tpu` is no device; use flex, cuda, wgpu, vulkan, metal"));
    assert!(said("cuda:one").contains("`one` is no number of a device"));
    assert!(said("flex:0").contains("there is one processor; use `flex`"));
}

/// On a GPU build without a GPU, too, this has to end in one sentence.
#[test]
fn what_is_listed_computes_and_what_is_not_says_why() {
    let (place, lines) = (TempDir::new().unwrap(), listed());
    assert!(lines.iter().any(|line| line.starts_with("│ flex")), "{lines:?}");
    let attention = "bench attention --tokens 64 --repeat 1 --model MODEL";
    for (kind, _) in KINDS.into_iter().filter(|(_, built)| *built) {
        if lines.iter().any(|line| line.starts_with(&format!("{kind}: not on this machine"))) {
            check_refused(
                place.path(),
                kind,
                attention,
                &[&format!("there is no `{kind}` device")],
            );
            continue;
        }
        let words = on(kind, attention);
        let output = longlora(place.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{kind}: {}", text(&output.stderr));
        if kind != "flex" {
            let beyond = format!("{kind}:99");
            check_refused(place.path(), &beyond, attention, &[&format!("there is no `{beyond}`")]);
        }
    }
}

/// The GPU that tests run on, if there is one.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn gpu() -> Option<String> {
    let kind = std::env::var("BURN_DEVICE").unwrap_or_else(|_| "wgpu".to_owned());
    let row = format!("│ {kind}:0");
    listed().iter().any(|line| line.starts_with(&row)).then_some(kind)
}

/// A GPU's allocator keeps books of what it has set aside; the processor has none.
#[test]
fn a_processor_has_nothing_to_rehearse() {
    let place = TempDir::new().unwrap();
    let command = "bench memory --model MODEL --tokens 64 --attention full";
    check_refused(place.path(), "flex", command, &["`flex`", "bench step"]);
}

/// Steps that compute nothing take the memory of those that do.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[test]
fn a_rehearsal_holds_what_a_run_holds() {
    let Some(kind) = gpu() else { return };
    let place = TempDir::new().unwrap();
    // Of a tied table with many rows gradient and moments are most of all there is.
    let sizes = json!({ "vocab_size": 40_000, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16,
        "num_attention_heads": 4, "tie_word_embeddings": true, "max_position_embeddings": 256 });
    let llama = config(sizes).init(&Device::flex());
    save_pretrained(&llama, &place.path().join("model"), DType::F32, MAX_SHARD_BYTES).unwrap();
    for weights in ["f32", "nf4"] {
        check_rehearsal(place.path(), &kind, weights);
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[track_caller]
fn check_rehearsal(place: &Path, kind: &str, weights: &str) {
    let run = |command: &str| {
        let command = command.replace("MODEL", "model").replace("WEIGHTS", weights);
        let words = on(kind, &command);
        let output = longlora(place, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    let rehearsal = "bench memory --model MODEL --tokens 512 --attention s2 --memory 1B --weights WEIGHTS --json";
    let rehearsal: Value = serde_json::from_slice(&run(rehearsal)).unwrap();
    let rehearsed = rehearsal["held_mib"].as_f64().unwrap();

    fs::write(place.join("ids.json"), format!("{:?}", [7; 2000])).unwrap();
    run(
        "finetune --model MODEL --data ids.json --context-length 512 --steps 2 --accumulation 2 --memory 1B --weights WEIGHTS --no-eval --out run-WEIGHTS",
    );
    let metrics = fs::read_to_string(place.join(format!("run-{weights}/metrics.jsonl"))).unwrap();
    let steps = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let held = steps.map(|step| step["device_memory_bytes"].as_u64().unwrap()).max().unwrap();
    let ratio = rehearsed / (held >> 20) as f64;
    assert!(
        (0.8..1.25).contains(&ratio),
        "{weights}: {rehearsed} MiB rehearsed, {held} bytes held"
    );
}

/// Micro-batches side by side are for the cores of a processor.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[test]
fn a_gpu_takes_one_micro_batch_at_a_time() {
    let Some(kind) = gpu() else { return };
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("ids.json"), format!("{:?}", [7; 600])).unwrap();
    let finetune = "finetune --model MODEL --data ids.json --context-length 512 --parallel 2";
    check_refused(place.path(), &kind, finetune, &["--parallel `2`", "--batch-size"]);
    // The settings of the included run, or of one that began on a processor, are no reason to refuse it.
    let output = longlora(place.path(), &["finetune", "--dry-run", "--device", &kind]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("parallel = 2"), "{}", text(&output.stdout));
}

/// What a GPU learns in two steps is what the processor does, as far as f32 goes.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
#[test]
fn steps_on_a_gpu_are_the_processors_steps() {
    let Some(kind) = gpu() else { return };
    let place = TempDir::new().unwrap();
    let losses = |device: &str| -> Vec<f64> {
        let step =
            "bench step --tokens 64 --attention s2 --group 16 --steps 2 --json --model MODEL";
        let words = on(device, step);
        let output = longlora(place.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{device}: {}", text(&output.stderr));
        let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        line["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect()
    };
    // A GPU takes one step more before those that it reports.
    let (ours, processors) = (losses(&kind), losses("flex"));
    assert!((ours[0] - processors[1]).abs() < 1e-4 * processors[1], "{ours:?} {processors:?}");
}
