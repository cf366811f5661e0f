//! Adapter folders as PEFT writes them, with what PEFT has no place for beside it.
//!
//! ```text
//! adapter_config.json         PEFT's: rank, alpha, targets, modules_to_save
//! adapter_model.safetensors   PEFT's: LoRA, norms, embeddings and head; or adapter_model.bin, of older ones
//! trainable_params.bin        LongLoRA's own code's: norms and embeddings; read and never written
//! longlora.json               ours: RoPE, attention pattern, training context, kinds of what is trained
//! rope_offsets.safetensors    ours: learnable offsets, if there are any
//! ```
//!
//! Read is what PEFT 0.17 and 0.18 write for LoRA, rsLoRA and DoRA: every option that changes what is computed has the
//! meaning that it has there, or is refused by name. Written is what they read, and they compute what we do.
//!
//! Where the head of a model is its embedding table, PEFT trains and stores the two apart: an embedding that is saved
//! without the head leaves the head on the old table. So we write a trained table that is tied under both names, and
//! read two equal tables as one that is tied.

mod facts;
mod files;
mod options;
mod tables;
mod targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use longlora_adapters::AdapterConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::LlamaError;
use crate::files::{read_tensors, write_atomically, write_tensors};
use crate::llama::Llama;
use crate::modules::{EMBEDDING, HEAD, ModuleKind, NamedModule, named_modules};
use crate::parameters::{Selection, collect, restore};
use files::PEFT_MODEL;
use options::PeftConfig;

pub use facts::AdapterFacts;

const PEFT_CONFIG: &str = "adapter_config.json";
const OUR_CONFIG: &str = "longlora.json";
const OUR_MODEL: &str = "rope_offsets.safetensors";
const PEFT_PREFIX: &str = "base_model.model.";

/// Tensors by their names in a checkpoint.
type Tensors = BTreeMap<String, TensorData>;

/// How an adapter names the model that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseModel {
    /// `OWNER/NAME` of a model of the Hugging Face hub, or a path.
    pub name: String,
    /// The commit of a model of the hub, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
}

impl BaseModel {
    /// A folder or a file. PEFT takes any string; Python's `AutoPeftModel` opens folders and names of the hub alone.
    pub fn at(path: &Path) -> Self {
        Self { name: path.display().to_string(), revision: None }
    }
}

/// Writes the adapter of `llama` into a folder.
///
/// # Errors
/// [`LlamaError`], if the disk refuses.
pub fn save_adapter(
    llama: &Llama,
    config: &AdapterConfig,
    facts: &AdapterFacts,
    base_model: &BaseModel,
    folder: &Path,
) -> Result<(), LlamaError> {
    std::fs::create_dir_all(folder).map_err(LlamaError::file("create", folder))?;
    let tensors = collect(llama, &Selection::Adapter(config.clone()));
    let (offsets, mut tensors): (Tensors, Tensors) =
        tensors.into_iter().partition(|(name, _)| name.ends_with(".delta"));
    let both_roles = config.embeddings && llama.lm_head.is_none();
    if both_roles {
        let table = tensors[&weight_of(EMBEDDING)].clone();
        tensors.insert(weight_of(HEAD), table);
    }
    let tensors =
        tensors.into_iter().map(|(name, tensor)| (format!("{PEFT_PREFIX}{name}"), tensor));
    write_tensors(&folder.join(PEFT_MODEL), &tensors.collect())?;
    if !offsets.is_empty() {
        write_tensors(&folder.join(OUR_MODEL), &offsets)?;
    }
    write_json(&folder.join(OUR_CONFIG), &serde_json::to_value(facts).expect("facts are JSON"))?;
    let saved = AdapterConfig { head: config.head || both_roles, ..config.clone() };
    write_json(&folder.join(PEFT_CONFIG), &peft_config(&saved, &named_modules(llama), base_model))
}

