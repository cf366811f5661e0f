//! The program that exports, from outside: `export` and `convert` on the included model.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use burn::tensor::TensorData;
use longlora_data::SourceFile;
use longlora_llama::{read_tensors, write_tensors};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{check_mistake, longlora, text};
use crate::fixture::{golden, json, model_with, read, write, write_json};
use crate::place::names;
use crate::writing::included;

/// What an export leaves in a folder besides weights and tokenizer.
const MANIFEST: &str = "longlora_export.json";

pub(crate) fn folder() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

pub(crate) fn utf8(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are UTF-8")
}

/// A folder in which the included model was extended from 256 to 512 tokens: `run/adapter`, of two steps.
pub(crate) fn trained(rope_offset: &str) -> TempDir {
    let folder = folder();
    let size = ["--context-length", "512", "--steps", "2", "--accumulation", "1"];
    let rate: &[&str] =
        if rope_offset == "none" { &[] } else { &["--rope-offset-learning-rate", "0.5"] };
    let rest = ["finetune", "--no-eval", "--save-every", "0", "--out", "run"];
    let output = longlora(
        folder.path(),
        &[&rest[..], &size, &["--rope-offset", rope_offset], rate].concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    folder
}

pub(crate) fn export<'a>(model: &'a Path, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["export", "--model", utf8(model), "--adapter", "run/adapter", "--out", out];
    [&args[..], more].concat()
}

pub(crate) fn convert<'a>(model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["convert", model, "--out", out][..], more].concat()
}

/// Exit code 0, the path alone as the result, and for the person how far the logits are. Returns what that person reads.
#[track_caller]
pub(crate) fn check_done(here: &Path, out: &str, args: &[&str]) -> String {
    let output = longlora(here, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?} said: {said}");
    assert_eq!(text(&output.stdout), format!("{out}\n"));
    let compared = said.lines().filter(|line| line.contains("logits differ by at most")).count();
    assert!(compared > 0 && said.contains("positions 0 to 63"), "{said}");
    said
}

