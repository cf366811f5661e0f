//! What goes with weights, from outside: the tokenizers of models that were trained whole, of GGUF files and of adapters.

use std::fs;
use std::path::Path;

use longlora_data::{ChatTemplate, Message, Tokenizer};
use serde_json::json;

use crate::cli::{longlora, text};
use crate::exporting::{
    check_done, convert, export, folder, trained, utf8, written, written_by_both,
};
use crate::fixture::{json, model_with, read, write, write_json};
use crate::place::names;
use crate::writing::{included, talking};

fn book() -> String {
    utf8(&included().join("../text/train/shakespeare_lear.txt")).to_owned()
}

/// One step of full fine-tuning.
fn whole<'a>(model: &'a str, data: &'a str, out: &'a str) -> Vec<&'a str> {
    let args = ["finetune", "--full", "--model", model, "--data", data, "--out", out];
    let size = ["--context-length", "512", "--steps", "1", "--accumulation", "1", "--no-eval"];
    [&args[..], &size].concat()
}

/// The file's tokenizer knows the file's context, not the new one.
#[test]
fn an_adapter_of_a_gguf_file_is_exported_with_its_own_context() {
    let folder = trained("none");
    let here = folder.path();
    check_done(here, "base.gguf", &convert(utf8(&included()), "base.gguf", &[]));
    let size = ["--context-length", "512", "--steps", "1", "--accumulation", "1", "--no-eval"];
    let book = book();
    let args = ["finetune", "--model", "base.gguf", "--data", &book, "--out", "of-file"];
    let output = longlora(here, &[&args[..], &size].concat());
    let said = text(&output.stderr);
    assert!(said.contains("longlora convert") && said.contains("base.gguf --out DIR"), "{said}");

    check_done(here, "out", &export(Path::new("base.gguf"), "out", &["--dtype", "f32"]));
    let config = json(&here.join("out/tokenizer_config.json"));
    assert_eq!(config["model_max_length"], 512);
    assert_eq!(written(here, &["--model", "out"]), written_by_both(here));
}

/// A folder's tokenizer is copied, a file's is written out; chat template and all.
#[test]
fn a_model_that_was_trained_whole_has_its_tokenizer_with_it() {
    let folder = folder();
    let here = folder.path();
    let base = talking();
    let path = base.path().join("tokenizer_config.json");
    let mut config = json(&path);
    config["model_max_length"] = 256.into();
    write_json(&path, &config);
    check_done(here, "base.gguf", &convert(utf8(base.path()), "base.gguf", &[]));
    let tokens = |model: &Path| {
        let tokenizer = Tokenizer::read(model).expect("a tokenizer");
        tokenizer.encode("And God said").expect("words")
    };
    let template = |model: &Path| {
        let tokenizer = Tokenizer::read(model).expect("a tokenizer");
        let template = ChatTemplate::read(model, &tokenizer).expect("one that can be read");
        let template = template.expect("a template");
        template.render(&[Message::new("user", "hello")], true).expect("a text")
    };
    for (base_path, out) in [(utf8(base.path()), "of-folder"), ("base.gguf", "of-file")] {
        let output = longlora(here, &whole(base_path, &book(), out));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

        let model = here.join(out).join("model");
        let of_tokenizer = ["tokenizer.json", "tokenizer_config.json"];
        let mut files = [&["config.json", "model.safetensors"], &of_tokenizer[..]].concat();
        if out == "of-folder" {
            files.insert(0, "chat_template.jinja");
        }
        assert_eq!(names(&model), files);
        assert_eq!(tokens(&model), tokens(&included()));
        assert_eq!(template(&model), template(base.path()), "{out}");
        assert_eq!(json(&model.join("tokenizer_config.json"))["model_max_length"], 512, "{out}");
        assert!(written(here, &["--model", utf8(&model)]).starts_with("And God said"));
    }
}

/// What the trained model could not be given is told of before a step is taken.
#[test]
fn a_torn_file_beside_the_weights_stops_a_run_before_its_first_step() {
    let folder = folder();
    let here = folder.path();
    let model = model_with(&included(), json!({}));
    write(&model.path().join("tokenizer_config.json"), "[1");
    let ids: Vec<usize> = (0..1200).map(|i| i * 7 % 2048).collect();
    write(&here.join("ids.json"), format!("{ids:?}"));
    let args = whole(utf8(model.path()), "ids.json", "out");
    for args in [[&args[..], &["--dry-run"]].concat(), args.clone()] {
        let output = longlora(here, &args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("tokenizer_config.json"), "{said}");
        assert!(!here.join("out/metrics.jsonl").exists(), "{said}");
    }
}

/// As TRL, axolotl and LLaMA-Factory leave it there.
#[test]
fn a_tokenizer_in_the_adapters_folder_is_the_models() {
    let folder = trained("none");
    let (here, model) = (folder.path(), included());
    let adapter = here.join("run/adapter");
    let before = written_by_both(here);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(model.join(name), adapter.join(name)).unwrap();
    }
    let template = "{{ messages[0].content }}";
    write(&adapter.join("chat_template.jinja"), template);
    let said = check_done(here, "out", &export(&model, "out", &[]));
    assert!(said.contains("tokenizer and chat template are the adapter's"), "{said}");
    assert_eq!(text(&read(&here.join("out/chat_template.jinja"))), template);
    assert_eq!(written_by_both(here), before);

    let mut tokenizer = json(&adapter.join("tokenizer.json"));
    let token = json!({
        "id": 2048, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
    write_json(&adapter.join("tokenizer.json"), &tokenizer);
    for out in ["more", "more.gguf"] {
        let output = longlora(here, &export(&model, out, &[]));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("token id `2048`") && said.contains("run/adapter"), "{said}");
    }
}
