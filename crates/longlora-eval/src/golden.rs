//! Perplexities of a real model, as Hugging Face has them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use burn::tensor::Device;
use longlora_adapters::{RopeKind, RopeScaling};
use longlora_attention::AttentionPattern;
use longlora_data::Tokenizer;
use longlora_llama::load_pretrained;
use serde::Deserialize;

use crate::{PerplexityConfig, Protocol, perplexity};

/// Up to four times the pre-trained length.
#[test]
fn whole_windows_match_hugging_face() {
    check_golden("whole_windows_match_hugging_face", "sampled", 8 * 4, |_, windows| {
        side_by_side(windows).filter(|config| config.length <= 2048)
    });
}

#[test]
fn a_novel_matches_hugging_face() {
    check_golden("a_novel_matches_hugging_face", "austen", 4 * 2, |rope, windows| {
        side_by_side(windows)
            .filter(|config| rope.ends_with("x4") && [512, 2048].contains(&config.length))
    });
}

#[test]
fn a_sliding_window_matches_hugging_face() {
    let sliding = config(1024, Protocol::LastTokens { stride: 256 }, 8192);
    check_golden("a_sliding_window_matches_hugging_face", "sampled", 8, |_, windows| {
        (windows == "slide ctx1024 stride256 over 8192").then_some(sliding)
    });
}

/// Against `transformers` 4.57.1 in f32 on a CPU, for the text `text` and all RoPE scalings and windows for which
/// `choose` has a configuration: `cases` of them.
///
/// The largest relative difference that was measured is 1.2e-7.
#[track_caller]
fn check_golden(
    test: &str,
    text: &str,
    cases: usize,
    choose: impl Fn(&str, &str) -> Option<PerplexityConfig>,
) {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    if !shared.exists() {
        writeln!(std::io::stderr(), "skipped: {test}: ../shared is absent").unwrap();
        return;
    }
    let golden = fs::read(shared.join("golden/stories260k/ppl.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    let model = shared.join("models/stories260k");
    let documents = [match text {
        "sampled" => {
            let path = shared.join("golden/stories260k/sampled_stories_ids.json");
            serde_json::from_slice::<Ids>(&fs::read(path).unwrap()).unwrap().ids
        }
        "austen" => {
            let path = shared.join("corpus/eval/austen_persuasion.txt");
            let text = fs::read_to_string(path).unwrap();
            Tokenizer::read(&model).unwrap().encode(&text).unwrap()
        }
        other => panic!("unknown text {other}"),
    }];
    let mut llama = load_pretrained(&model, &Device::default()).unwrap();

    let mut checked = 0;
    for (case, theirs) in &golden.results {
        let [rope, of, windows] = case.split('|').collect::<Vec<_>>()[..] else {
            panic!("unknown case {case}")
        };
        let Some(config) = choose(rope, windows).filter(|_| of == text) else { continue };
        llama.config.rope.scaling = scaling(rope);

        let ours = perplexity(&llama, &documents, &config, &mut |_, _| {}).unwrap();

        assert_eq!(ours.windows, theirs.windows, "{case}");
        assert_eq!(ours.tokens, theirs.scored.unwrap_or(ours.tokens), "{case}");
        let error = (ours.perplexity() / theirs.ppl - 1.0).abs();
        assert!(error < 1e-6, "{case}: {} instead of {}", ours.perplexity(), theirs.ppl);
        checked += 1;
    }
    assert_eq!(checked, cases);
}

fn config(length: usize, protocol: Protocol, max_tokens: usize) -> PerplexityConfig {
    let pattern = AttentionPattern::Full;
    PerplexityConfig { length, protocol, pattern, max_tokens: Some(max_tokens) }
}

fn side_by_side(windows: &str) -> Option<PerplexityConfig> {
    Some(config(windows.parse().ok()?, Protocol::WholeWindows { stride: None }, 16_384))
}

#[derive(Deserialize)]
struct Golden {
    results: BTreeMap<String, GoldenResult>,
}

#[derive(Deserialize)]
struct GoldenResult {
    ppl: f64,
    windows: usize,
    scored: Option<usize>,
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<u32>,
}

fn scaling(name: &str) -> RopeScaling {
    let stretch = |kind, factor: usize| RopeScaling::stretch(kind, 512, 512 * factor);
    match name {
        "unmodified" => RopeScaling::None,
        "linear_x2" => stretch(RopeKind::Linear, 2),
        "linear_x4" => stretch(RopeKind::Linear, 4),
        "dynamic_x2" => stretch(RopeKind::Dynamic, 2),
        "dynamic_x4" => stretch(RopeKind::Dynamic, 4),
        "yarn_x2" => stretch(RopeKind::Yarn, 2),
        "yarn_x4" => stretch(RopeKind::Yarn, 4),
        "llama3_x4" => stretch(RopeKind::Llama3, 4),
        other => panic!("unknown scaling {other}"),
    }
}
