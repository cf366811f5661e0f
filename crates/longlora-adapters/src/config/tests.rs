use super::*;
use crate::rope_offset::RopeGranularity;

const KNOWN: &str = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj";

#[track_caller]
fn check(change: impl FnOnce(&mut AdapterConfig), expected: &str) {
    let mut config = AdapterConfig::longlora();
    change(&mut config);
    assert_eq!(config.validate().unwrap_err().to_string(), expected);
}

#[track_caller]
fn check_lora(change: impl FnOnce(&mut LoraConfig), expected: &str) {
    check(|config| change(config.lora.as_mut().unwrap()), expected);
}

#[track_caller]
fn check_bound(bound: f64, expected: &str) {
    let offset = RopeOffsetConfig { bound, ..RopeOffsetConfig::new(RopeGranularity::Head) };
    check(|config| config.rope_offset = Some(offset), expected);
}

#[test]
fn a_number_that_cannot_be_meant_is_refused_by_name() {
    check_lora(|lora| lora.rank = 0, "LoRA rank is `0`; use at least 1, or leave LoRA out");
    check_lora(
        |lora| lora.alpha = -16.0,
        "LoRA alpha `-16` is not a positive number; LongLoRA uses 16",
    );
    check_lora(
        |lora| lora.alpha = f64::NAN,
        "LoRA alpha `NaN` is not a positive number; LongLoRA uses 16",
    );
    check_lora(|lora| lora.dropout = 1.0, "LoRA dropout `1` is not in [0, 1)");
    check_lora(|lora| lora.dropout = -0.5, "LoRA dropout `-0.5` is not in [0, 1)");
    check_lora(
        |lora| lora.target_modules.clear(),
        &format!("LoRA has no target modules; name some of {KNOWN}, or leave LoRA out"),
    );
    let pattern = |name: &str, rank: usize| BTreeMap::from([(name.to_owned(), rank)]);
    check_lora(
        |lora| lora.rank_pattern = pattern("layers.0.mlp.up_proj", 0),
        "LoRA rank of `layers.0.mlp.up_proj` is `0`; use at least 1, or name the layer in `exclude_modules`",
    );
    check_lora(
        |lora| lora.alpha_pattern = BTreeMap::from([("q_proj".to_owned(), 0.0)]),
        "LoRA alpha `0` of `q_proj` is not a positive number",
    );
    let unknown = |name: &str, option: &str| {
        format!(
            "`{name}` in `{option}` is not the end of a layer's path, like `up_proj` or `layers.0.mlp.up_proj`; \
             layers are {KNOWN}"
        )
    };
    check_lora(
        |lora| lora.rank_pattern = pattern("my_q_proj", 4),
        &unknown("my_q_proj", "rank_pattern"),
    );
    check_lora(
        |lora| lora.exclude_modules = vec!["layers.0".to_owned()],
        &unknown("layers.0", "exclude_modules"),
    );
    check_bound(0.0, "RoPE offset bound `0` is not in (0, 2]; the default is ln 2");
    check_bound(2.5, "RoPE offset bound `2.5` is not in (0, 2]; the default is ln 2");
    check_bound(f64::NAN, "RoPE offset bound `NaN` is not in (0, 2]; the default is ln 2");
}

#[test]
fn an_adapter_that_trains_nothing_is_refused() {
    let nothing = AdapterConfig {
        lora: None,
        norms: false,
        embeddings: false,
        head: false,
        rope_offset: None,
    };
    assert_eq!(
        nothing.validate().unwrap_err().to_string(),
        "nothing would be trained: no LoRA, norms, embeddings, head or RoPE offsets; switch on at least one"
    );
    let longlora = AdapterConfig::longlora();
    let offset = RopeOffsetConfig::new(RopeGranularity::Head);
    for one in [
        AdapterConfig { lora: longlora.lora.clone(), ..nothing.clone() },
        AdapterConfig { norms: true, ..nothing.clone() },
        AdapterConfig { embeddings: true, ..nothing.clone() },
        AdapterConfig { head: true, ..nothing.clone() },
        AdapterConfig { rope_offset: Some(offset), ..nothing },
    ] {
        one.validate().unwrap();
    }
}

#[test]
fn the_recipe_of_longlora_is_valid_and_has_the_papers_numbers() {
    let config = AdapterConfig::longlora();
    config.validate().unwrap();
    let lora = config.lora.unwrap();
    let update = UpdateConfig { rank: 8, alpha: 16.0, scale: 2.0, dropout: 0.0, use_dora: false };
    assert_eq!(lora.of("model.layers.3.self_attn.o_proj"), Some(update));
    assert_eq!(lora.target_modules, TargetModule::ATTENTION);
    assert!(config.norms && config.embeddings && !config.head);
}

#[test]
fn a_layer_gets_the_rank_and_alpha_of_the_longest_name_that_fits_it() {
    let lora: LoraConfig = serde_json::from_value(serde_json::json!({
        "rank": 8,
        "alpha": 12.0,
        "dropout": 0.0,
        "target_modules": ["q_proj", "up_proj"],
        "exclude_modules": ["layers.1.mlp.up_proj"],
        "use_rslora": true,
        "rank_pattern": { "up_proj": 4, "layers.0.mlp.up_proj": 9 },
        "alpha_pattern": { "self_attn.q_proj": 3.0 },
    }))
    .unwrap();
    let update = |module: &str| {
        lora.of(&format!("model.layers.{module}"))
            .map(|update| (update.rank, update.alpha, update.scale))
    };
    assert_eq!(update("0.self_attn.q_proj"), Some((8, 3.0, 3.0 / 8_f64.sqrt())));
    assert_eq!(update("0.mlp.up_proj"), Some((9, 12.0, 4.0)));
    assert_eq!(update("10.mlp.up_proj"), Some((4, 12.0, 6.0)));
    assert_eq!(update("1.mlp.up_proj"), None, "it is excluded");
    assert_eq!(update("11.mlp.up_proj"), Some((4, 12.0, 6.0)), "it is another layer");
    assert_eq!(update("0.self_attn.v_proj"), None, "it is no target");
    assert_eq!(update("0.self_attn.my_q_proj"), None, "it only ends with the letters");
}

#[test]
fn a_file_from_before_there_were_patterns_is_still_read() {
    let text = r#"{
        "lora": {
            "rank": 8,
            "alpha": 16.0,
            "dropout": 0.0,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]
        },
        "norms": true,
        "embeddings": true,
        "rope_offset": null
    }"#;
    let config: AdapterConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config, AdapterConfig::longlora());
}

#[test]
fn a_target_module_is_read_and_written_by_the_name_it_prints() {
    for module in TargetModule::ALL {
        assert_eq!(module.to_string().parse(), Ok(module));
        let json = serde_json::to_string(&module).unwrap();
        assert_eq!(json, format!("\"{module}\""));
    }
    assert_eq!(TargetModule::ALL.map(TargetModule::name).join(", "), KNOWN);
}

#[test]
fn an_unknown_target_module_is_refused_with_the_known_ones() {
    for name in ["lm_head", "Q_PROJ", "q_proj ", ""] {
        let error = name.parse::<TargetModule>().unwrap_err().to_string();
        assert_eq!(error, format!("`{name}` is no target module; known are {KNOWN}"));
    }
}
