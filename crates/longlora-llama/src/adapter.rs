//! Adapter folders as PEFT writes them, with what PEFT has no place for beside it.
//!
//! ```text
//! adapter_config.json         PEFT's: rank, alpha, targets, modules_to_save
//! adapter_model.safetensors   PEFT's: LoRA, norms, embeddings and head
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

mod options;
mod tables;
mod targets;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use longlora_adapters::{AdapterConfig, RopeConfig, RopeOffsetConfig};
use longlora_attention::AttentionPattern;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::LlamaError;
use crate::files::{read_tensors, write_atomically, write_tensors};
use crate::llama::Llama;
use crate::modules::{EMBEDDING, HEAD, ModuleKind, NamedModule, named_modules};
use crate::parameters::{Selection, collect, restore};
use options::PeftConfig;

const PEFT_CONFIG: &str = "adapter_config.json";
const PEFT_MODEL: &str = "adapter_model.safetensors";
const PEFT_PICKLE: &str = "adapter_model.bin";
const OUR_CONFIG: &str = "longlora.json";
const OUR_MODEL: &str = "rope_offsets.safetensors";
const PEFT_PREFIX: &str = "base_model.model.";

/// Tensors by their names in a checkpoint.
type Tensors = BTreeMap<String, TensorData>;

/// What an adapter needs to be used as it was trained, and PEFT does not record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFacts {
    /// Version of this program that wrote it.
    pub longlora_version: String,
    /// Tokens that the model is to read at once.
    pub context_length: usize,
    /// Pattern of training; inference attends in full unless told otherwise.
    pub training_pattern: AttentionPattern,
    /// Position embedding of training: to be used at inference, too.
    pub rope: RopeConfig,
    /// Learnable offsets, if there are any.
    pub rope_offset: Option<RopeOffsetConfig>,
}

impl AdapterFacts {
    /// Reads what stands beside an adapter, whose folder is checked to be one; `None` for an adapter of PEFT's own.
    ///
    /// # Errors
    /// [`LlamaError`], if the folder is not that of an adapter, or its `longlora.json` is torn.
    pub fn read(folder: &Path) -> Result<Option<Self>, LlamaError> {
        if !folder.exists() {
            return Err(LlamaError::NoSuchPath { path: folder.to_owned() });
        }
        if !folder.join(PEFT_CONFIG).exists() {
            return Err(LlamaError::NotAnAdapter { path: folder.to_owned() });
        }
        let path = folder.join(OUR_CONFIG);
        // A link to nothing is there, and says that something is missing.
        if path.symlink_metadata().is_ok() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Checks what no tensor would notice.
    fn check(&self, llama: &Llama, path: &Path) -> Result<(), LlamaError> {
        let rope = |source| LlamaError::Rope { path: path.to_owned(), source };
        self.rope.validate().map_err(rope)?;
        let (ours, models) = (self.rope.head_dim, llama.config.rope.head_dim);
        if ours != models {
            let reason = format!("its `rope.head_dim` is `{ours}`, and the model's is `{models}`");
            return Err(LlamaError::Config { path: path.to_owned(), reason });
        }
        Ok(())
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
    base_model: &str,
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
/// Without `longlora.json` the adapter comes from PEFT: the model keeps its own RoPE. A tied head that the adapter
/// parts from the embedding table is untied.
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
        llama.config.rope = facts.rope.clone();
    }
    let modules = named_modules(&llama);
    let mut peft = PeftConfig::read(&folder.join(PEFT_CONFIG), &modules)?;
    let mut tensors = read_peft_tensors(folder)?;
    if facts.is_some() && !peft.saved.contains(HEAD) {
        // Ours from before a tied table was written twice.
        peft.ensure_weight_tying = true;
    }
    let model_path = folder.join(PEFT_MODEL);
    let (embeddings, head) = tables::settle(&mut tensors, &peft, &llama, &model_path)?;
    let rope_offset = facts.as_ref().and_then(|facts| facts.rope_offset);
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
    let llama = fill(llama.attach(&config, 0), &config, tensors, offsets, folder)?;
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
    folder: &Path,
) -> Result<Llama, LlamaError> {
    let (model_path, offset_path) = (folder.join(PEFT_MODEL), folder.join(OUR_MODEL));
    let named = |name: &str| match name.ends_with(".delta") {
        true => (&offset_path, name.to_owned()),
        false => (&model_path, format!("{PEFT_PREFIX}{name}")),
    };
    let selection = Selection::Adapter(config.clone());
    let filled = restore(llama, &selection, &model_path, |name| {
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
    let tensors = tensors.into_keys().map(|name| (&model_path, format!("{PEFT_PREFIX}{name}")));
    match tensors.chain(offsets.into_keys().map(|name| (&offset_path, name))).next() {
        None => Ok(llama),
        Some((path, tensor)) => Err(LlamaError::Unused { path: path.clone(), tensor }),
    }
}

/// The tensors of PEFT's file, without the prefix that all of them have.
fn read_peft_tensors(folder: &Path) -> Result<Tensors, LlamaError> {
    let path = folder.join(PEFT_MODEL);
    if !path.exists() && folder.join(PEFT_PICKLE).exists() {
        return Err(LlamaError::Pickle { path: folder.to_owned() });
    }
    let tensors = read_tensors(&path)?.into_iter().map(|(name, tensor)| {
        match name.strip_prefix(PEFT_PREFIX) {
            Some(name) => Ok((name.to_owned(), tensor)),
            None => Err(LlamaError::Unused { path: path.clone(), tensor: name }),
        }
    });
    tensors.collect()
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
fn peft_config(config: &AdapterConfig, modules: &[NamedModule], base_model: &str) -> Value {
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
    let unless_empty = |names: Value| match &names {
        Value::Array(list) if list.is_empty() => Value::Null,
        _ => names,
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "use_dora": lora.use_dora,
        "target_modules": targets,
        "exclude_modules": unless_empty(json!(lora.exclude_modules)),
        "rank_pattern": lora.rank_pattern,
        "alpha_pattern": lora.alpha_pattern,
        "modules_to_save": unless_empty(json!(modules_to_save)),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
    })
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
