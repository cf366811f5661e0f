//! Options and paths that cannot be: each is refused at once, with its name and with what to do, and leaves nothing
//! behind.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::cli::{check_mistake, longlora, text};
use crate::fixture::golden;
use crate::place::names;

/// The words of a command, with the tiny model in place of `MODEL`.
fn words(command: &str) -> Vec<String> {
    let model = golden("tiny/model").display().to_string();
    command.split(' ').map(|word| word.replace("MODEL", &model)).collect()
}

/// A mistake that the program finds: exit code 1, and one sentence that says all of `needles`.
#[track_caller]
fn check(folder: &Path, command: &str, needles: &[&str]) {
    let words = words(command);
    check_mistake(folder, &words.iter().map(String::as_str).collect::<Vec<_>>(), needles);
}

/// A value that an option does not take: exit code 1, and first one sentence that says all of `needles`. How to get
/// help stands below it.
#[track_caller]
fn check_value(command: &str, needles: &[&str]) {
    let (folder, words) = (empty(), words(command));
    let output = longlora(folder.path(), &words.iter().map(String::as_str).collect::<Vec<_>>());
    let said = text(&output.stderr);
    let sentence = said.lines().next().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{command} said: {said}");
    assert!(sentence.starts_with("error: invalid value"), "{command} said: {said}");
    for needle in needles {
        assert!(sentence.contains(needle), "`{needle}` is not in: {sentence}");
    }
}

fn empty() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

#[test]
fn devices_of_one_kind_are_listed_alone() {
    let folder = empty();
    let output = longlora(folder.path(), &["devices", "--device", "flex"]);
    let listed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(listed.contains("│ flex"), "{listed}");
    for other in ["cuda", "wgpu", "vulkan", "metal"] {
        assert!(!listed.contains(other), "{listed}");
    }
    if cfg!(not(feature = "cuda")) {
        let needles = ["this build cannot compute on `cuda`", "`cargo xtask build --device cuda`"];
        check(folder.path(), "devices --device cuda", &needles);
    }
    check_value("devices --device tpu", &["--device", "`tpu` is no device", "flex, cuda"]);
    check_value("devices --device cuda:1", &["--device", "`cuda:1` is one device", "`cuda`"]);
}

#[test]
fn counts_of_nothing_or_without_an_end_are_refused() {
    let questions = [
        "passkey --trials",
        "needle --trials",
        "ruler --samples",
        "qa --limit",
        "summarize --limit",
    ];
    let questions = questions.map(|option| format!("eval {option}"));
    let repetitions = ["attention", "forward", "gemm", "floor"];
    let repetitions = repetitions.map(|kind| format!("bench {kind} --repeat"));
    for option in questions.into_iter().chain(repetitions) {
        for count in ["0", "1000001", "18446744073709551615"] {
            let name = option.split(' ').next_back().unwrap();
            let needles = [name, &format!("{count} is not in 1..=1000000")];
            check_value(&format!("{option} {count}"), &needles);
        }
    }
    let lengths = ["passkey --lengths 256,", "needle --lengths ", "ruler --lengths 128,"];
    let lengths = lengths.into_iter().chain(["passkey --max ", "passkey --interval "]);
    let lengths = lengths.chain(["qa --context-length ", "summarize --context-length "]);
    let lengths = lengths.map(|option| format!("eval {option}"));
    let kinds = ["attention", "forward", "step", "floor"];
    for option in kinds.map(|kind| format!("bench {kind} --tokens ")).into_iter().chain(lengths) {
        for tokens in ["0", "99999999999"] {
            let needle = format!("{tokens} is not in 1..=16777216");
            let name = option.split(' ').find(|word| word.starts_with("--")).unwrap();
            check_value(&format!("{option}{tokens}"), &[name, &needle]);
        }
    }
    for command in ["generate", "chat"] {
        check_value(&format!("{command} --max-new-tokens 0"), &["--max-new-tokens", "1..="]);
    }
    let endless = ["bench step --steps", "bench floor --steps", "compare --passkey-trials"];
    for option in endless {
        check_value(&format!("{option} 18446744073709551615"), &["is not in 0..=1000000"]);
    }
}

