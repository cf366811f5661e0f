//! PEFT's options, against PEFT 0.17.1: its adapters in, ours out, and the same numbers on both sides.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use longlora_adapters::{AdapterConfig, LoraConfig, TargetModule};
use longlora_attention::{AttentionPattern, Layout};
use longlora_llama::{
    AdapterFacts, BaseModel, Llama, MAX_SHARD_BYTES, Selection, collect, load_adapter,
    load_pretrained, read_tensors, restore, save_adapter, save_pretrained, write_tensors,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{self, Tensors, Vectors, golden, model_with, step_batch, write_json};
use crate::gradients::{check_close, of_reference, of_step, relative_error};
use crate::random::{redraw, tokens};
use longlora_train::Execution;

/// The tiny model; tied, its own head is left out, as transformers does.
fn base_folder(tied: bool) -> TempDir {
    model_with(&golden("tiny/model"), json!({ "tie_word_embeddings": tied }))
}

fn base(tied: bool) -> Llama {
    load_pretrained(base_folder(tied).path(), &Device::default().autodiff()).unwrap()
}

/// What PEFT made with one set of options: `tests/golden/peft/make.py`.
struct Case {
    name: &'static str,
    tied: bool,
    llama: Llama,
    config: AdapterConfig,
    vectors: Vectors,
}

impl Case {
    fn load(name: &'static str) -> Self {
        let tied = name.starts_with("tied");
        let (llama, config, facts) = load_adapter(base(tied), &adapter_folder(name)).unwrap();
        assert_eq!(facts, None, "PEFT does not write our file");
        let vectors = Vectors::read(&golden(&format!("peft/{name}/vectors.safetensors")));
        Self { name, tied, llama, config, vectors }
    }

    /// Of the largest logit, 4 to 18 here; PEFT's own differ by 1.2e-6 of it between the adapter and the merged model.
    #[track_caller]
    fn check_logits(&self) {
        for (name, llama) in
            [("logits", self.llama.clone()), ("logits_merged", self.llama.clone().merge())]
        {
            let ours = logits(&llama, &self.vectors.input_ids());
            let error = relative_error(&ours, self.vectors.tensor(name));
            assert!(error < 3e-6, "{}: {name} are off by {error:.2e}", self.name);
        }
    }

    /// The loss and the gradients of all that PEFT trains; we may train more.
    #[track_caller]
    fn check_gradients(&self) {
        let selection = Selection::Adapter(self.config.clone());
        let batch = step_batch(&self.vectors.input_ids());
        let pattern = AttentionPattern::Full;
        let theirs = self.vectors.below("grad.");
        for (path, mut ours) in [
            ("step", of_step(&self.llama, &selection, pattern, &batch, Execution::SMALLEST)),
            ("reference", of_reference(&self.llama, &selection, pattern, &batch)),
        ] {
            let case = format!("{}, {path}", self.name);
            let error = (ours.loss / self.vectors.number("loss") - 1.0).abs();
            assert!(error < 1e-6, "{case}: the loss is off by {error:.2e}");
            ours.gradients.retain(|name, _| theirs.contains_key(name));
            check_close(&ours.gradients, &theirs, 1e-5, &case);
        }
    }

    /// Writes the adapter, and reads it again to the bit.
    #[track_caller]
    fn written(&self) -> Tensors {
        let folder = save(&self.llama, &self.config);
        let (llama, config, _) = load_adapter(base(self.tied), folder.path()).unwrap();
        assert_eq!(config, self.config, "{}", self.name);
        for selection in [Selection::Base, Selection::Adapter(config)] {
            assert_eq!(collect(&llama, &selection), collect(&self.llama, &selection));
        }
        read_tensors(&folder.path().join("adapter_model.safetensors")).unwrap()
    }
}

fn adapter_folder(name: &str) -> std::path::PathBuf {
    golden(&format!("peft/{name}/adapter"))
}

fn logits(llama: &Llama, rows: &[Vec<u32>]) -> TensorData {
    let llama = llama.valid();
    let ids = step_batch(rows).micro_batches[0].inputs(&llama.device());
    let [batch, seq] = ids.dims();
    llama.logits(ids, &llama.pass(AttentionPattern::Full, &Layout::dense(batch, seq))).into_data()
}

fn save(llama: &Llama, config: &AdapterConfig) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let facts = AdapterFacts::new(llama, config, 128, AttentionPattern::Full);
    let base = BaseModel::at(Path::new("tiny/model"));
    save_adapter(llama, config, &facts, &base, folder.path()).unwrap();
    folder
}

