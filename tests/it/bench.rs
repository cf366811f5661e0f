//! `longlora bench`, on a model that takes no time.

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{check_mistake, longlora, text};
use crate::fixture::{golden, write};

/// The line of JSON that `bench` prints about the tiny model.
#[track_caller]
fn bench(words: &str) -> Value {
    let model = golden("tiny/model");
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let folder = TempDir::new().unwrap();
    let args: Vec<&str> = words.split(' ').chain(["--json", "--model", model]).collect();
    let output = longlora(folder.path(), &[&["bench"], args.as_slice()].concat());
    assert!(output.status.success(), "{words} said: {}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert_eq!(printed.lines().count(), 1, "{printed}");
    serde_json::from_str(&printed).unwrap()
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {line}"))
}

#[test]
fn a_floor_is_the_sum_of_its_parts_and_a_step_is_above_it() {
    let words = "floor --tokens 64 --attention s2 --group 16 --memory 1B --steps 1 --repeat 1";
    let line = bench(words);
    let parts = line["parts"].as_array().unwrap();
    for key in ["flop", "bytes"] {
        assert_eq!(parts.iter().map(|part| number(part, key)).sum::<f64>(), number(&line, key));
    }
    let seconds = number(&line, "flop") / number(&line, "gflop_per_s") / 1e9;
    assert!((seconds / number(&line, "floor_seconds") - 1.0).abs() < 1e-9, "{line}");
    let ratio = number(&line, "step_seconds") / seconds;
    assert!((ratio / number(&line, "step_over_floor") - 1.0).abs() < 1e-9, "{line}");
    assert_eq!(number(&line, "kept_blocks"), 0.0);
    let recomputed = number(&line, "flop") - number(&line, "flop_without_recomputation");
    assert!(recomputed > 0.0, "{line}");
}

#[test]
fn a_floor_needs_no_weights() {
    let folder = TempDir::new().unwrap();
    let words = "bench floor --tokens 8192 --attention full --steps 0 --repeat 1 --memory 1TiB";
    let args: Vec<&str> = words.split(' ').collect();
    let output = longlora(folder.path(), &args);
    let printed = text(&output.stdout);
    assert!(printed.contains("8192 tokens, full attention, weights in f32, 30 of 30"), "{printed}");
    assert!(printed.contains("no step was measured"), "{printed}");
}

#[test]
fn memory_changes_what_is_kept_and_not_what_is_learned() {
    let words = "step --tokens 64 --attention s2 --steps 2 --memory";
    let [small, large] = ["1B", "1GiB"].map(|memory| bench(&format!("{words} {memory}")));
    assert_eq!(number(&small, "kept_blocks"), 0.0);
    assert_eq!(large["kept_blocks"], large["blocks"]);
    assert_eq!((&small["seq"], &small["group"]), (&64.into(), &16.into()));
    assert_eq!(small["seconds"].as_array().unwrap().len(), 2);
    for step in 0..2 {
        let [small, large] = [&small, &large].map(|line| line["losses"][step].as_f64().unwrap());
        assert!((small - large).abs() < 1e-5, "{small} and {large} at step {step}");
    }
}

#[test]
fn a_step_and_a_forward_read_the_same_window() {
    let step = bench("step --tokens 48 --attention full --steps 1");
    let forward = bench("forward --tokens 48 --repeat 1");
    let [trained, evaluated] = [step, forward].map(|line| line["losses"][0].as_f64().unwrap());
    assert!((trained - evaluated).abs() < 1e-5, "{trained} and {evaluated}");
}

#[test]
fn attention_is_counted_by_what_it_sees() {
    let line = bench("attention --tokens 64 --repeat 1");
    assert_eq!((&line["attention"], &line["group"]), (&"full".into(), &Value::Null));
    let line = bench("attention --tokens 64 --group 16 --repeat 3");
    assert_eq!((&line["attention"], &line["group"]), (&"s2".into(), &16.into()));
    assert!(number(&line, "gflop_per_s") > 0.0);
}

#[test]
fn mistakes_are_told() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("ids.json"), format!("{:?}", vec![1; 1010]));
    let model = golden("tiny/model");
    let model = model.to_str().expect("the checkout's path is UTF-8");
    let check = |words: &str, needles: &[&str]| {
        let args: Vec<&str> = words.split(' ').chain(["--model", model]).collect();
        check_mistake(folder.path(), &[&["bench"], args.as_slice()].concat(), needles);
    };
    check("step --tokens 64 --attention s2 --group 7", &["`7`", "even"]);
    check("step --tokens 64 --attention s2 --group 64", &["`64`", "full attention"]);
    check("step --tokens 64 --attention full --steps 0", &["training.steps", "`0`"]);
    check("forward --tokens 64 --data ids.json", &["ids.json", "`1010`", "`1064`"]);
}