/// What a model writes, greedily.
#[track_caller]
pub(crate) fn written(here: &Path, model: &[&str]) -> String {
    let prompt = ["--prompt", "And God said", "--max-new-tokens", "30"];
    let output = longlora(here, &[&["generate"], model, &prompt].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What the model and the adapter of `run` write together.
pub(crate) fn written_by_both(here: &Path) -> String {
    written(here, &["--model", utf8(&included()), "--adapter", "run/adapter"])
}

#[test]
fn a_folder_has_all_that_other_programs_need() {
    let folder = trained("none");
    let (here, model) = (folder.path(), included());
    let kinds = [("bf16", "bfloat16"), ("f32", "float32"), ("f16", "float16")];
    for (kind, torch_name) in kinds {
        // bf16 is the default.
        let dtype = ["--dtype", kind];
        let more = if kind == "bf16" { &[][..] } else { &dtype };
        check_done(here, kind, &export(&model, kind, more));

        let out = here.join(kind);
        let weights = ["model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        assert_eq!(names(&out), [&["config.json", MANIFEST], &weights[..]].concat());
        let config = json(&out.join("config.json"));
        assert_eq!(config["torch_dtype"], torch_name);
        assert_eq!(config["max_position_embeddings"], 512);
        assert_eq!(config["vocab_size"], 2048);
        let scaling = &config["rope_scaling"];
        assert_eq!((&scaling["rope_type"], &scaling["factor"]), (&"yarn".into(), &2.0.into()));
        assert_eq!(scaling["original_max_position_embeddings"], 256);
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            let [ours, theirs] = [&out, &model].map(|folder| read(&folder.join(name)));
            assert_eq!(ours.trim_ascii(), theirs.trim_ascii(), "{name}");
        }
        let manifest = json(&out.join(MANIFEST));
        check_manifest(&manifest, kind);
        let adapter = &manifest["adapter"];
        assert_eq!(adapter["path"], "run/adapter");
        for name in ["adapter_config.json", "adapter_model.safetensors", "longlora.json"] {
            let file = SourceFile::read(&here.join("run/adapter").join(name)).unwrap();
            assert_eq!(adapter["sha256"][name], file.sha256, "{name}");
        }
        assert_eq!(manifest["dropped_rope_offsets"], false);
        assert!(manifest["cost_of_dropping"].is_null());
    }
    assert_eq!(names(here), ["bf16", "f16", "f32", "run"]);
    assert_eq!(written(here, &["--model", "f32"]), written_by_both(here));
}

/// 64 positions at either end of the context; f32 comes back to the bit.
#[track_caller]
fn check_manifest(manifest: &Value, dtype: &str) {
    assert_eq!(manifest["dtype"], dtype);
    assert_eq!(manifest["context"], 512);
    assert_eq!(manifest["source"], utf8(&included()));
    let parts = manifest["read_back"].as_array().expect("a list");
    let first: Vec<_> = parts.iter().map(|part| part["first_position"].as_u64()).collect();
    assert_eq!(first, [Some(0), Some(448)]);
    for part in parts {
        let difference = part["largest_difference"].as_f64().expect("a number");
        assert_eq!(difference == 0.0, dtype == "f32", "{manifest}");
        assert!(part["mean_divergence"].as_f64().expect("a number") < 1e-3, "{manifest}");
    }
}

#[test]
fn what_lies_beside_the_weights_comes_along_and_knows_the_new_context() {
    let folder = trained("none");
    let model = model_with(&included(), json!({}));
    fs::copy(included().join("tokenizer.json"), model.path().join("tokenizer.json")).unwrap();
    let mut config = json(&included().join("tokenizer_config.json"));
    config["model_max_length"] = 256.into();
    write_json(&model.path().join("tokenizer_config.json"), &config);
    for name in ["generation_config.json", "chat_template.jinja"] {
        write(&model.path().join(name), "{}");
    }
    check_done(folder.path(), "out", &export(model.path(), "out", &[]));

    let out = folder.path().join("out");
    config["model_max_length"] = 512.into();
    assert_eq!(json(&out.join("tokenizer_config.json")), config);
    for name in ["generation_config.json", "chat_template.jinja"] {
        assert_eq!(read(&out.join(name)), b"{}", "{name}");
    }
}

#[test]
fn a_folder_is_cut_into_shards_that_are_read_as_one() {
    let folder = trained("none");
    let (here, model) = (folder.path(), included());
    let more = ["--dtype", "f32", "--max-shard-size", "2MB"];
    check_done(here, "out", &export(&model, "out", &more));

    let out = here.join("out");
    let is_shard = |name: &String| name.ends_with(".safetensors");
    let shards: Vec<String> = names(&out).into_iter().filter(is_shard).collect();
    assert!(shards.len() > 2 && !shards.contains(&"model.safetensors".to_owned()), "{shards:?}");
    for shard in &shards {
        let size = fs::metadata(out.join(shard)).unwrap().len();
        assert!(size < 2_000_000 + 10_000, "{shard} has {size} bytes");
    }
    let index = json(&out.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().expect("an object");
    assert!(shards.iter().all(|shard| map.values().any(|file| file == shard)));
    assert_eq!(written(here, &["--model", "out"]), written_by_both(here));
}

#[test]
fn a_gguf_file_writes_the_same_text_there_and_back() {
    let folder = trained("none");
    let (here, model) = (folder.path(), included());
    for kind in ["f32", "f16", "bf16", "q8_0"] {
        let file = format!("{kind}.gguf");
        check_done(here, &file, &export(&model, &file, &["--dtype", kind]));
        check_manifest(&json(&here.join(format!("{file}.{MANIFEST}"))), kind);
    }
    let theirs = written_by_both(here);
    assert_eq!(written(here, &["--model", "f32.gguf"]), theirs);

    check_done(here, "back", &convert("f32.gguf", "back", &[]));
    assert_eq!(written(here, &["--model", "back"]), theirs);
    check_done(here, "again.gguf", &convert("back", "again.gguf", &[]));
    check_done(here, "small.gguf", &convert("f32.gguf", "small.gguf", &["--dtype", "q8_0"]));
    for (ours, theirs) in [("again.gguf", "f32.gguf"), ("small.gguf", "q8_0.gguf")] {
        assert!(read(&here.join(ours)) == read(&here.join(theirs)), "{ours} is not {theirs}");
    }
    assert!(names(here).iter().all(|name| !name.starts_with('.')), "{:?}", names(here));
}

#[test]
fn shared_rope_offsets_are_longrope_factors_to_other_programs() {
    let folder = trained("shared");
    let (here, model) = (folder.path(), included());
    for out in ["out", "out.gguf"] {
        check_done(here, out, &export(&model, out, &["--dtype", "f32"]));
        assert_eq!(written(here, &["--model", out]), written_by_both(here), "{out}");
    }
    let scaling = &json(&here.join("out/config.json"))["rope_scaling"];
    assert_eq!(scaling["rope_type"], "longrope");
    assert_eq!(scaling["original_max_position_embeddings"], 256);
    // YaRN's own scaling of the logits stays.
    let factor = scaling["attention_factor"].as_f64().expect("a number");
    assert!((factor - (0.1 * 2f64.ln() + 1.0)).abs() < 1e-6, "{factor}");
    // YaRN leaves the fastest frequency alone; the offset does not.
    let factors = scaling["long_factor"].as_array().expect("a list");
    assert_eq!(factors.len(), 12);
    let fastest = factors[0].as_f64().expect("a number");
    assert!((fastest - 1.0).abs() > 1e-4, "{fastest}");
}

#[test]
fn rope_offsets_of_heads_are_left_out_only_if_asked_and_the_cost_is_told() {
    let folder = trained("head");
    let (here, model) = (folder.path(), included());
    let book = included().join("../text/held-out/bible_kjv_epistles.txt");
    let lines: Vec<String> = text(&read(&book)).lines().take(300).map(ToOwned::to_owned).collect();
    write(&here.join("data.txt"), lines.join("\n"));
    let before = names(here);

    for out in ["out", "out.gguf"] {
        let needles = ["differ between layers and heads", "--drop-rope-offsets"];
        check_mistake(here, &export(&model, out, &[]), &needles);
    }
    let drop = export(&model, "out", &["--drop-rope-offsets"]);
    check_mistake(here, &drop, &["--drop-rope-offsets", "--data"]);
    let data = export(&model, "out", &["--data", "data.txt"]);
    check_mistake(here, &data, &["--data", "--drop-rope-offsets"]);
    assert_eq!(names(here), before);

    let measured = [&drop[..], &["--data", "data.txt"]].concat();
    let few = [&measured[..], &["--max-tokens", "10"]].concat();
    check_mistake(here, &few, &["`10`", "`512`"]);
    assert_eq!(names(here), before);

    let said = check_done(here, "out", &[&measured[..], &["--max-tokens", "1100"]].concat());
    assert!(said.contains("leaving them out costs") && said.contains("nats per token"), "{said}");
    assert!(said.contains("with RoPE offsets"), "{said}");
    let config = json(&here.join("out/config.json"));
    assert_eq!(config["rope_scaling"]["rope_type"], "yarn");
    let manifest = json(&here.join("out").join(MANIFEST));
    assert_eq!(manifest["dropped_rope_offsets"], true);
    let cost = &manifest["cost_of_dropping"];
    // Two whole windows, in each of which the first token is not predicted.
    assert_eq!((&cost["data"], &cost["tokens"]), (&"data.txt".into(), &(2 * 511).into()));
    let nats = cost["nats_per_token"].as_f64().expect("a number");
    assert!(said.contains(&format!("costs {nats:+.4}")), "{said}");
    assert!(manifest["adapter"]["sha256"]["rope_offsets.safetensors"].is_string(), "{manifest}");
}

#[test]
fn mistakes_are_told_in_one_sentence_and_leave_nothing_behind() {
    let folder = folder();
    let (here, model) = (folder.path(), included());
    let model = utf8(&model);
    check_done(here, "whole.gguf", &convert(model, "whole.gguf", &[]));
    write(&here.join("torn.gguf"), &read(&here.join("whole.gguf"))[..1_000_000]);
    write(&here.join("told.gguf.longlora_export.json"), b"mine");
    let before = names(here);
    let check = |model: &str, out: &str, more: &[&str], needles: &[&str]| {
        check_mistake(here, &convert(model, out, more), needles);
    };

    check(model, "whole.gguf", &[], &["`whole.gguf` exists already"]);
    check(model, ".", &[], &["`.` exists already"]);
    check(model, "told.gguf", &[], &["`told.gguf.longlora_export.json` exists already"]);
    check(model, "nowhere/..", &[], &["`nowhere/..` names no file"]);
    check(model, "out", &["--dtype", "q8_0"], &["`q8_0`", "f32, f16 or bf16"]);
    check(model, "out.gguf", &["--max-shard-size", "2MB"], &["GGUF", "--max-shard-size"]);
    for out in ["out", "out.gguf"] {
        check(model, out, &["--verify-length", "0"], &["--verify-length", "`0`"]);
        check("torn.gguf", out, &[], &["`torn.gguf` ends too early", "again"]);
        check("nowhere.gguf", out, &[], &["`nowhere.gguf`", "No such file"]);
        check("nowhere", out, &[], &["`nowhere`", "No such file"]);
    }
    let sizes = [("0", "at least one byte"), ("5XB", "`XB` is no unit"), ("", "a whole number")];
    for (size, needle) in sizes {
        let output = longlora(here, &convert(model, "out", &["--max-shard-size", size]));
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(needle), "{}", text(&output.stderr));
    }
    assert_eq!(names(here), before);
}

#[test]
fn a_model_without_a_tokenizer_becomes_a_folder_but_no_gguf_file() {
    let folder = folder();
    let here = folder.path();
    let model = golden("tiny/model");
    let model = utf8(&model);
    check_done(here, "converted", &convert(model, "converted", &[]));
    check_done(here, "exported", &["export", "--model", model, "--out", "exported"]);
    for out in ["converted", "exported"] {
        assert_eq!(names(&here.join(out)), ["config.json", MANIFEST, "model.safetensors"]);
    }
    let needles = ["GGUF file holds its tokenizer", "tiny/model` has no tokenizer.json"];
    check_mistake(here, &convert(model, "out.gguf", &[]), &needles);

    // One that is there has to be one.
    let torn = model_with(&golden("tiny/model"), json!({}));
    write(&torn.path().join("tokenizer.json"), "{");
    let needle = format!("`{}/tokenizer.json`", utf8(torn.path()));
    check_mistake(here, &convert(utf8(torn.path()), "out", &[]), &[&needle]);
    assert_eq!(names(here), ["converted", "exported"]);
}

/// The first layer's MLP computes what it did, but with numbers that f16 does not have.
#[test]
fn what_does_not_compute_the_same_is_removed_and_has_exit_code_two() {
    let folder = folder();
    let here = folder.path();
    let model = model_with(&golden("tiny/model"), json!({}));
    let weights = model.path().join("model.safetensors");
    let mut tensors = read_tensors(&weights).unwrap();
    for (layer, factor) in [("up_proj", 1e8), ("down_proj", 1e-8)] {
        let tensor = tensors.get_mut(&format!("model.layers.0.mlp.{layer}.weight")).unwrap();
        let numbers: Vec<f32> = tensor.iter::<f32>().map(|number| number * factor).collect();
        *tensor = TensorData::new(numbers, tensor.shape().to_vec());
    }
    write_tensors(&weights, &tensors).unwrap();
    let model = utf8(model.path());

    let output = longlora(here, &convert(model, "out", &["--dtype", "f16"]));

    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: ") && said.contains("nothing finite"), "{said}");
    assert!(said.contains("--dtype bf16") && said.contains("removed"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(names(here), Vec::<String>::new());
    check_done(here, "out", &convert(model, "out", &["--dtype", "bf16"]));
}

#[test]
fn what_an_interrupted_export_leaves_is_cleared_by_the_next() {
    for out in ["out", "deep/out.gguf"] {
        let folder = folder();
        let model = included();
        let args = convert(utf8(&model), out, &[]);
        let target = folder.path().join(out);
        let (here, name) = (target.parent().unwrap(), target.file_name().unwrap());
        let partial = format!(".longlora-partial-{}", name.to_str().unwrap());
        let mut child = Command::new(env!("CARGO_BIN_EXE_longlora"))
            .args(&args)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let started = Instant::now();
        while !here.join(&partial).exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "nothing is written");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("it is a child of ours");
        assert!(!child.wait().expect("the program ends").success(), "it was too fast");
        assert_eq!(names(here), [partial.as_str()]);
        // Whatever is in there.
        write(&here.join(&partial).join("leftover"), "");

        check_done(folder.path(), out, &args);
        assert!(!names(here).contains(&partial), "{:?}", names(here));
        assert!(!target.join("leftover").exists());
    }
}

#[test]
fn an_adapter_without_a_scaling_of_its_own_gets_the_one_that_is_named() {
    let folder = trained("none");
    let (here, model) = (folder.path(), included());
    let before = written_by_both(here);
    let yarn = ["--rope-scaling", "yarn", "--rope-context", "512"];
    let told = export(&model, "told", &yarn);
    check_mistake(here, &told, &["longlora.json", "--rope-scaling"]);

    fs::remove_file(here.join("run/adapter/longlora.json")).unwrap();
    check_mistake(here, &export(&model, "out", &yarn[..2]), &["--rope-context"]);
    check_done(here, "out", &export(&model, "out", &yarn));
    let config = json(&here.join("out/config.json"));
    assert_eq!(config["rope_scaling"]["factor"], 2.0);
    let both = ["--model", utf8(&model), "--adapter", "run/adapter"];
    assert_eq!(written(here, &[&both[..], &yarn].concat()), before);
    let eval = ["eval", "perplexity", "--data", "ids.json", "--lengths", "300"];
    let ids: Vec<usize> = (0..600).map(|i| i * 7 % 2048).collect();
    write(&here.join("ids.json"), format!("{ids:?}"));
    let output = longlora(here, &[&eval[..], &both, &yarn].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