/// Attaches the adapter of a folder to its base model, ours or PEFT's own.
///
/// Without `longlora.json` the adapter comes from PEFT, or from LongLoRA's own code: the model keeps its own RoPE, which the
/// caller may have stretched. A tied head that the adapter parts from the embedding table is untied.
///
/// # Panics
/// If the model has an adapter already: see [`Llama::attach`].
///
/// # Errors
/// [`LlamaError`], naming the file and the tensor or key.
pub fn load_adapter(
    llama: Llama,
    folder: &Path,
) -> Result<(Llama, AdapterConfig, Option<AdapterFacts>), LlamaError> {
    let facts = AdapterFacts::read(folder)?;
    let mut llama = llama;
    if let Some(facts) = &facts {
        facts.check(&llama, &folder.join(OUR_CONFIG))?;
        llama.config.rope = facts.rope().clone();
    }
    let modules = named_modules(&llama);
    let mut peft = PeftConfig::read(&folder.join(PEFT_CONFIG), &modules)?;
    let (model_path, mut tensors) = files::read_peft(folder)?;
    files::check_vocabulary(&tensors, &modules, &model_path)?;
    let both = (folder, model_path.as_path());
    files::add_trainable(&mut tensors, &mut peft, &llama, &modules, both)?;
    if facts.is_some() && !peft.saved.contains(HEAD) {
        // Ours from before a tied table was written twice.
        peft.ensure_weight_tying = true;
    }
    let (embeddings, head) = tables::settle(&mut tensors, &peft, &llama, &model_path)?;
    let rope_offset = facts.as_ref().and_then(AdapterFacts::rope_offset);
    let norms = keep_other_norms(&mut tensors, &peft, &llama, &modules);
    let config = AdapterConfig { lora: peft.lora, norms, embeddings, head, rope_offset };
    config
        .validate()
        .map_err(|source| LlamaError::Adapter { path: folder.join(PEFT_CONFIG), source })?;
    llama.config.check_adapters(&config)?;
    check_ranks(&tensors, &config, &modules, &model_path)?;
    let offsets = match rope_offset {
        Some(_) => read_tensors(&folder.join(OUR_MODEL))?,
        None => Tensors::new(),
    };
    let paths = (model_path, folder.join(OUR_MODEL));
    let llama = fill(llama.attach(&config, 0), &config, tensors, offsets, &paths)?;
    Ok((llama, config, facts))
}

