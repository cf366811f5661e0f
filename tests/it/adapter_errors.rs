//! Adapters with a mistake: each is one sentence that names the file and the value, and none is half loaded.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use longlora_llama::{load_adapter, load_pretrained, read_tensors, write_tensors};
use serde_json::{Value, json};

use crate::fixture::{self, golden, read, write, write_json};
use crate::sentence::check;

/// Loads PEFT's adapter after `spoil` changed its folder.
#[track_caller]
fn check_adapter(spoil: impl Fn(&Path), parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        write(&folder.path().join(name), read(&golden("tiny_lora/adapter").join(name)));
    }
    spoil(folder.path());
    let llama = load_pretrained(&golden("tiny/model"), &Device::default()).unwrap();
    let error = load_adapter(llama, folder.path()).expect_err("it should not load");
    let path = folder.path().display().to_string();
    check(&error, &[parts, &[path.as_str()]].concat());
}

/// Loads PEFT's adapter with some of its `adapter_config.json` changed.
#[track_caller]
fn check_adapter_config(changes: Value, parts: &[&str]) {
    let spoil = |folder: &Path| {
        let path = folder.join("adapter_config.json");
        let mut config = fixture::json(&path);
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        write_json(&path, &config);
    };
    check_adapter(spoil, parts);
}

#[test]
fn adapters_that_would_compute_something_else_are_refused() {
    for (key, value, shown) in [
        ("bias", json!("all"), "all"),
        ("bias", json!("lora_only"), "lora_only"),
        ("peft_type", json!("LOHA"), "LOHA"),
        ("peft_type", json!(null), "null"),
        ("task_type", json!("SEQ_CLS"), "SEQ_CLS"),
        ("fan_in_fan_out", json!(true), "true"),
        ("lora_bias", json!(true), "true"),
        ("use_qalora", json!(true), "true"),
        ("megatron_config", json!({ "tp": 2 }), "{\"tp\":2}"),
        ("trainable_token_indices", json!([5, 7]), "[5,7]"),
        ("layer_replication", json!([[0, 2]]), "[[0,2]]"),
        ("target_parameters", json!(["experts.up_proj"]), "[\"experts.up_proj\"]"),
        ("alora_invocation_tokens", json!([1]), "[1]"),
        ("arrow_config", json!({ "top_k": 3 }), "{\"top_k\":3}"),
        ("modules_to_save", json!(["norm", "o_proj"]), "o_proj"),
        ("modules_to_save", json!(["layers.0"]), "layers.0"),
        ("modules_to_save", json!([""]), ""),
        // LoRA of tables, which are no layers of the blocks.
        ("target_modules", json!(["q_proj", "embed_tokens"]), "model.embed_tokens"),
        ("target_modules", json!(["lm_head"]), "lm_head"),
        ("target_modules", json!(null), "null"),
        ("layers_to_transform", json!([1]), "[1]"),
        // These change the base weights when PEFT attaches them.
        ("init_lora_weights", json!("pissa"), "pissa"),
        ("init_lora_weights", json!("pissa_niter_16"), "pissa_niter_16"),
        ("init_lora_weights", json!("olora"), "olora"),
        ("init_lora_weights", json!("corda"), "corda"),
        ("init_lora_weights", json!("loftq"), "loftq"),
        ("init_lora_weights", json!(["pissa"]), "[\"pissa\"]"),
    ] {
        let mut changes = json!({ key: value });
        if key == "layers_to_transform" {
            changes["target_modules"] = json!("all-linear");
        }
        check_adapter_config(changes, &[&format!("`{key}` = `{shown}`"), "not implement"]);
    }
    check_adapter_config(json!({ "use_magic": 3 }), &["`use_magic` = `3`", "does not know"]);
}

