//! `finetune` on conversations and instructions: what is read of them, what is told, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{check_mistake, longlora, text};
use crate::fixture::{json as json_of, read, write};
use crate::writing::{included, talking};

/// Three in each convention, one that is longer than a window, and one whose answer is beyond it.
fn conversations() -> Vec<Value> {
    let asked = |n: usize| format!("Who art thou, thou that art number {n}?");
    let answered = |n: usize| format!("I am he that was before thee, and number {n}.");
    let messages = |n| {
        json!({ "messages": [
            { "role": "system", "content": "Speak." },
            { "role": "user", "content": asked(n) },
            { "role": "assistant", "content": answered(n) },
            { "role": "user", "content": "And why?" },
            { "role": "assistant", "content": "It is written." },
        ] })
    };
    let share_gpt = |n| {
        json!({ "conversations": [
            { "from": "human", "value": asked(n) },
            { "from": "gpt", "value": answered(n) },
        ] })
    };
    let instruction = |n| json!({ "instruction": asked(n), "input": "", "output": answered(n) });
    let long = "and he said unto them ".repeat(200);
    let mut all: Vec<Value> = (0..3).map(messages).collect();
    all.extend((3..6).map(share_gpt));
    all.extend((6..9).map(instruction));
    all.push(json!({ "instruction": "Tell it all.", "output": long }));
    all.push(json!({ "instruction": long, "output": "Amen." }));
    all
}

fn lines(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of the tests is UTF-8")
}

/// `finetune` to 320 tokens, with more options.
fn finetune<'a>(model: &'a Path, data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = ["finetune", "--model", path(model), "--data", data, "--context-length", "320"];
    [&args[..], more].concat()
}

const SHORT: [&str; 4] = ["--steps", "2", "--accumulation", "1"];

#[test]
fn answers_are_learned_and_what_is_cut_or_left_out_is_told() {
    let folder = TempDir::new().expect("a temporary folder");
    let here = folder.path();
    let model = talking();
    write(&here.join("chats.jsonl"), lines(&conversations()));
    let more = [&SHORT[..], &["--no-eval", "--out", "run"]].concat();

    let output = longlora(here, &finetune(model.path(), "chats.jsonl", &more));

    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["conversations: 11,", "longer than a window: 1", "beyond a window: 1"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let manifest = json_of(&here.join("run/manifest.json"));
    let counts = json!({ "texts": 0, "conversations": 11, "cut": 1, "left_out": 1 });
    assert_eq!(manifest["data_documents"], counts);
    let sources = manifest["model"].to_string();
    assert!(sources.contains("chat_template.jinja"), "{sources}");
    assert_eq!(read(&here.join("run/metrics.jsonl")).iter().filter(|b| **b == b'\n').count(), 2);
    assert!(here.join("run/adapter/adapter_model.safetensors").exists());

    let resume = ["finetune", "--resume", "run", "--no-eval"];
    let output = longlora(here, &resume);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let template = model.path().join("chat_template.jinja");
    let other = String::from_utf8(read(&template)).expect("a template is text") + "{# #}";
    write(&template, other);
    check_mistake(here, &resume, &["chat_template.jinja", "no longer what the run began with"]);
}

/// In whatever kind of file it is; of the files with objects, a list is as good as lines.
#[test]
fn text_is_learned_from_as_text_and_ends_in_a_token_if_asked() {
    let folder = TempDir::new().expect("a temporary folder");
    let here = folder.path();
    let verse =
        |n: usize| format!("And it came to pass in the days of the king, verse {n}. ").repeat(40);
    let texts: Vec<String> = (0..3).map(verse).collect();
    fs::create_dir(here.join("plain")).expect("a folder");
    for (n, text) in texts.iter().enumerate() {
        write(&here.join(format!("plain/{n}.txt")), text);
    }
    let objects: Vec<Value> = texts.iter().map(|text| json!({ "text": text })).collect();
    write(&here.join("lines.jsonl"), lines(&objects));
    write(&here.join("list.json"), Value::Array(objects).to_string());
    write(&here.join("held.txt"), &texts[0]);

    let model = included();
    let run = |data: &str, out: &str, more: &[&str]| {
        // Nothing is held out of it.
        let table = ["--eval-data", "held.txt", "--eval-lengths", "64", "--eval-tokens", "64"];
        let more = [&SHORT[..], &table, &["--out", out], more].concat();
        let output = longlora(here, &finetune(&model, data, &more));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(!said.contains("conversations"), "{said}");
        let manifest = json_of(&here.join(out).join("manifest.json"));
        assert_eq!(manifest.get("data_documents"), None);
        let adapter = read(&here.join(out).join("adapter/adapter_model.safetensors"));
        (manifest["data_tokens"].as_u64().expect("a count"), adapter)
    };
    let plain = run("plain", "one", &[]);
    assert!(run("lines.jsonl", "two", &[]) == plain, "lines are another run");
    assert!(run("list.json", "three", &[]) == plain, "a list is another run");

    let (tokens, adapter) = run("plain", "four", &["--append-eos"]);
    // One token for each, and one that would stand alone in its window is dropped.
    assert!((plain.0 + 2..=plain.0 + 4).contains(&tokens), "{tokens} of {}", plain.0);
    assert!(adapter != plain.1, "it makes no difference");
    let config = fs::read_to_string(here.join("four/config.toml")).expect("the settings");
    assert!(config.contains("append_eos = true"), "{config}");
}

#[test]
fn held_out_conversations_are_measured_as_texts_which_is_said() {
    let folder = TempDir::new().expect("a temporary folder");
    let model = talking();
    write(&folder.path().join("chats.json"), Value::Array(conversations()).to_string());
    let more = ["--eval-data", "chats.json", "--eval-lengths", "64", "--dry-run"];
    let output = longlora(folder.path(), &finetune(model.path(), "chats.json", &more));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("held-out conversations as texts"), "{said}");
}