/// Checks that the file has the ranks that its configuration speaks of, before there is memory for them.
fn check_ranks(
    tensors: &Tensors,
    config: &AdapterConfig,
    modules: &[NamedModule],
    path: &Path,
) -> Result<(), LlamaError> {
    let Some(lora) = &config.lora else { return Ok(()) };
    for module in modules.iter().filter(|module| module.kind == ModuleKind::Linear) {
        let Some(update) = lora.of(&module.name) else { continue };
        let name = format!("{}.lora_A.weight", module.name);
        let (path, tensor) = (path.to_owned(), format!("{PEFT_PREFIX}{name}"));
        let needed = vec![update.rank, module.shape[1]];
        match tensors.get(&name).map(|tensor| tensor.shape().to_vec()) {
            None => return Err(LlamaError::Missing { path, tensor }),
            Some(found) if found != needed => {
                return Err(LlamaError::Shape { path, tensor, found, needed });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Puts the tensors of both files in their places; each has to have one, and each place its tensor.
fn fill(
    llama: Llama,
    config: &AdapterConfig,
    mut tensors: Tensors,
    mut offsets: Tensors,
    (model_path, offset_path): &(PathBuf, PathBuf),
) -> Result<Llama, LlamaError> {
    let named = |name: &str| match name.ends_with(".delta") {
        true => (offset_path, name.to_owned()),
        false => (model_path, format!("{PEFT_PREFIX}{name}")),
    };
    let selection = Selection::Adapter(config.clone());
    let filled = restore(llama, &selection, model_path, |name| {
        tensors.remove(name).or_else(|| offsets.remove(name)).ok_or_else(|| {
            let (path, tensor) = named(name);
            LlamaError::Missing { path: path.clone(), tensor }
        })
    });
    let llama = filled.map_err(|error| match error {
        LlamaError::Shape { tensor, found, needed, .. } => {
            let (path, tensor) = named(&tensor);
            LlamaError::Shape { path: path.clone(), tensor, found, needed }
        }
        other => other,
    })?;
    let tensors = tensors.into_keys().map(|name| (model_path, format!("{PEFT_PREFIX}{name}")));
    match tensors.chain(offsets.into_keys().map(|name| (offset_path, name))).next() {
        None => Ok(llama),
        Some((path, tensor)) => Err(LlamaError::Unused { path: path.clone(), tensor }),
    }
}

/// Whether norms are trained. PEFT may save some of them, we all or none: the others get the values that they have.
fn keep_other_norms(
    tensors: &mut Tensors,
    peft: &PeftConfig,
    llama: &Llama,
    modules: &[NamedModule],
) -> bool {
    let norms = modules.iter().filter(|module| module.kind == ModuleKind::Norm);
    let (saved, others): (Vec<_>, Vec<_>) =
        norms.partition(|module| peft.saved.contains(&module.name));
    if saved.is_empty() {
        return false;
    }
    let all = AdapterConfig {
        lora: None,
        norms: true,
        embeddings: false,
        head: false,
        rope_offset: None,
    };
    let mut own = collect(llama, &Selection::Adapter(all));
    for name in others.into_iter().map(|module| weight_of(&module.name)) {
        if let Some(weight) = own.remove(&name) {
            tensors.entry(name).or_insert(weight);
        }
    }
    true
}

/// What PEFT 0.17 needs to read the adapter.
fn peft_config(config: &AdapterConfig, modules: &[NamedModule], base_model: &BaseModel) -> Value {
    let mut modules_to_save: Vec<&str> = vec![];
    if config.norms {
        modules_to_save.extend(["input_layernorm", "post_attention_layernorm", "norm"]);
    }
    if config.embeddings {
        modules_to_save.push("embed_tokens");
    }
    if config.head {
        modules_to_save.push("lm_head");
    }
    let described = config.lora.as_ref().map(|lora| targets::described(lora, modules));
    let lora = described.clone().unwrap_or_default();
    let targets = match &described {
        Some(lora) => json!(lora.target_modules),
        None => json!(targets::NO_TARGETS),
    };
    let alpha_pattern: Map<String, Value> =
        lora.alpha_pattern.iter().map(|(name, &alpha)| (name.clone(), whole(alpha))).collect();
    let unless_empty = |names: Value| match &names {
        Value::Array(list) if list.is_empty() => Value::Null,
        _ => names,
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model.name,
        "revision": base_model.revision,
        "r": lora.rank,
        "lora_alpha": whole(lora.alpha),
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "target_modules": targets,
        "exclude_modules": unless_empty(json!(lora.exclude_modules)),
        "rank_pattern": lora.rank_pattern,
        "alpha_pattern": alpha_pattern,
        "modules_to_save": unless_empty(json!(modules_to_save)),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
    })
}

/// A whole number as one: PEFT calls every alpha an integer, and readers with types refuse `16.0`.
fn whole(number: f64) -> Value {
    // Up to here every whole number is one.
    const EXACT: f64 = (1_u64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        json!(number as i64)
    } else {
        json!(number)
    }
}

fn weight_of(module: &str) -> String {
    format!("{module}.weight")
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, LlamaError> {
    let text = std::fs::read_to_string(path).map_err(LlamaError::file("read", path))?;
    serde_json::from_str(&text).map_err(|source| LlamaError::Json { path: path.to_owned(), source })
}

fn write_json(path: &Path, value: &Value) -> Result<(), LlamaError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be printed");
    write_atomically(path, format!("{text}\n").as_bytes())
}