#[test]
fn options_of_another_type_are_named_with_their_value() {
    for (key, value, needed) in [
        ("r", json!("8"), "a whole number"),
        ("r", json!(-8), "a whole number"),
        ("lora_alpha", json!("big"), "a number"),
        ("lora_dropout", json!([0.1]), "a number"),
        ("use_dora", json!("yes"), "`true` or `false`"),
        ("use_rslora", json!(1), "`true` or `false`"),
        ("peft_type", json!(7), "a word"),
        ("target_modules", json!(3), "a list of names, or a regular expression"),
        ("exclude_modules", json!({ "q_proj": 1 }), "a list of names, or a regular expression"),
        ("layers_to_transform", json!("1"), "a list of whole numbers"),
        ("layers_pattern", json!(1), "a list of names, or a regular expression"),
        ("modules_to_save", json!("norm"), "a list of names"),
        ("rank_pattern", json!({ "q_proj": 4.5 }), "an object of names and whole numbers"),
        ("alpha_pattern", json!(["q_proj"]), "an object of names and numbers"),
    ] {
        check_adapter_config(
            json!({ key: value }),
            &[&format!("`{key}` = `{value}`, but `{key}` is {needed}")],
        );
    }
    for key in ["target_modules", "exclude_modules", "rank_pattern"] {
        let value = if key == "rank_pattern" { json!({ "(": 4 }) } else { json!("(") };
        check_adapter_config(json!({ key: value }), &[&format!("`{key}` = `(`"), "no regular"]);
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let name = |layer: &str| format!("base_model.model.model.layers.{layer}");
    check_adapter_config(json!({ "target_modules": ["c_attn"] }), &["c_attn", "q_proj"]);
    check_adapter_config(
        json!({ "target_modules": "all-linear" }),
        &["lacks", &name("0.mlp.gate_proj.lora_A.weight")],
    );
    check_adapter_config(
        json!({ "r": 4 }),
        &[&name("0.self_attn.q_proj.lora_A.weight"), "[8, 64]", "[4, 64]"],
    );
    check_adapter_config(
        json!({ "rank_pattern": { "1.self_attn.q_proj": 4 } }),
        &[&name("1.self_attn.q_proj.lora_A.weight"), "[8, 64]", "[4, 64]"],
    );
    check_adapter_config(
        json!({ "use_dora": true }),
        &["lacks", &name("0.self_attn.q_proj.lora_magnitude_vector")],
    );
    check_adapter_config(json!({ "r": 10_000_000_000_000_usize }), &["[10000000000000, 64]"]);
    check_adapter_config(json!({ "r": 0 }), &["rank", "`0`"]);
    check_adapter_config(json!({ "rank_pattern": { "q_proj": 0 } }), &["rank", "`q_proj`", "`0`"]);
    check_adapter_config(json!({ "lora_alpha": 0 }), &["alpha", "`0`"]);
    check_adapter_config(json!({ "alpha_pattern": { "q_proj": 0 } }), &["alpha `0` of `q_proj`"]);
    check_adapter_config(json!({ "lora_dropout": 1.5 }), &["dropout", "`1.5`"]);
    let fewer = json!({ "target_modules": ["q_proj", "k_proj", "v_proj"] });
    check_adapter_config(fewer, &[&name("0.self_attn.o_proj.lora_A.weight"), "no place"]);
    let excluded = json!({ "exclude_modules": ["layers.1.self_attn.o_proj"] });
    check_adapter_config(excluded, &[&name("1.self_attn.o_proj.lora_A.weight"), "no place"]);
    let more = json!({ "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"] });
    check_adapter_config(more, &["lacks", &name("0.mlp.up_proj.lora_A.weight")]);
    for (module, tensor) in [
        ("embed_tokens", "base_model.model.model.embed_tokens.weight"),
        ("lm_head", "base_model.model.lm_head.weight"),
        ("model.norm", "base_model.model.model.norm.weight"),
    ] {
        check_adapter_config(json!({ "modules_to_save": [module] }), &["lacks", tensor]);
    }
}