fn numbers<T: Copy>(entries: &[(&str, T)]) -> BTreeMap<String, T> {
    entries.iter().map(|&(name, value)| (name.to_owned(), value)).collect()
}

/// Cases in which we train what PEFT trains, tensor by tensor.
const ALIKE: [&str; 8] =
    ["rslora", "dora", "patterns", "regex", "all_linear", "layers", "saved", "tied_both"];
/// Cases in which we train more: all norms instead of some, tables that PEFT only stores.
const WIDER: [&str; 4] = ["saved_some", "tied_embeddings", "resized", "tied_resized"];

#[test]
fn logits_match_peft_before_and_after_merging() {
    ALIKE.into_iter().chain(WIDER).for_each(|name| Case::load(name).check_logits());
}

#[test]
fn losses_and_gradients_match_peft() {
    ALIKE.into_iter().chain(WIDER).for_each(|name| Case::load(name).check_gradients());
}

#[test]
fn adapters_of_peft_are_written_again_tensor_by_tensor() {
    for name in ALIKE {
        let theirs = read_tensors(&adapter_folder(name).join("adapter_model.safetensors")).unwrap();
        assert_eq!(Case::load(name).written(), theirs, "{name}");
    }
}

#[test]
fn where_we_train_more_than_peft_all_of_its_tensors_are_written_again() {
    for name in WIDER {
        let mut ours = Case::load(name).written();
        let theirs = read_tensors(&adapter_folder(name).join("adapter_model.safetensors")).unwrap();
        ours.retain(|name, _| theirs.contains_key(name));
        let inside =
            |name: &str| name.contains("original_module") || name.contains("modules_to_save");
        let theirs: Tensors = theirs.into_iter().filter(|(name, _)| !inside(name)).collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn options_of_peft_become_ours() {
    use TargetModule::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
    let lora = |name| Case::load(name).config.lora.unwrap();
    let plain = LoraConfig { rank: 4, alpha: 6.0, ..LoraConfig::default() };
    let expected = LoraConfig {
        target_modules: vec![QProj, VProj, OProj, GateProj, DownProj],
        exclude_modules: vec!["model.layers.1.mlp.gate_proj".to_owned()],
        use_rslora: true,
        use_dora: true,
        rank_pattern: numbers(&[
            ("model.layers.0.self_attn.q_proj", 2),
            ("model.layers.1.self_attn.v_proj", 5),
            ("down_proj", 3),
        ]),
        alpha_pattern: numbers(&[("o_proj", 3.0), ("q_proj", 5.5)]),
        ..plain.clone()
    };
    assert_eq!(lora("patterns"), expected);
    let in_first = |name: &str| format!("model.layers.0.{name}");
    let expected = LoraConfig {
        target_modules: vec![QProj, KProj, UpProj, DownProj],
        exclude_modules: ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"]
            .map(in_first)
            .to_vec(),
        ..plain.clone()
    };
    assert_eq!(lora("regex"), expected);
    let expected = LoraConfig {
        target_modules: TargetModule::ALL.to_vec(),
        rank_pattern: numbers(&[("up_proj", 1)]),
        ..plain
    };
    assert_eq!(lora("all_linear"), expected);
}

/// Loads the adapter of a case with some of its `adapter_config.json` changed.
fn load_changed(name: &str, changes: Value) -> Llama {
    let folder = tempfile::tempdir().unwrap();
    let mut config = fixture::json(&adapter_folder(name).join("adapter_config.json"));
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    write_json(&folder.path().join("adapter_config.json"), &config);
    let model = "adapter_model.safetensors";
    fixture::write(&folder.path().join(model), fixture::read(&adapter_folder(name).join(model)));
    load_adapter(base(name.starts_with("tied")), folder.path()).unwrap().0
}

/// Ways of saying the same.
#[test]
fn names_words_and_expressions_choose_the_same_layers() {
    for (name, changes) in [
        ("all_linear", json!({ "target_modules": "all-linear" })),
        ("all_linear", json!({ "target_modules": "All-Linear", "exclude_modules": "all-linear" })),
        ("all_linear", json!({ "target_modules": ".*_proj" })),
        ("layers", json!({ "layers_to_transform": 1, "layers_pattern": null })),
        ("layers", json!({ "layers_to_transform": null, "exclude_modules": r".*\.0\..*" })),
        ("saved", json!({ "modules_to_save": ["model.norm", "layernorm", "tokens", "lm_head"] })),
        // What the model does not have means nothing.
        ("saved", json!({ "modules_to_save": ["norm", "embed_tokens", "lm_head", "score"] })),
        ("rslora", json!({ "r": 99, "rank_pattern": { "q_proj": 4, ".*": 4, "v_proj": 1 } })),
        ("rslora", json!({ "eva_config": { "rho": 2.0 }, "init_lora_weights": "eva" })),
        ("dora", json!({ "peft_version": "0.18.0", "arrow_config": null })),
    ] {
        let theirs = Case::load(name);
        let ours = load_changed(name, changes.clone());
        let selection = Selection::Adapter(theirs.config);
        assert_eq!(collect(&ours, &selection), collect(&theirs.llama, &selection), "{changes}");
    }
}

#[test]
fn a_tied_head_is_untied_only_by_a_table_of_its_own() {
    let both = Case::load("tied_both");
    assert!(both.config.embeddings && both.config.head && both.llama.lm_head.is_some());
    let embeddings = Case::load("tied_embeddings");
    let head = embeddings.llama.lm_head.as_ref().unwrap().weight.val().transpose().into_data();
    assert_eq!(
        head,
        base(true).model.embed_tokens.weight.val().into_data(),
        "PEFT leaves it there"
    );

    let merged = tempfile::tempdir().unwrap();
    let ours = both.llama.clone().merge();
    save_pretrained(&ours, merged.path(), burn::tensor::DType::F32, MAX_SHARD_BYTES).unwrap();
    let again = load_pretrained(merged.path(), &Device::default()).unwrap();
    assert!(!again.config.tie_word_embeddings);
    let rows = both.vectors.input_ids();
    assert_eq!(logits(&again, &rows), logits(&ours, &rows));
}

/// PEFT 0.18 can tie what 0.17 parts.
#[test]
fn ensured_ties_hold() {
    let tied = load_changed("tied_embeddings", json!({ "ensure_weight_tying": true }));
    assert!(tied.lm_head.is_none());
    let table = tied.model.embed_tokens.weight.val().into_data();
    let theirs = Case::load("tied_embeddings").llama.model.embed_tokens.weight.val().into_data();
    assert_eq!(table, theirs);
}

/// Told to save embeddings, too, PEFT writes the trained table as the head's, and that of the base.
#[test]
fn ensured_ties_hold_whatever_else_is_saved() {
    let theirs = adapter_folder("tied_embeddings");
    let folder = tempfile::tempdir().unwrap();
    let mut config = fixture::json(&theirs.join("adapter_config.json"));
    config["ensure_weight_tying"] = true.into();
    write_json(&folder.path().join("adapter_config.json"), &config);
    let model = "adapter_model.safetensors";
    let mut tensors = read_tensors(&theirs.join(model)).unwrap();
    let (head, embed) = ("base_model.model.lm_head", "base_model.model.model.embed_tokens");
    let table = tensors[&format!("{embed}.weight")].clone();
    let of_base = base(true).model.embed_tokens.weight.val().into_data();
    for module in [head, embed] {
        tensors.insert(format!("{module}.weight"), table.clone());
        tensors.insert(format!("{module}.modules_to_save.weight"), table.clone());
        tensors.insert(format!("{module}.original_module.weight"), of_base.clone());
    }
    // And what old versions of transformers had among the weights.
    let computed = "base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq";
    tensors.insert(computed.to_owned(), TensorData::new(vec![1_f32; 8], [8]));
    write_tensors(&folder.path().join(model), &tensors).unwrap();

    let (llama, config, _) = load_adapter(base(true), folder.path()).unwrap();
    assert!(config.embeddings && !config.head && llama.lm_head.is_none());
    assert_eq!(llama.model.embed_tokens.weight.val().into_data(), table);
}

/// PEFT calls them integers, and so do readers in languages with types.
#[test]
fn whole_alphas_are_written_as_whole_numbers() {
    let (_, tied, config) = ours().into_iter().find(|(name, ..)| *name == "patterns").unwrap();
    let folder = save(&drawn(tied, &config, 5), &config);
    let peft = fixture::json(&folder.path().join("adapter_config.json"));
    assert_eq!(peft["lora_alpha"].to_string(), "4");
    let alphas = peft["alpha_pattern"].as_object().unwrap().values();
    let mut alphas: Vec<String> = alphas.map(Value::to_string).collect();
    alphas.sort();
    assert_eq!(alphas, ["1.5", "9"]);
}

/// Before, a tied table was written once, as the embeddings.
#[test]
fn an_older_adapter_of_ours_keeps_its_table_in_both_roles() {
    let (_, tied, config) =
        ours().into_iter().find(|(name, ..)| *name == "longlora, tied").unwrap();
    let llama = drawn(tied, &config, 3);
    let folder = save(&llama, &config);
    let path = folder.path().join("adapter_config.json");
    let mut peft = fixture::json(&path);
    let saved = peft["modules_to_save"].as_array_mut().unwrap();
    saved.retain(|module| module != "lm_head");
    write_json(&path, &peft);
    let path = folder.path().join("adapter_model.safetensors");
    let mut tensors = read_tensors(&path).unwrap();
    tensors.remove("base_model.model.lm_head.weight").unwrap();
    write_tensors(&path, &tensors).unwrap();

    let (loaded, loaded_config, _) = load_adapter(base(tied), folder.path()).unwrap();
    assert_eq!(loaded_config, config);
    assert!(loaded.lm_head.is_none());
    let rows = [tokens(20, 96, 3)];
    assert_eq!(logits(&loaded, &rows), logits(&llama, &rows));
}

#[test]
fn two_tables_where_there_is_one_are_a_contradiction() {
    let folder = tempfile::tempdir().unwrap();
    for (name, changes) in [
        ("tied_resized", json!({})),
        ("tied_both", json!({ "modules_to_save": null })),
        ("tied_both", json!({ "ensure_weight_tying": true })),
    ] {
        let mut config = fixture::json(&adapter_folder(name).join("adapter_config.json"));
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        write_json(&folder.path().join("adapter_config.json"), &config);
        let mut tensors =
            read_tensors(&adapter_folder(name).join("adapter_model.safetensors")).unwrap();
        let table = tensors["base_model.model.model.embed_tokens.weight"].clone();
        if name == "tied_resized" {
            tensors.insert("base_model.model.lm_head.weight".to_owned(), table);
        }
        write_tensors(&folder.path().join("adapter_model.safetensors"), &tensors).unwrap();
        let error = load_adapter(base(true), folder.path()).unwrap_err().to_string();
        for part in ["adapter_model.safetensors", "contradicts", "`lm_head.weight`"] {
            assert!(error.contains(part), "{name}: {error}");
        }
        let of_base = error.contains("`model.embed_tokens.original_module.weight`");
        assert_eq!(of_base, name == "tied_resized", "{name}: {error}");
    }
}

/// Adapters of every kind, none of them fresh, for a model whose head is tied or not.
fn ours() -> Vec<(&'static str, bool, AdapterConfig)> {
    let nothing = AdapterConfig {
        lora: None,
        norms: false,
        embeddings: false,
        head: false,
        rope_offset: None,
    };
    let lora = LoraConfig { rank: 3, alpha: 4.0, ..LoraConfig::default() };
    let with = |lora| AdapterConfig { lora: Some(lora), ..nothing.clone() };
    let longlora = AdapterConfig { norms: true, embeddings: true, ..with(lora.clone()) };
    let patterns = LoraConfig {
        target_modules: TargetModule::ALL.to_vec(),
        exclude_modules: vec!["layers.0.mlp.up_proj".to_owned(), "k_proj".to_owned()],
        rank_pattern: numbers(&[("q_proj", 2), ("layers.1.self_attn.q_proj", 5)]),
        alpha_pattern: numbers(&[("mlp.down_proj", 1.5), ("layers.0.self_attn.v_proj", 9.0)]),
        use_rslora: true,
        use_dora: true,
        ..lora.clone()
    };
    vec![
        ("plain", false, with(lora.clone())),
        ("rslora", false, with(LoraConfig { use_rslora: true, ..lora.clone() })),
        ("dora", false, with(LoraConfig { use_dora: true, ..lora })),
        ("patterns", false, with(patterns.clone())),
        ("norms", false, AdapterConfig { norms: true, ..nothing.clone() }),
        ("longlora", false, longlora.clone()),
        ("longlora, tied", true, longlora.clone()),
        ("head", false, AdapterConfig { head: true, ..longlora.clone() }),
        ("head, untied", true, AdapterConfig { head: true, ..longlora }),
        ("only a head, untied", true, AdapterConfig { head: true, ..nothing.clone() }),
        ("all", true, AdapterConfig { norms: true, embeddings: true, ..with(patterns) }),
    ]
}

/// The base with an adapter that is drawn at random.
fn drawn(tied: bool, config: &AdapterConfig, seed: u64) -> Llama {
    let selection = Selection::Adapter(config.clone());
    let adapter = collect(&redraw(base(tied).attach(config, seed), seed), &selection);
    let attached = base(tied).attach(config, seed);
    restore(attached, &selection, Path::new("drawn"), |name| Ok(adapter[name].clone())).unwrap()
}

#[test]
fn adapters_of_ours_are_read_again_to_the_bit() {
    for (seed, (name, tied, config)) in (0..).zip(ours()) {
        let llama = drawn(tied, &config, seed);
        let folder = save(&llama, &config);
        let (loaded, _, _) = load_adapter(base(tied), folder.path()).unwrap();
        let rows = [tokens(20, 96, seed)];
        assert_eq!(logits(&loaded, &rows), logits(&llama, &rows), "{name}");
        assert_eq!(loaded.lm_head.is_some(), llama.lm_head.is_some(), "{name}");
    }
}

/// The other direction: PEFT itself reads what we write. `LONGLORA_PEFT_PYTHON` is a Python that has it.
#[test]
fn adapters_of_ours_are_what_they_are_in_peft() {
    let Some(python) = std::env::var_os("LONGLORA_PEFT_PYTHON") else {
        writeln!(
            std::io::stderr(),
            "skipped: adapters_of_ours_are_what_they_are_in_peft: LONGLORA_PEFT_PYTHON is unset"
        )
        .unwrap();
        return;
    };
    let script = golden("../interop/peft_check.py");
    for (seed, (name, tied, config)) in (0..).zip(ours()) {
        let llama = drawn(tied, &config, seed);
        let (model, adapter) = (base_folder(tied), save(&llama, &config));
        let rows = [tokens(20, 96, seed)];
        let ids = adapter.path().join("ids.json");
        write_json(&ids, &json!(rows));
        for merge in [None, Some("--merge")] {
            let output = Command::new(&python)
                .arg(&script)
                .args([model.path(), adapter.path(), &ids])
                .args(merge)
                .output()
                .unwrap();
            let theirs: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| panic!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
            let theirs: Vec<Vec<Vec<f32>>> =
                serde_json::from_value(theirs["logits"].clone()).unwrap();
            let ours = logits(&llama, &rows);
            let theirs = TensorData::new(theirs.concat().concat(), ours.shape().clone());
            let error = relative_error(&ours, &theirs);
            writeln!(
                std::io::stderr(),
                "{name}, {}: off by {error:.2e}",
                merge.unwrap_or("beside")
            )
            .unwrap();
            assert!(error < 1e-5, "{name}: off by {error:.2e}");
        }
    }
}
