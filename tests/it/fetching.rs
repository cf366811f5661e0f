//! `longlora fetch`, and models that it fetched, from outside. The hub is inside the test.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::fixture::{golden, json, write};
use crate::server::{Answer, Request, Server};

/// `printf hello | git hash-object --stdin`
const SUM_OF_HELLO: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";

/// The program in a folder, with a cache there and no other hub than the given one.
fn longlora(folder: &Path, hub: &Server, set: &[(&str, &str)], args: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_longlora"));
    for name in [
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "RUST_LOG",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        program.env_remove(name);
    }
    program
        .args(args)
        .current_dir(folder)
        .env("HF_HOME", folder)
        .env("HF_HUB_CACHE", folder.join("cache"))
        .env("HF_ENDPOINT", hub.address())
        .envs(set.iter().copied())
        .output()
        .expect("the program starts")
}

/// A hub with the model `a/b`, whose only file says hello.
fn hello() -> Server {
    Server::start(|request: &Request| match request.path.as_str() {
        "/api/models/a/b/revision/main" => {
            let sha = "1".repeat(40);
            let files = r#"[{"rfilename":"hello.txt"}]"#;
            Answer::new(200, format!(r#"{{"sha":"{sha}","siblings":{files}}}"#))
        }
        path if path.ends_with("/hello.txt") => {
            Answer::new(200, "hello").with("Etag", format!("\"{SUM_OF_HELLO}\""))
        }
        _ => Answer::new(404, ""),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// Token ids that the tiny model can be measured on, and the model in the cache as `a/tiny`.
fn with_tiny_model() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let ids: Vec<usize> = (0..300).map(|i| i * 7 % 96).collect();
    write(&folder.path().join("ids.json"), format!("{ids:?}"));
    let model = folder.path().join("cache/models--a--tiny");
    let snapshot = model.join("snapshots").join("2".repeat(40));
    for below in [&snapshot, &model.join("refs")] {
        fs::create_dir_all(below).expect("a folder");
    }
    write(&model.join("refs/main"), "2".repeat(40));
    for file in ["config.json", "model.safetensors"] {
        fs::copy(golden("tiny/model").join(file), snapshot.join(file)).expect("a copy");
    }
    folder
}

#[test]
fn fetch_prints_the_folder_and_nothing_else() {
    let (folder, hub) = (TempDir::new().expect("a temporary folder"), hello());
    let here = folder.path();
    let args = ["fetch", "a/b", "--file", "hello.txt"];

    let output = longlora(here, &hub, &[("HF_TOKEN", "hf_secret")], &args);

    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, "hello.txt  5 B\n");
    let snapshot = here.join("cache/models--a--b/snapshots").join("1".repeat(40));
    assert_eq!(text(&output.stdout), format!("{}\n", snapshot.display()));
    assert_eq!(fs::read(snapshot.join("hello.txt")).expect("the file"), b"hello");
    let seen = hub.seen();
    let methods: Vec<_> = seen.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["GET", "HEAD", "GET"]);
    assert!(seen.iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));

    let address = hub.address();
    let elsewhere = [&args[..], &["--cache", "other", "--endpoint", &address]].concat();
    let output = longlora(here, &hub, &[("HF_ENDPOINT", "http://absent.invalid")], &elsewhere);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(here.join("other/models--a--b/blobs").join(SUM_OF_HELLO).exists());
}

#[test]
fn a_fetched_model_is_found_by_its_name_without_the_network() {
    let (folder, hub) = (with_tiny_model(), hello());
    let eval = ["eval", "perplexity", "--model", "a/tiny", "--data", "ids.json", "--lengths", "64"];
    let output = longlora(folder.path(), &hub, &[], &eval);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let finetune = ["finetune", "--model", "a/tiny", "--data", "ids.json", "--dry-run"];
    let finetune = [&finetune[..], &["--context-length", "256"]].concat();
    let output = longlora(folder.path(), &hub, &[], &finetune);
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(said.contains("models--a--tiny"), "{said}");

    let size = ["--context-length", "256", "--steps", "1", "--accumulation", "1", "--no-eval"];
    let train = ["finetune", "--model", "a/tiny", "--data", "ids.json", "--out", "run"];
    let output = longlora(folder.path(), &hub, &[], &[&train[..], &size].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let adapter = json(&folder.path().join("run/adapter/adapter_config.json"));
    assert_eq!(adapter["base_model_name_or_path"], "a/tiny");
    assert_eq!(adapter["revision"], "2".repeat(40));

    // As huggingface_hub: what is there is there.
    let offline = [("HF_HUB_OFFLINE", "1")];
    let output = longlora(folder.path(), &hub, &offline, &["fetch", "a/tiny"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("models--a--tiny/snapshots"));

    fs::create_dir_all(folder.path().join("a/tiny")).expect("a folder");
    let output = longlora(folder.path(), &hub, &[], &eval);
    let said = text(&output.stderr);
    assert!(
        said.contains("`a/tiny` is not a Hugging Face model folder"),
        "a folder of that name goes first: {said}"
    );
    assert!(hub.seen().is_empty());
}

#[test]
fn mistakes_about_names_are_told_in_one_sentence() {
    let (folder, hub) = (with_tiny_model(), hello());
    let eval = ["eval", "perplexity", "--data", "ids.json", "--lengths", "64", "--model"];
    let absent = [&eval[..], &["a/absent"]].concat();
    let finetune = ["finetune", "--data", "ids.json", "--context-length", "256", "--model"];
    let finetune = [&finetune[..], &["a/absent"]].concat();
    let neither = format!(
        "`a/absent` is neither a folder nor in the cache; `{} fetch a/absent` fetches it",
        env!("CARGO_BIN_EXE_longlora")
    );
    let neither = neither.as_str();
    let cases = [
        (absent, neither),
        (finetune, neither),
        (vec!["fetch", "gpt2"], "`gpt2` is no name on the hub; give OWNER/NAME"),
        (vec!["fetch", "a/absent"], "there is no model `a/absent`"),
        (vec!["fetch", "a/b"], "neither model.safetensors nor pytorch_model.bin"),
    ];
    for (args, needle) in cases {
        check_mistake(folder.path(), &hub, &[], &args, needle);
    }
    let offline = [("HF_HUB_OFFLINE", "1")];
    check_mistake(folder.path(), &hub, &offline, &["fetch", "a/b"], "HF_HUB_OFFLINE is set");
    assert!(hub.seen().iter().all(|request| request.method == "GET"), "lists alone were asked for");
}

/// Exit code 1, nothing on standard output, and one sentence that says `needle`.
#[track_caller]
fn check_mistake(folder: &Path, hub: &Server, set: &[(&str, &str)], args: &[&str], needle: &str) {
    let output = longlora(folder, hub, set, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    assert!(said.contains(needle), "`{needle}` is not in: {said}");
}
