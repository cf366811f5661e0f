//! Whatever stands in a config: it is taken, or refused in one sentence that names the file. Nothing panics.

use std::path::Path;

use burn::tensor::Device;
use longlora_adapters::RopeKind;
use longlora_llama::{LlamaConfig, load_adapter, load_pretrained};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value};

use crate::fixture::{golden, json, read, write, write_json};
use crate::sentence;

/// Keys of a `config.json` that are read, and their places in it.
const CONFIG: &[&str] = &[
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "vocab_size",
];

const ROPE: &[&str] = &[
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "short_factor",
    "truncate",
];

const ADAPTER: &[&str] = &[
    "alpha_pattern",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
];

const WORDS: &[&str] = &[
    "",
    "llama",
    "mistral",
    "mixtral",
    "qwen3",
    "silu",
    "full_attention",
    "sliding_attention",
    "all-linear",
    "q_proj",
    "embed_tokens",
    "lm_head",
    ".*_proj",
    "(",
    "none",
    "NaN",
];

fn number() -> impl Strategy<Value = Value> {
    let usual = select(vec![0_i64, -1, 1, 2, 3, 4, 8, 16, 64, 112, 128, 256, 4096]);
    let large = select(vec![1_i64 << 31, 1 << 32, 1 << 62, i64::MAX, i64::MIN]);
    let float = select(vec![0.0, -0.5, 0.5, 1.0, 1.5, 4.0, 1e-5, 1e-300, 1e30, 1e300]);
    prop_oneof![
        4 => usual.prop_map(Value::from),
        1 => large.prop_map(Value::from),
        2 => float.prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        4 => number(),
        2 => select(WORDS).prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        let keys = prop_oneof![select(WORDS), select(ROPE)];
        let object = vec((keys, inner.clone()), 0..4).prop_map(object);
        prop_oneof![vec(inner, 0..9).prop_map(Value::from), object]
    })
}

fn object(fields: Vec<(&'static str, Value)>) -> Value {
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
}

/// A scaling, most of whose fields are numbers.
fn rope() -> impl Strategy<Value = Value> {
    let kinds = ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "su", "spiral"];
    let field = prop_oneof![3 => number(), 1 => value()];
    let eight = vec(number(), 8).prop_map(Value::from);
    (select(kinds.to_vec()), vec((select(ROPE), field), 0..6), eight).prop_map(
        |(kind, fields, eight)| {
            let mut scaling = object(fields);
            scaling["rope_type"] = kind.into();
            if kind == "longrope" {
                scaling["short_factor"] = eight.clone();
                scaling["long_factor"] = eight;
            }
            scaling
        },
    )
}

fn changes(keys: &'static [&'static str]) -> impl Strategy<Value = Value> {
    vec((select(keys), value()), 0..4).prop_map(object)
}

fn with(mut whole: Value, changes: Value) -> Map<String, Value> {
    let whole = whole.as_object_mut().expect("a config is an object");
    whole.extend(changes.as_object().expect("so are its changes").clone());
    whole.clone()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_config_is_read_back_as_it_was_written_or_refused(
        changes in changes(CONFIG),
        rope in prop::option::of((select(vec!["rope_scaling", "rope_parameters"]), rope())),
    ) {
        let mut config = with(json(&golden("tiny/model/config.json")), changes);
        if let Some((key, rope)) = rope {
            config.insert(key.to_owned(), rope);
        }
        let path = Path::new("some/config.json");
        match LlamaConfig::from_hugging_face(config, path) {
            Err(error) => sentence::check(&error, &["some/config.json"]),
            Ok(config) => {
                let written = config.to_hugging_face();
                let again = LlamaConfig::from_hugging_face(written.clone(), path).unwrap();
                prop_assert_eq!(again.to_hugging_face(), written);
                prop_assert_eq!(again.rope.max_position_embeddings, config.rope.max_position_embeddings);
                prop_assert_eq!(again.rope.frequencies(300), config.rope.frequencies(300));
                for length in [2, 64, 4096] {
                    if let Ok(longer) = config.rope.extended(RopeKind::Yarn, length) {
                        prop_assert!(longer.max_position_embeddings >= length);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_adapter_is_taken_or_refused(changes in changes(ADAPTER)) {
        let folder = tempfile::tempdir().unwrap();
        let adapter = golden("tiny_lora/adapter");
        let name = "adapter_model.safetensors";
        write(&folder.path().join(name), read(&adapter.join(name)));
        let config = with(json(&adapter.join("adapter_config.json")), changes);
        write_json(&folder.path().join("adapter_config.json"), &config.into());
        let llama = load_pretrained(&golden("tiny/model"), &Device::default()).unwrap();
        if let Err(error) = load_adapter(llama, folder.path()) {
            sentence::check(&error, &[&folder.path().display().to_string()]);
        }
    }
}
