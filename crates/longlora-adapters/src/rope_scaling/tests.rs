use serde_json::{Value, json};

use super::*;

/// Printed by transformers 4.57.1 from `ROPE_INIT_FUNCTIONS`, 9 digits; ntk by its formula in
/// f64.
const GOLDEN: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/rope_inv_freq.json"));

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    head_dim: usize,
    rope_theta: f64,
    max_position_embeddings: Option<usize>,
    rope_scaling: Option<Value>,
    seq_len: Option<usize>,
    attention_scaling: f32,
    inv_freq: Vec<f32>,
}

impl Case {
    fn all() -> Vec<Self> {
        serde_json::from_str::<Golden>(GOLDEN).unwrap().cases
    }

    fn config(&self) -> RopeConfig {
        let max_position_embeddings = self.max_position_embeddings.unwrap_or(4096);
        let scaling = match &self.rope_scaling {
            Some(dictionary) if dictionary["rope_type"] == "ntk_static(not transformers)" => {
                RopeScaling::Ntk { factor: dictionary["factor"].as_f64().unwrap() }
            }
            other => {
                RopeScaling::from_hugging_face(other.as_ref(), max_position_embeddings).unwrap()
            }
        };
        let (head_dim, theta) = (self.head_dim, self.rope_theta);
        RopeConfig { head_dim, theta, max_position_embeddings, scaling }
    }
}

/// Measured: equal to the last bit, but for 19 of 1,680 entries of dynamic and ntk, off by one
/// step of f32, at most 1.5e-7. Twice that leaves room for another platform's `powf`.
#[track_caller]
fn assert_same(ours: &RopeFrequencies, theirs: &RopeFrequencies, case: &str) {
    assert_eq!(ours.inv_freq.len(), theirs.inv_freq.len(), "{case}");
    let factors = (ours.attention_factor, theirs.attention_factor);
    let pairs = ours.inv_freq.iter().copied().zip(theirs.inv_freq.iter().copied());
    for (pair, (ours, theirs)) in pairs.chain([factors]).enumerate() {
        let error = (ours - theirs).abs() / theirs;
        assert!(error <= 3e-7, "{case}, pair {pair}: ours {ours}, theirs {theirs}");
    }
}

/// Somebody adds `rope_scaling` to what transformers 5 has written.
#[test]
fn of_both_names_of_a_dictionary_the_older_counts() {
    let config = json!({
        "max_position_embeddings": 512,
        "rope_parameters": { "rope_type": "default", "rope_theta": 5e5 },
        "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512 },
    });
    let config = RopeConfig::from_hugging_face(8, config.as_object().unwrap()).unwrap();
    assert!(matches!(config.scaling, RopeScaling::Yarn { factor: 4.0, .. }), "{config:?}");
    assert_eq!((config.theta, config.max_position_embeddings), (5e5, 2048));
}

#[test]
fn frequencies_are_steady_as_far_as_they_say() {
    let config =
        |scaling| RopeConfig { head_dim: 8, theta: 1e4, max_position_embeddings: 1024, scaling };
    for kind in RopeKind::ALL {
        let config = config(RopeScaling::stretch(kind, 256, 1024));
        for seq in [1, 256, 257, 700] {
            let steady = config.steady_until(seq);
            let end = steady.unwrap_or(seq).min(5000);
            assert_eq!(config.frequencies(seq), config.frequencies(end), "{kind} at {seq}");
            if end < 5000 {
                assert_ne!(config.frequencies(seq), config.frequencies(end + 1), "{kind} at {seq}");
            }
        }
    }
}

#[test]
fn frequencies_match_transformers() {
    let cases = Case::all();
    assert_eq!(cases.len(), 92);
    for case in cases {
        let config = case.config();
        config.validate().unwrap();
        let ours = config.frequencies(case.seq_len.unwrap_or(config.max_position_embeddings));
        let (inv_freq, attention_factor) = (case.inv_freq, case.attention_scaling);
        let name = format!("{} {:?}", case.model, case.rope_scaling);
        assert_same(&ours, &RopeFrequencies { inv_freq, attention_factor }, &name);
    }
}