#[test]
fn negative_numbers_are_told_with_their_option() {
    check_value("eval passkey --seed -1", &["'-1'", "--seed"]);
    check_value("eval needle --trials -1", &["'-1'", "--trials"]);
    check_value("bench model --out x --seed -1", &["'-1'", "--seed"]);
    check_value("finetune --batch-size -1", &["'-1'", "--batch-size"]);
    check_value("bench step --memory -4GiB", &["--memory", "`-4GiB` is no size"]);
    let folder = empty();
    let generate = "generate --model MODEL --prompt And --temperature -1";
    check(folder.path(), generate, &["temperature `-1`"]);
    check(folder.path(), "compare --lr -1", &["learning_rates", "`-1`"]);
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn sizes_have_a_number_and_a_unit() {
    for option in ["bench step --memory", "bench floor --memory", "finetune --memory"] {
        check_value(
            &format!("{option} lots"),
            &["--memory", "`lots` is no size; use for example 16GiB or 800MB"],
        );
    }
    check_value("export --max-shard-size 5XB", &["--max-shard-size", "`XB` is no unit", "GiB"]);
    // The unit is taken; what is wrong is something else.
    let export = "export --model nowhere --out out --max-shard-size 5GiB";
    check(empty().path(), export, &["`nowhere`", "check the path"]);
}

#[test]
fn what_is_no_adapter_is_told_before_a_model_is_read() {
    let folder = empty();
    let here = folder.path();
    fs::create_dir(here.join("empty")).unwrap();
    let ids: Vec<usize> = (0..300).map(|i| i % 96).collect();
    fs::write(here.join("ids.json"), format!("{ids:?}")).unwrap();
    for command in [
        "eval perplexity --data ids.json --lengths 64",
        "eval retention --data ids.json --lengths 64",
        "export --out out",
    ] {
        let with = |adapter: &str| format!("{command} --model MODEL --adapter {adapter}");
        check(here, &with("nowhere"), &["`nowhere` does not exist", "check the path"]);
        let needles = ["`empty` is not an adapter folder", "no `adapter_config.json`", "PEFT"];
        check(here, &with("empty"), &needles);
    }
    let short = "eval retention --data ids.json --lengths 64,0 --model MODEL --adapter empty";
    check(here, short, &["--lengths", "`0`", "at least 2"]);
    assert_eq!(names(here), ["empty", "ids.json"]);
}

#[test]
fn a_comparison_that_cannot_be_leaves_no_folder() {
    let folder = empty();
    let here = folder.path();
    check(here, "compare --eval-lengths 0", &["--eval-lengths", "`0`", "at least 2"]);
    check(here, "compare --eval-lengths 512,1", &["--eval-lengths", "`1`"]);
    check(here, "compare --steps 0", &["training.steps", "`0`"]);
    check(here, "compare --context-length 128", &["`256`", "--context-length"]);
    check(here, "compare --eval-data nowhere", &["nowhere` does not exist"]);
    if cfg!(not(feature = "cuda")) {
        check(here, "compare --device cuda", &["this build cannot compute on `cuda`"]);
    }
    let long = "compare --eval-tokens 12000 --eval-lengths 128,400000";
    check(here, long, &["--eval-lengths", "`400000`", "--eval-data"]);
    assert_eq!(names(here), Vec::<String>::new());
}

#[test]
fn data_without_questions_are_told() {
    let folder = empty();
    let here = folder.path();
    fs::create_dir(here.join("empty")).unwrap();
    fs::write(here.join("empty.txt"), "").unwrap();
    fs::write(here.join("latin1.jsonl"), b"caf\xe9").unwrap();
    for command in ["qa", "summarize"] {
        let with =
            |data: &str| format!("eval {command} --model MODEL --context-length 100 --data {data}");
        check(here, &with("empty.txt"), &["`empty.txt` has no items", "LongBench", "QASPER"]);
        check(here, &with("nowhere"), &["`nowhere` does not exist", "check the path"]);
        check(here, &with("nowhere --set test"), &["`nowhere` does not exist"]);
        check(here, &with("empty"), &["`empty`", "NarrativeQA", "`qaps.csv`"]);
        check(here, &with("latin1.jsonl"), &["`latin1.jsonl`", "UTF-8"]);
    }
}

#[test]
fn paths_to_nothing_are_told_with_what_to_do() {
    let folder = empty();
    let here = folder.path();
    fs::create_dir(here.join("empty")).unwrap();
    for model in ["nowhere", "nowhere.gguf"] {
        let named = format!("cannot open `{model}`");
        let needles = [named.as_str(), "check the path", "`longlora fetch OWNER/NAME`"];
        check(here, &format!("convert {model} --out out"), &needles);
        check(here, &format!("generate --model {model} --prompt And"), &needles);
    }
    let with_file = |path: &str| format!("generate --model MODEL --prompt-file {path}");
    check(here, &with_file("empty"), &["prompt `empty`", "give a file"]);
    check(here, &with_file("nowhere"), &["prompt `nowhere`", "check the path"]);
    assert_eq!(names(here), ["empty"]);
}

#[test]
fn a_file_in_a_folder_that_does_not_exist_is_named_itself() {
    let folder = empty();
    let prepare = "eval prepare --model MODEL --data nowhere --out nodir/x.bin";
    check(folder.path(), prepare, &["`nodir/x.bin`", "no folder `nodir`", "--out"]);
    assert_eq!(names(folder.path()), Vec::<String>::new());
}
