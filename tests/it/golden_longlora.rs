//! Adapters as LongLoRA's own code left them, against what its merging script makes of them.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use longlora_adapters::RopeKind;
use longlora_attention::{AttentionPattern, Layout};
use longlora_llama::{Llama, load_adapter, load_pretrained};
use serde_json::json;
use tempfile::TempDir;

use crate::fixture::{self, Vectors, golden, model_with, read, step_batch, write, write_json};
use crate::gradients::relative_error;
use crate::sentence::check;

const TRAINABLE: &str = "trainable_params.bin";

/// The tiny model with the scaling of the training, which no file of the adapter tells.
fn base(tied: bool) -> Llama {
    let folder = model_with(&golden("tiny/model"), json!({ "tie_word_embeddings": tied }));
    let mut llama = load_pretrained(folder.path(), &Device::default()).unwrap();
    llama.config.rope = llama.config.rope.extended(RopeKind::Linear, 256).unwrap();
    llama
}

fn logits(llama: &Llama, rows: &[Vec<u32>]) -> TensorData {
    let llama = llama.valid();
    let ids = step_batch(rows).micro_batches[0].inputs(&llama.device());
    let [batch, seq] = ids.dims();
    llama.logits(ids, &llama.pass(AttentionPattern::Full, &Layout::dense(batch, seq))).into_data()
}

/// Norms and embeddings go into the base, a tied table in both of its roles, and then comes PEFT's adapter.
#[test]
fn logits_are_those_of_longloras_merging_script() {
    for (name, tied) in [("untied", false), ("tied", true)] {
        let folder = golden(&format!("longlora/{name}"));
        let vectors = Vectors::read(&folder.join("vectors.safetensors"));
        let (llama, config, facts) = load_adapter(base(tied), &folder).unwrap();
        assert_eq!(facts, None, "LongLoRA does not write our file");
        assert!(config.norms && config.embeddings && !config.head, "{name}: {config:?}");
        assert_eq!(llama.lm_head.is_none(), tied, "{name}");
        for (which, llama) in [("logits", llama.clone()), ("logits_merged", llama.merge())] {
            let ours = logits(&llama, &vectors.input_ids());
            let error = relative_error(&ours, vectors.tensor(which));
            assert!(error < 3e-6, "{name}: {which} are off by {error:.2e}");
        }
    }
}

/// A copy of the untied adapter.
fn copied() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.bin", TRAINABLE] {
        fs::copy(golden("longlora/untied").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[track_caller]
fn check_refused(folder: &Path, parts: &[&str]) {
    let error = load_adapter(base(false), folder).expect_err("it should not load");
    let path = folder.display().to_string();
    check(&error, &[parts, &[path.as_str()]].concat());
}

#[test]
fn what_is_no_norm_and_no_table_is_refused_by_its_name() {
    let cases = [
        ("pickles/half.bin", "model.layers.0.mlp.down_proj.weight"),
        (
            "longlora/untied/adapter_model.bin",
            "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight",
        ),
    ];
    for (file, tensor) in cases {
        let folder = copied();
        write(&folder.path().join(TRAINABLE), read(&golden(file)));
        check_refused(folder.path(), &[TRAINABLE, &format!("`{tensor}`"), "no place"]);
    }
    let folder = copied();
    write(&folder.path().join(TRAINABLE), "{");
    check_refused(folder.path(), &[TRAINABLE, "not a whole PyTorch file"]);
}

#[test]
fn a_norm_that_both_files_hold_is_a_contradiction() {
    let folder = copied();
    let path = folder.path().join("adapter_config.json");
    let mut config = fixture::json(&path);
    config["modules_to_save"] = json!(["norm"]);
    write_json(&path, &config);
    let norm = "`model.layers.0.input_layernorm.weight`";
    check_refused(folder.path(), &[TRAINABLE, "adapter_model.bin", "contradicts", norm]);
}

/// As in PEFT; these have another rank than the configuration says.
#[test]
fn safetensors_are_preferred() {
    let folder = copied();
    let name = "adapter_model.safetensors";
    fs::copy(golden("tiny_lora/adapter").join(name), folder.path().join(name)).unwrap();
    check_refused(folder.path(), &[name, "[8, 64]", "[4, 64]"]);
}