/// Expected values by hand: theta 10,000 and head_dim 4 make periods 1 and 100; ln(16) /
/// ln(256) = 1/2.
#[test]
fn longrope_switches_above_the_pre_trained_context() {
    let config = longrope();
    let attention_factor = 1.5f32.sqrt();
    for (seq, inv_freq) in [
        (1, vec![1.0, 0.005]),
        (256, vec![1.0, 0.005]),
        (257, vec![0.25, 0.001]),
        (4096, vec![0.25, 0.001]),
    ] {
        let expected = RopeFrequencies { inv_freq, attention_factor };
        assert_same(&config.frequencies(seq), &expected, &format!("{seq} tokens"));
    }
}

fn longrope() -> RopeConfig {
    RopeConfig {
        head_dim: 4,
        theta: 10_000.0,
        max_position_embeddings: 4096,
        scaling: RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![4.0, 10.0],
            factor: None,
            original_max_position_embeddings: 256,
            attention_factor: None,
        },
    }
}

#[test]
fn deepseek_scales_divide() {
    let dictionary = json!({
        "type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 32
    });
    let scaling = RopeScaling::from_hugging_face(Some(&dictionary), 4096).unwrap();
    let config =
        RopeConfig { head_dim: 64, theta: 10_000.0, max_position_embeddings: 4096, scaling };
    let expected = (0.1 * 40f32.ln() + 1.0) / (0.05 * 40f32.ln() + 1.0);
    assert!((config.frequencies(1).attention_factor - expected).abs() < 1e-6);
}

#[test]
fn the_last_pair_of_ntk_is_slowed_by_the_factor_and_the_first_not_at_all() {
    let config = |scaling| RopeConfig {
        head_dim: 10,
        theta: 10_000.0,
        max_position_embeddings: 300,
        scaling,
    };
    let plain = config(RopeScaling::None).frequencies(1).inv_freq;
    let ntk = config(RopeScaling::Ntk { factor: 3.0 }).frequencies(1).inv_freq;
    assert_eq!(plain[0], ntk[0]);
    assert!((plain[4] / ntk[4] - 3.0).abs() < 1e-5);
}

#[test]
fn a_written_config_rotates_as_the_one_it_came_from() {
    let cases = Case::all().into_iter().map(|case| case.config());
    let dynamic = RopeConfig {
        head_dim: 16,
        theta: 10_000.0,
        max_position_embeddings: 100,
        scaling: RopeScaling::stretch(RopeKind::Dynamic, 24, 100),
    };
    for ours in cases.chain([longrope(), dynamic]) {
        let mut json = serde_json::Map::new();
        ours.write_hugging_face(&mut json);
        let theirs = RopeConfig::from_hugging_face(ours.head_dim, &json).unwrap();
        for seq in [1, 24, 33, 257, 100_000] {
            let name = format!("{json:?} at {seq}");
            assert_same(&ours.frequencies(seq), &theirs.frequencies(seq), &name);
        }
    }
}

#[test]
fn a_dictionary_alone_is_read_back_as_it_was() {
    for config in Case::all().into_iter().map(|case| case.config()).chain([longrope()]) {
        if let Some(dictionary) = config.scaling.to_hugging_face() {
            let read =
                RopeScaling::from_hugging_face(Some(&dictionary), config.stated_context()).unwrap();
            assert_eq!(read, config.scaling);
        }
    }
}

#[test]
fn our_own_spelling_is_read_back_as_it_was() {
    for config in Case::all().into_iter().map(|case| case.config()).chain([longrope()]) {
        let json = serde_json::to_string(&config).unwrap();
        assert!(json.contains(&format!("\"kind\":\"{}\"", config.scaling.name())), "{json}");
        assert_eq!(serde_json::from_str::<RopeConfig>(&json).unwrap(), config);
    }
}

