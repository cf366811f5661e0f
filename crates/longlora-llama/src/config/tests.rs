use serde_json::json;

use super::*;

/// Three layers of a family, with some of its keys changed.
fn config(model_type: &str, changes: &Value) -> Result<LlamaConfig, LlamaError> {
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 37,
        "max_position_embeddings": 64,
    });
    let config = config.as_object_mut().expect("the literal is an object");
    config.extend(changes.as_object().expect("so are the changes").clone());
    LlamaConfig::from_hugging_face(config.clone(), Path::new("config.json"))
}

#[track_caller]
fn check_windows(model_type: &str, changes: Value, expected: [Option<usize>; 3]) {
    let config = config(model_type, &changes).unwrap();
    assert_eq!(config.windows, expected, "{model_type} with {changes}");
}

#[track_caller]
fn check_refused(model_type: &str, changes: Value, needles: &[&str]) {
    let error = config(model_type, &changes).unwrap_err().to_string();
    assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
}

#[test]
fn a_window_of_every_layer_is_the_configs_or_the_familys_and_null_is_none() {
    check_windows("mistral", json!({}), [Some(4096); 3]);
    check_windows("mistral", json!({ "sliding_window": null }), [None; 3]);
    check_windows("mistral", json!({ "sliding_window": 12 }), [Some(12); 3]);
    check_windows("mixtral", json!({}), [None; 3]);
    check_windows("mixtral", json!({ "sliding_window": 12 }), [Some(12); 3]);
    check_windows("llama", json!({ "sliding_window": null }), [None; 3]);
    check_refused("llama", json!({ "sliding_window": 12 }), &["sliding_window", "`12`"]);
    check_refused("mistral", json!({ "sliding_window": 0 }), &["`0`", "at least 1"]);
    check_refused("mistral", json!({ "sliding_window": "12" }), &["sliding_window"]);
}

#[test]
fn qwens_windows_are_those_of_the_layers_that_the_config_names() {
    let check = |changes: Value, expected| {
        let mut all = json!({ "use_sliding_window": true, "sliding_window": 12 });
        let fields = all.as_object_mut().expect("the literal is an object");
        fields.extend(changes.as_object().expect("so are the changes").clone());
        for family in ["qwen2", "qwen3"] {
            check_windows(family, all.clone(), expected);
        }
    };
    let (wide, narrow) = ("full_attention", "sliding_attention");
    check(json!({ "use_sliding_window": false, "max_window_layers": 0 }), [None; 3]);
    check(json!({ "sliding_window": null, "max_window_layers": 0 }), [None; 3]);
    // Those below `max_window_layers` see everything; transformers' default is 28 of them.
    check(json!({ "max_window_layers": 1 }), [None, Some(12), Some(12)]);
    check(json!({ "max_window_layers": 3 }), [None; 3]);
    check(json!({}), [None; 3]);
    let types = json!([narrow, wide, narrow]);
    let expected = [Some(12), None, Some(12)];
    check(json!({ "layer_types": types, "max_window_layers": 3 }), expected);
    check(json!({ "layer_types": types, "use_sliding_window": false }), [None; 3]);

    let refuse = |types: Value, needle| {
        let changes =
            json!({ "use_sliding_window": true, "sliding_window": 12, "layer_types": types });
        check_refused("qwen2", changes, &["layer_types", needle]);
    };
    refuse(json!([wide, narrow]), "each layer");
    refuse(json!([wide, narrow, "chunked_attention"]), "`chunked_attention`");
}

#[test]
fn only_a_mixture_has_experts_and_never_fewer_than_it_asks() {
    let experts = |model_type, count: usize, per_token: usize| {
        let changes = json!({ "num_local_experts": count, "num_experts_per_tok": per_token });
        config(model_type, &changes).map(|config| config.experts)
    };
    let expected = Some(ExpertsConfig { count: 4, per_token: 4 });
    assert_eq!(experts("mixtral", 4, 4).unwrap(), expected);
    assert_eq!(experts("mistral", 4, 4).unwrap(), None);
    let expected = Some(ExpertsConfig { count: 8, per_token: 2 });
    assert_eq!(config("mixtral", &json!({})).unwrap().experts, expected);
    for (count, per_token) in [(4, 5), (4, 0), (0, 0)] {
        let error = experts("mixtral", count, per_token).unwrap_err().to_string();
        let needles = [format!("`{count}`"), format!("`{per_token}`")];
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    }
}

#[test]
fn dropout_that_is_not_applied_is_named() {
    let ignored = |changes| config("llama", &changes).unwrap().ignored_dropout();
    assert_eq!(ignored(json!({})), []);
    assert_eq!(ignored(json!({ "attention_dropout": 0.0, "residual_dropout": null })), []);
    let asked = json!({ "attention_dropout": 0.5, "residual_dropout": 0.1 });
    assert_eq!(ignored(asked), [("attention_dropout", 0.5), ("residual_dropout", 0.1)]);
}

#[test]
fn fields_that_have_changed_are_written_and_no_others() {
    let changes = json!({ "eos_token_id": 2, "bos_token_id": 1, "tie_word_embeddings": true });
    let read = config("mistral", &changes).unwrap();
    let unchanged = read.to_hugging_face();
    for key in ["head_dim", "rms_norm_eps", "sliding_window"] {
        assert!(!unchanged.contains_key(key), "{key} was not there");
    }
    assert_eq!(unchanged["eos_token_id"], 2);

    let mut changed = read.clone();
    changed.vocab_size = 40;
    changed.num_hidden_layers = 2;
    changed.windows.truncate(2);
    changed.eos_token_ids = vec![2, 5];
    changed.bos_token_id = None;
    changed.tie_word_embeddings = false;
    changed.rms_norm_eps = 1e-3;
    changed.rope.max_position_embeddings = 128;
    let written = changed.to_hugging_face();
    assert_eq!(written["eos_token_id"], json!([2, 5]));
    assert_eq!(written["bos_token_id"], Value::Null);
    assert_eq!(written["max_position_embeddings"], 128);
    let again = LlamaConfig::from_hugging_face(written, Path::new("config.json")).unwrap();
    assert_eq!(
        (again.vocab_size, again.num_hidden_layers, again.tie_word_embeddings),
        (40, 2, false)
    );
    assert_eq!((again.windows, again.rms_norm_eps), (changed.windows, 1e-3));
    assert_eq!((again.eos_token_ids, again.bos_token_id), (vec![2, 5], None));
}