/// Loads PEFT's adapter with some of its tensors changed.
#[track_caller]
fn check_adapter_tensors(change: impl Fn(&mut fixture::Tensors), parts: &[&str]) {
    let spoil = |folder: &Path| {
        let path = folder.join("adapter_model.safetensors");
        let mut tensors = read_tensors(&path).unwrap();
        change(&mut tensors);
        write_tensors(&path, &tensors).unwrap();
    };
    check_adapter(spoil, parts);
}

#[test]
fn tensors_that_an_adapter_lacks_or_has_no_place_for_are_named() {
    let name = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight";
    let file = "adapter_model.safetensors";
    check_adapter_tensors(|tensors| drop(tensors.remove(name)), &["lacks", name, file]);
    let renamed = |to: &'static str| {
        move |tensors: &mut fixture::Tensors| {
            let tensor = tensors[name].clone();
            tensors.insert(to.to_owned(), tensor);
        }
    };
    for extra in [
        "base_model.model.model.layers.2.self_attn.k_proj.lora_B.weight",
        "base_model.model.model.layers.1.self_attn.k_proj.lora_magnitude_vector",
        "base_model.model.model.norm.weight",
        // PEFT would put it into the base.
        "base_model.model.model.layers.1.self_attn.k_proj.base_layer.weight",
        "model.layers.1.self_attn.k_proj.lora_B.weight",
    ] {
        check_adapter_tensors(renamed(extra), &[&format!("`{extra}`"), "no place", file]);
    }
    // A table that is part of the file is in force, and has to fit.
    let table = "base_model.model.model.embed_tokens.weight";
    check_adapter_tensors(renamed(table), &[table, "[32, 8]", "[96, 64]", file]);
    // Of a vocabulary that was resized.
    let resized = |tensors: &mut fixture::Tensors| {
        tensors.insert(table.to_owned(), TensorData::new(vec![0_f32; 97 * 64], [97, 64]));
    };
    check_adapter_tensors(resized, &[table, "`97`", "`96`", "resized", file]);
}

#[test]
fn an_adapter_in_pythons_own_format_has_to_be_in_it() {
    let rename = |folder: &Path| {
        let (from, to) = ("adapter_model.safetensors", "adapter_model.bin");
        fs::rename(folder.join(from), folder.join(to)).unwrap();
    };
    check_adapter(rename, &["adapter_model.bin"]);
}

#[test]
fn an_adapter_folder_with_a_missing_or_torn_file_is_named() {
    let remove =
        |name: &'static str| move |folder: &Path| fs::remove_file(folder.join(name)).unwrap();
    check_adapter(remove("adapter_config.json"), &["no `adapter_config.json`"]);
    check_adapter(
        remove("adapter_model.safetensors"),
        &["cannot open", "adapter_model.safetensors"],
    );
    let torn = |name: &'static str| move |folder: &Path| write(&folder.join(name), "{");
    check_adapter(torn("adapter_config.json"), &["adapter_config.json"]);
    check_adapter(torn("adapter_model.safetensors"), &["adapter_model.safetensors", "not a whole"]);
    check_adapter(torn("longlora.json"), &["longlora.json"]);
}

#[test]
fn facts_that_do_not_fit_the_model_are_refused() {
    let with_rope = |rope: Value| {
        move |folder: &Path| {
            let facts = json!({
                "longlora_version": "0.1.0",
                "context_length": 512,
                "training_pattern": "full",
                "rope": rope,
                "rope_offset": null,
            });
            write_json(&folder.join("longlora.json"), &facts);
        }
    };
    let rope = |head_dim: usize, factor: f64| {
        json!({
            "head_dim": head_dim,
            "theta": 10_000.0,
            "max_position_embeddings": 512,
            "scaling": { "kind": "linear", "factor": factor },
        })
    };
    check_adapter(with_rope(rope(8, 4.0)), &["longlora.json", "head_dim", "`8`", "`16`"]);
    check_adapter(with_rope(rope(16, 0.5)), &["longlora.json", "`factor`", "`0.5`"]);
    check_adapter(with_rope(json!(null)), &["longlora.json"]);
}