#[test]
fn every_spelling_of_a_type_is_read() {
    let read = |value: Value| RopeScaling::from_hugging_face(Some(&value), 64).unwrap();
    let linear = RopeScaling::Linear { factor: 8.0, original_max_position_embeddings: None };
    for value in [
        json!({ "rope_type": "linear", "factor": 8 }),
        json!({ "type": "linear", "factor": 8.0 }),
        json!({ "type": "linear", "rope_type": "linear", "factor": 8.0, "finetuned": true }),
    ] {
        assert_eq!(read(value), linear);
    }
    for value in [
        Value::Null,
        json!({}),
        json!({ "rope_type": "default" }),
        json!({ "rope_type": null }),
        json!({ "rope_theta": 500_000.0 }),
    ] {
        assert_eq!(read(value), RopeScaling::None);
    }
    let su = json!({ "type": "su", "short_factor": [1, 2], "long_factor": [3.5, 4] });
    assert_eq!(
        read(su),
        RopeScaling::LongRope {
            short_factor: vec![1.0, 2.0],
            long_factor: vec![3.5, 4.0],
            factor: None,
            original_max_position_embeddings: 64,
            attention_factor: None,
        }
    );
    assert_eq!(RopeScaling::from_hugging_face(None, 64).unwrap(), RopeScaling::None);
}

#[test]
fn transformers_4_and_5_say_the_same() {
    let read =
        |config: Value| RopeConfig::from_hugging_face(4, config.as_object().unwrap()).unwrap();
    let scaling =
        json!({ "rope_type": "longrope", "short_factor": [1, 2], "long_factor": [4, 10] });
    let mut parameters = scaling.clone();
    parameters["rope_theta"] = 10_000.0.into();
    parameters["original_max_position_embeddings"] = 256.into();

    let four = read(json!({
        "max_position_embeddings": 4096, "rope_theta": 10_000.0,
        "original_max_position_embeddings": 256, "rope_scaling": scaling,
    }));
    let five = read(json!({ "max_position_embeddings": 4096, "rope_parameters": parameters }));

    assert_eq!(four, longrope());
    assert_eq!(five, longrope());
}

/// Printed by transformers 4.57.1 and 5.24.0, from `LlamaConfig` and `ROPE_INIT_FUNCTIONS`, head_dim 4; 4.57 knows no
/// `rope_parameters`, and 5 reads `rope_scaling` as that.
#[test]
fn where_the_versions_disagree_each_name_is_read_as_its_own() {
    let longrope = json!({
        "rope_type": "longrope", "short_factor": [1, 2], "long_factor": [4, 10], "factor": 2.0,
    });
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
    let check = |name: &str, scaling: &Value, [beside, within]: [bool; 2], expected: [f32; 3]| {
        let mut config = json!({ "max_position_embeddings": 1024, "rope_theta": 10_000.0 });
        config[name] = scaling.clone();
        if beside {
            config[ORIGINAL] = 256.into();
        }
        if within {
            config[name][ORIGINAL] = 256.into();
        }
        let case = format!("{config}");
        let config = RopeConfig::from_hugging_face(4, config.as_object().unwrap()).unwrap();
        let mut written = serde_json::Map::new();
        config.write_hugging_face(&mut written);
        let again = RopeConfig::from_hugging_face(4, &written).unwrap();
        let [at_300, at_2000, attention_factor] = expected;
        for config in [config, again] {
            for (seq, slow) in [(300, at_300), (2000, at_2000)] {
                let ours = config.frequencies(seq);
                assert!((ours.inv_freq[1] / slow - 1.0).abs() < 1e-6, "{case} at {seq}: {ours:?}");
                let error = (ours.attention_factor / attention_factor - 1.0).abs();
                assert!(error < 1e-6, "{case} at {seq}: {ours:?}");
            }
        }
    };
    let (of_4, of_5) = ("rope_scaling", "rope_parameters");
    check(of_4, &longrope, [true, false], [0.001, 0.001, 1.118_034]);
    check(of_5, &longrope, [true, false], [0.001, 0.001, 1.060_660_2]);
    check(of_4, &longrope, [false, true], [0.005, 0.001, 1.048_808_8]);
    check(of_5, &longrope, [false, true], [0.001, 0.001, 1.060_660_2]);
    check(of_4, &yarn, [true, false], [0.00625, 0.00625, 1.138_629_4]);
    check(of_5, &yarn, [true, false], [0.0025, 0.0025, 1.138_629_4]);
    for name in [of_4, of_5] {
        check(name, &yarn, [false, true], [0.0025, 0.0025, 1.138_629_4]);
    }
}

