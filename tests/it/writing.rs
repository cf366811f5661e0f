//! The program that writes, from outside: `generate` and `chat` on the included model.

use std::fs;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use burn::tensor::{Device, TensorData};
use longlora_data::{ChatTemplate, Message, Tokenizer};
use longlora_llama::{GenerateOptions, load_pretrained, read_tensors, reference, write_tensors};
use tempfile::TempDir;

use crate::cli::{check_mistake, longlora, text};
use crate::fixture::golden;

const PROMPT: &str = "And God said";

/// The model inside the program: 2,048 tokens of vocabulary, 256 of context, no chat template.
pub(crate) fn included() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/model")).to_owned()
}

/// A copy of it with a chat template.
pub(crate) fn talking() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    for file in fs::read_dir(included()).expect("the model's folder") {
        let file = file.expect("a file of it");
        fs::copy(file.path(), folder.path().join(file.file_name())).expect("a copy");
    }
    let template = golden("chat_templates/chatml.jinja");
    fs::copy(template, folder.path().join("chat_template.jinja")).expect("a copy");
    folder
}

fn args<'a>(command: &'a str, model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let model = model.to_str().expect("the checkout's path is UTF-8");
    [&[command, "--model", model], more].concat()
}

/// What `generate` writes.
#[track_caller]
fn generated(more: &[&str]) -> String {
    let output = longlora(&included(), &args("generate", &included(), more));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command makes of its standard input.
fn with_input(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_longlora"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    stdin.write_all(input.as_bytes()).expect("the program reads");
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

/// What the slow twin writes after `prompt`.
fn expected(prompt: &[u32], max_new_tokens: usize) -> String {
    let tokenizer = Tokenizer::read(&included()).expect("the included tokenizer");
    let llama = load_pretrained(&included(), &Device::flex()).expect("the included model");
    let options = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
    let go_on = |_| ControlFlow::Continue(());
    let ids = reference::generate(&llama, prompt, &options, go_on).ids;
    tokenizer.decode(&ids).expect("ids of the vocabulary")
}

#[test]
fn a_prompt_from_anywhere_is_continued_as_the_slow_twin_does() {
    let tokenizer = Tokenizer::read(&included()).expect("the included tokenizer");
    let prompt = tokenizer.encode(PROMPT).expect("a text");
    let expected = format!("{PROMPT}{}\n", expected(&prompt, 30));
    let length = ["--max-new-tokens", "30"];

    let output = longlora(
        &included(),
        &args("generate", &included(), &[&["--prompt", PROMPT], &length[..]].concat()),
    );
    assert_eq!(text(&output.stdout), expected);
    let speed = text(&output.stderr);
    assert!(speed.contains("read 3 tokens at") || speed.contains("read 4 tokens at"), "{speed}");
    assert!(speed.contains("wrote 30 at") && speed.contains("tokens/s"), "{speed}");

    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("prompt.txt");
    fs::write(&file, PROMPT).expect("a small file");
    let file = file.to_str().expect("a temporary path is UTF-8");
    assert_eq!(generated(&[&["--prompt-file", file], &length[..]].concat()), expected);

    let model = included();
    let piped = with_input(&args("generate", &model, &[&["-"], &length[..]].concat()), PROMPT);
    assert_eq!(text(&piped.stdout), expected);
}

#[test]
fn a_stop_string_ends_the_text_before_itself_whatever_the_tokens() {
    let whole = generated(&["--prompt", PROMPT, "--max-new-tokens", "30"]);
    let written = &whole[PROMPT.len()..];
    // The end of a word, a space, and the beginning of the next.
    let space = written[8..].find(' ').expect("several words") + 8;
    let stop = &written[space - 2..space + 2];
    let end = written.find(stop).expect("it was cut out of there");
    for stops in [vec!["--stop", stop], vec!["--stop", "@@", "--stop", stop]] {
        let options = [&["--prompt", PROMPT, "--max-new-tokens", "30"], &stops[..]].concat();
        assert_eq!(generated(&options), format!("{PROMPT}{}\n", &written[..end]), "{stop:?}");
    }
    // A stop string does not count in the prompt.
    let options = ["--prompt", PROMPT, "--max-new-tokens", "30", "--stop", "God said"];
    assert!(generated(&options).len() > PROMPT.len() + 10);
}

/// Nothing is made up of what is no number: neither words nor a score.
#[test]
fn a_model_that_computes_no_numbers_says_nothing() {
    let model = talking();
    let path = model.path().join("model.safetensors");
    let mut tensors = read_tensors(&path).unwrap();
    let norm = tensors.get_mut("model.norm.weight").unwrap();
    *norm = TensorData::new(vec![f32::NAN; norm.num_elements()], norm.shape().clone());
    write_tensors(&path, &tensors).unwrap();
    let folder = TempDir::new().unwrap();
    let options = args("generate", model.path(), &["--prompt", PROMPT]);
    check_mistake(folder.path(), &options, &["NaN", "weight"]);
    let name = model.path().to_str().unwrap();
    let options = ["eval", "passkey", "--model", name, "--lengths", "200"];
    check_mistake(folder.path(), &options, &["NaN", name, "passkey"]);
    let answers = fs::read_to_string(folder.path().join("results/passkey.jsonl")).unwrap();
    assert_eq!(answers, "");
}

#[test]
fn draws_follow_from_the_seed() {
    let draw = |seed| {
        let options = ["--prompt", PROMPT, "--max-new-tokens", "12", "--temperature", "1.0"];
        let filters = ["--top-k", "200", "--top-p", "0.98", "--min-p", "0.001", "--seed", seed];
        let penalty = ["--repetition-penalty", "1.1"];
        generated(&[&options[..], &filters, &penalty].concat())
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn a_window_lets_a_text_grow_beyond_the_context_and_without_one_it_is_said() {
    let long = ["--prompt", PROMPT, "--max-new-tokens", "300"];
    let model = included();
    let plain = longlora(&model, &args("generate", &model, &long));
    let windowed = [&long[..], &["--window", "60", "--sinks", "2"]].concat();
    let windowed = longlora(&model, &args("generate", &model, &windowed));
    let beyond = "the model reaches `256`";
    assert!(text(&plain.stderr).contains(beyond), "{}", text(&plain.stderr));
    assert!(!text(&windowed.stderr).contains(beyond), "{}", text(&windowed.stderr));
    assert_eq!(windowed.status.code(), Some(0));
    // As long as everything fits the window they are the same.
    let [plain, windowed] = [plain, windowed].map(|output| text(&output.stdout));
    assert_eq!(plain[..100], windowed[..100]);
}

#[test]
fn mistakes_in_writing_are_told_in_one_sentence() {
    let model = included();
    let here = model.as_path();
    let check = |more: &[&str], needles: &[&str]| {
        let more = [&["--prompt", PROMPT], more].concat();
        check_mistake(here, &args("generate", &model, &more), needles);
    };
    check(&["--temperature=-1"], &["temperature `-1`", "0 takes the likeliest"]);
    check(&["--temperature", "1", "--top-k", "0"], &["top-k `0`"]);
    check(&["--temperature", "1", "--top-p", "1.5"], &["top-p `1.5`", "(0, 1]"]);
    check(&["--temperature", "1", "--min-p", "2"], &["min-p `2`"]);
    check(&["--repetition-penalty", "0"], &["repetition penalty `0`"]);
    check(&["--top-k", "5"], &["--top-k", "temperature `0`", "--temperature"]);
    check(&["--stop", ""], &["--stop", "ends every text"]);
    check(&["--window", "0"], &["--window", "`0`"]);
    check(&["--window", "300"], &["`4` sinks", "`300`", "`256`", "smaller --window"]);
    check(&["--window", "18446744073709551615"], &["smaller --window"]);
    let missing = args("generate", &model, &["--prompt-file", "nowhere.txt"]);
    check_mistake(here, &missing, &["`nowhere.txt`", "No such file"]);
}

#[test]
fn options_that_do_not_go_together_are_refused_with_exit_code_one() {
    let model = included();
    let check = |more: &[&str], needle: &str| {
        let output = longlora(&model, &args("generate", &model, more));
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(needle), "{}", text(&output.stderr));
    };
    check(&["--prompt", PROMPT, "--sinks", "4"], "--window");
    check(&["--prompt", PROMPT, "-"], "cannot be used with");
    check(&["elsewhere"], "invalid value");
    check(&[], "--prompt");
}

#[test]
fn a_model_without_a_chat_template_is_no_partner() {
    let model = included();
    check_mistake(&model, &args("chat", &model, &[]), &["no chat template", "`generate`"]);
}

/// Each reply is that of the slow twin to the whole conversation, though only what is new was read.
#[test]
fn a_conversation_stays_in_the_cache() {
    let model = talking();
    let tokenizer = Tokenizer::read(model.path()).expect("the included tokenizer");
    let template = ChatTemplate::read(model.path(), &tokenizer).expect("a template");
    let template = template.expect("it was put there");
    let options = ["--system", "Speak.", "--max-new-tokens", "9"];
    let output = with_input(&args("chat", model.path(), &options), "Who art thou?\n\nAnd why?\n");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");

    let mut messages = vec![Message::new("system", "Speak.")];
    let (mut replies, mut lengths) = (String::new(), vec![]);
    for line in ["Who art thou?", "And why?"] {
        messages.push(Message::new("user", line));
        let rendered = template.render(&messages, true).expect("a plain conversation");
        let prompt = tokenizer.encode_rendered(&rendered).expect("a text");
        let reply = expected(&prompt, 9);
        replies += &format!("{reply}\n");
        lengths.push(prompt.len());
        messages.push(Message::new("assistant", reply));
    }
    assert_eq!(text(&output.stdout), replies);

    let read = |line: &str| -> Option<usize> {
        line.strip_prefix("read ")?.split(' ').next()?.parse().ok()
    };
    let read: Vec<usize> = said.lines().filter_map(read).collect();
    assert_eq!(read[0], lengths[0]);
    assert!(read[1] <= lengths[1] - lengths[0] && read[1] > 0, "{read:?} of {lengths:?}");
}

#[test]
fn a_conversation_that_is_too_long_is_refused_unless_it_has_a_window() {
    let model = talking();
    let line = "Thou art a very long line of words that says nothing at all. ".repeat(20);
    let output = with_input(&args("chat", model.path(), &["--max-new-tokens", "4"]), &line);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the model reaches `256`") && said.contains("--window"), "{said}");

    let options = ["--max-new-tokens", "4", "--window", "100"];
    let output = with_input(&args("chat", model.path(), &options), &line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_cleanly() {
    let model = included();
    let options = ["--prompt", PROMPT, "--max-new-tokens", "100000000", "--window", "100"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_longlora"))
        .args(args("generate", &model, &options))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdout = child.stdout.take().expect("it was piped");
    let mut beginning = vec![0; PROMPT.len() + 20];
    stdout.read_exact(&mut beginning).expect("text comes");
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.expect("kill starts").success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("whole characters");
    let output = child.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(rest.ends_with('\n') && text(&output.stderr).contains("tokens/s"));
}