/// A model without a chat template was not made for conversations; for instructions there are Alpaca's words.
#[test]
fn a_model_without_a_chat_template_takes_instructions_alone() {
    let folder = TempDir::new().expect("a temporary folder");
    let here = folder.path();
    let (all, model) = (conversations(), included());
    write(&here.join("chats.jsonl"), lines(&all));
    write(&here.join("instructions.jsonl"), lines(&all[6..10]));
    let dry = ["--dry-run", "--no-eval"];
    let needles = ["chats.jsonl` line `", "no chat template", "`instruction`"];
    check_mistake(here, &finetune(&model, "chats.jsonl", &dry), &needles);
    let output = longlora(here, &finetune(&model, "instructions.jsonl", &dry));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("conversations: 4,"), "{said}");
}

/// A command that reads `chats.jsonl`.
fn of<'a>(model: &'a str, command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [command, &["--model", model, "--data", "chats.jsonl"], more].concat()
}

#[test]
fn what_reads_text_alone_refuses_conversations() {
    let folder = TempDir::new().expect("a temporary folder");
    let here = folder.path();
    let model = talking();
    let model = path(model.path());
    write(&here.join("chats.jsonl"), lines(&conversations()[..3]));
    let needles = ["chats.jsonl` line `", "is a conversation", "fine-tuning"];
    check_mistake(here, &of(model, &["eval", "perplexity"], &["--lengths", "64"]), &needles);
    check_mistake(here, &of(model, &["eval", "prepare"], &["--out", "chats.bin"]), &needles);
    check_mistake(here, &of(model, &["compare"], &["--context-length", "512"]), &needles);
    let needles = ["chats.jsonl", "conversations", "fine-tuning"];
    check_mistake(here, &of(model, &["eval", "needle"], &["--lengths", "128"]), &needles);

    write(&here.join("other.jsonl"), "{\"text\": \"a\"}\n{\"prompt\": \"b\"}\n");
    let needles = ["other.jsonl` line `2`", "`messages`", "`conversations`", "`instruction`"];
    let other = ["finetune", "--model", model, "--data", "other.jsonl", "--context-length", "320"];
    check_mistake(here, &other, &needles);
}