#[test]
fn a_users_mistake_is_named() {
    let check = |value: Value, expected: &str| {
        let error = RopeScaling::from_hugging_face(Some(&value), 64).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        json!({ "rope_type": "mrope" }),
        "unknown rope scaling `mrope`; \
         use one of default, linear, dynamic, yarn, longrope, llama3",
    );
    check(
        json!({ "rope_type": "linear", "type": "dynamic", "factor": 2.0 }),
        "`rope_type` is `linear` but `type` is `dynamic`; keep `rope_type` only",
    );
    check(
        json!({ "factor": 2.0 }),
        "rope field `rope_type` is missing; \
         name one of default, linear, dynamic, yarn, longrope, llama3",
    );
    check(
        json!({ "rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0 }),
        "rope field `low_freq_factor` is missing; \
         rope scaling `llama3` needs it in the model's config",
    );
    check(
        json!({ "rope_type": "linear", "factor": "8" }),
        "rope field `factor` is `\"8\"`; it must be a number",
    );
    check(json!(8.0), "rope scaling `8.0` is not a dictionary; write null for plain RoPE");
}

#[test]
fn validate_names_the_field() {
    let check = |change: fn(&mut RopeConfig), expected: &str| {
        let mut config = longrope();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().to_string(), expected);
    };
    longrope().validate().unwrap();
    check(
        |config| config.head_dim = 5,
        "rope field `head_dim` is `5`; it must be even and at least 2",
    );
    check(
        |config| config.head_dim = 6,
        "rope field `short_factor` has `2` entries; it needs `3`, half of head_dim",
    );
    check(
        |config| config.theta = f64::NAN,
        "rope field `rope_theta` is `NaN`; it must be finite and above 1",
    );
    check(
        |config| config.scaling = linear(0.5, None),
        "rope field `factor` is `0.5`; it must be finite and at least 1",
    );
    check(
        |config| {
            config.scaling = RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 4.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 256,
            };
        },
        "rope field `high_freq_factor` is `4`; it must be finite and above low_freq_factor, 4",
    );
}

#[test]
fn a_stretch_knows_where_it_came_from() {
    for kind in RopeKind::ALL.into_iter().filter(|kind| *kind != RopeKind::None) {
        let scaling = RopeScaling::stretch(kind, 512, 2048);
        assert_eq!(scaling.name(), kind.name());
        let config =
            RopeConfig { head_dim: 8, theta: 10_000.0, max_position_embeddings: 2048, scaling };
        config.validate().unwrap();
        assert_eq!(config.original_context(), 512, "{kind}");
        assert_eq!(RopeScaling::stretch(kind, 512, 512), RopeScaling::None);
    }
    let rounded = RopeScaling::stretch(RopeKind::Linear, 4096, 10_000);
    assert_eq!(rounded, linear(3.0, Some(4096)));
}

fn linear(factor: f64, original_max_position_embeddings: Option<usize>) -> RopeScaling {
    RopeScaling::Linear { factor, original_max_position_embeddings }
}

fn said(config: Value) -> RopeConfig {
    RopeConfig::from_hugging_face(8, config.as_object().unwrap()).unwrap()
}

/// `(a config, how far it reaches, what it was pre-trained with)`; the first five are of published models.
#[test]
fn a_config_tells_how_far_the_model_reaches() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let yarn = |factor: f64, original: Value| json!({ "type": "yarn", "factor": factor, "original_max_position_embeddings": original });
    for (context, scaling, reach, original) in [
        // Llama-2-7b-longlora-32k
        (4096, json!({ "type": "linear", "factor": 8.0 }), 32_768, 4096),
        // Qwen2.5-7B-Instruct, as its card extends it
        (32_768, yarn(4.0, json!(32_768)), 131_072, 32_768),
        // Yarn-Llama-2-7b-64k
        (65_536, yarn(16.0, json!(4096)), 65_536, 4096),
        (131_072, llama3, 131_072, 8192),
        (2048, Value::Null, 2048, 2048),
        (4096, yarn(2.0, Value::Null), 8192, 4096),
        (4096, json!({ "type": "dynamic", "factor": 2.0 }), 8192, 4096),
        (256, json!({ "type": "dynamic", "factor": 2.34375 }), 600, 256),
    ] {
        let config = said(json!({ "max_position_embeddings": context, "rope_scaling": scaling }));
        assert_eq!((config.max_position_embeddings, config.original_context()), (reach, original));
        let mut written = serde_json::Map::new();
        config.write_hugging_face(&mut written);
        assert_eq!(said(Value::Object(written)), config);
    }
}

#[test]
fn a_scaling_is_replaced_by_one_for_the_whole_way() {
    let base = RopeConfig { max_position_embeddings: 256, ..longrope() };
    let base = RopeConfig { scaling: RopeScaling::None, ..base };
    for (kind, factor) in [(RopeKind::Linear, 4.0), (RopeKind::Yarn, 1000.0 / 256.0)] {
        // By a whole factor this one reaches 768, and was asked for 600.
        let once = base.extended(RopeKind::Linear, 600).unwrap();
        let mut written = serde_json::Map::new();
        once.write_hugging_face(&mut written);
        let once = RopeConfig::from_hugging_face(once.head_dim, &written).unwrap();
        assert_eq!((once.max_position_embeddings, once.original_context()), (600, 256));
        let twice = once.extended(kind, 1000).unwrap();
        assert_eq!(twice.scaling, RopeScaling::stretch(kind, 256, 1000));
        assert!(matches!(
            twice.scaling,
            RopeScaling::Linear { factor: is, .. } | RopeScaling::Yarn { factor: is, .. } if is == factor
        ));
    }
}

#[test]
fn what_reaches_so_far_already_stays() {
    let qwen = said(json!({
        "max_position_embeddings": 32_768,
        "rope_scaling":
            { "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768 },
    }));
    assert_eq!(qwen.extended(RopeKind::Linear, 131_072).unwrap(), qwen);
    let further = qwen.extended(RopeKind::Linear, 262_144).unwrap();
    assert_eq!(further.scaling, linear(8.0, Some(32_768)));
}

/// LongLoRA's models and DeepSeek-Coder say the same of two different things.
#[test]
fn a_linear_scaling_that_does_not_tell_from_where_is_not_extended() {
    let scaling = json!({ "type": "linear", "factor": 4.0 });
    let config = json!({ "max_position_embeddings": 16_384, "rope_scaling": scaling });
    let unclear = said(config.clone());
    assert_eq!(unclear.extended(RopeKind::Yarn, 16_384).unwrap(), unclear);
    let error = unclear.extended(RopeKind::Yarn, 16_385).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`max_position_embeddings` is `16384` beside a linear `rope_scaling` by `4`, and may be the context before that \
         scaling or after it; add \"original_max_position_embeddings\" with the context before it to config.json"
    );
    for (original, reach, factor) in [(4096, 16_384, 32.0), (16_384, 65_536, 8.0)] {
        let mut told = config.clone();
        told["original_max_position_embeddings"] = original.into();
        let told = said(told);
        assert_eq!(told.max_position_embeddings, reach);
        let further = told.extended(RopeKind::Linear, 131_072).unwrap();
        assert_eq!(further.scaling, linear(factor, Some(original)));
    }
}

#[test]
fn kinds_are_read_by_the_name_they_print() {
    for kind in RopeKind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let error = "longrope".parse::<RopeKind>().unwrap_err().to_string();
    let known = "none, linear, ntk, dynamic, yarn, llama3";
    assert_eq!(error, format!("unknown rope scaling `longrope`; use one of {known}"));
}
