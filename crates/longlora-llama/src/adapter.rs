//! Adapter folders as PEFT writes them, with what PEFT has no place for beside it.
//!
//! ```text
//! adapter_config.json         PEFT's: rank, alpha, targets, modules_to_save
//! adapter_model.safetensors   PEFT's: LoRA, norms and embeddings
//! longlora.json               ours: RoPE, attention pattern, training context, kinds of what is trained
//! rope_offsets.safetensors    ours: learnable offsets, if there are any
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use longlora_adapters::{AdapterConfig, LoraConfig, RopeConfig, RopeOffsetConfig, TargetModule};
use longlora_attention::AttentionPattern;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::LlamaError;
use crate::files::{read_tensors, write_atomically, write_tensors};
use crate::llama::Llama;
use crate::parameters::{Selection, collect, restore};

const PEFT_CONFIG: &str = "adapter_config.json";
const PEFT_MODEL: &str = "adapter_model.safetensors";
const OUR_CONFIG: &str = "longlora.json";
const OUR_MODEL: &str = "rope_offsets.safetensors";
const PEFT_PREFIX: &str = "base_model.model.";

/// What an adapter needs to be used as it was trained, and PEFT does not record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFacts {
    /// Version of this program that wrote it.
    pub longlora_version: String,
    /// Tokens of a training window.
    pub context_length: usize,
    /// Pattern of training; inference attends in full unless told otherwise.
    pub training_pattern: AttentionPattern,
    /// Position embedding of training: to be used at inference, too.
    pub rope: RopeConfig,
    /// Learnable offsets, if there are any.
    pub rope_offset: Option<RopeOffsetConfig>,
}

impl AdapterFacts {
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
    let (offsets, tensors): (BTreeMap<_, _>, BTreeMap<_, _>) =
        tensors.into_iter().partition(|(name, _)| name.ends_with(".delta"));
    let tensors =
        tensors.into_iter().map(|(name, tensor)| (format!("{PEFT_PREFIX}{name}"), tensor));
    write_tensors(&folder.join(PEFT_MODEL), &tensors.collect())?;
    if !offsets.is_empty() {
        write_tensors(&folder.join(OUR_MODEL), &offsets)?;
    }
    write_json(&folder.join(OUR_CONFIG), &serde_json::to_value(facts).expect("facts are JSON"))?;
    write_json(&folder.join(PEFT_CONFIG), &peft_config(config, base_model))
}

/// Attaches the adapter of a folder to its base model, ours or PEFT's own.
///
/// Without `longlora.json` the adapter comes from PEFT: the model keeps its own RoPE.
///
/// # Errors
/// [`LlamaError`], naming the file and the tensor or key.
pub fn load_adapter(
    llama: Llama,
    folder: &Path,
) -> Result<(Llama, AdapterConfig, Option<AdapterFacts>), LlamaError> {
    if !folder.join(PEFT_CONFIG).exists() {
        let path = folder.to_owned();
        return Err(LlamaError::NotAModel { path, missing: PEFT_CONFIG });
    }
    let facts = match folder.join(OUR_CONFIG) {
        path if path.exists() => Some(read_json::<AdapterFacts>(&path)?),
        _ => None,
    };
    let offset = facts.as_ref().and_then(|facts| facts.rope_offset);
    let config = read_peft_config(&folder.join(PEFT_CONFIG), offset)?;

    let mut llama = llama;
    if let Some(facts) = &facts {
        facts.check(&llama, &folder.join(OUR_CONFIG))?;
        llama.config.rope = facts.rope.clone();
    }
    let model_path = folder.join(PEFT_MODEL);
    let mut tensors = read_tensors(&model_path)?;
    if offset.is_some() {
        tensors.extend(read_tensors(&folder.join(OUR_MODEL))?);
    }
    let llama = llama.attach(&config, 0);
    let selection = Selection::Adapter(config.clone());
    let llama = restore(llama, &selection, &model_path, |name| {
        take(&mut tensors, name).ok_or_else(|| LlamaError::Missing {
            path: model_path.clone(),
            tensor: format!("{PEFT_PREFIX}{name}"),
        })
    })?;
    match tensors.into_keys().next() {
        None => Ok((llama, config, facts)),
        Some(tensor) => Err(LlamaError::Unused { path: model_path, tensor }),
    }
}

fn take(tensors: &mut BTreeMap<String, TensorData>, name: &str) -> Option<TensorData> {
    tensors.remove(&format!("{PEFT_PREFIX}{name}")).or_else(|| tensors.remove(name))
}

/// What PEFT 0.17 needs to read the adapter.
fn peft_config(config: &AdapterConfig, base_model: &str) -> Value {
    let mut modules_to_save: Vec<&str> = vec![];
    if config.norms {
        modules_to_save.extend(["input_layernorm", "post_attention_layernorm", "norm"]);
    }
    if config.embeddings {
        modules_to_save.push("embed_tokens");
    }
    let lora = config.lora.clone().unwrap_or_default();
    let targets: Vec<&str> = match &config.lora {
        Some(lora) => lora.target_modules.iter().map(|module| module.name()).collect(),
        None => vec![],
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "modules_to_save": if modules_to_save.is_empty() { Value::Null } else { json!(modules_to_save) },
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
    })
}

/// The keys of PEFT's file that change what an adapter computes.
#[derive(Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Vec<String>,
    modules_to_save: Option<Vec<String>>,
    #[serde(default = "no_bias")]
    bias: String,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
}

fn no_bias() -> String {
    "none".to_owned()
}

fn read_peft_config(
    path: &Path,
    rope_offset: Option<RopeOffsetConfig>,
) -> Result<AdapterConfig, LlamaError> {
    let peft: PeftConfig = read_json(path)?;
    peft.refuse_what_we_would_ignore(path)?;
    let adapter = |source| LlamaError::Adapter { path: path.to_owned(), source };
    let targets: Result<Vec<TargetModule>, _> =
        peft.target_modules.iter().map(|name| name.parse()).collect();
    let mut target_modules = targets.map_err(adapter)?;
    target_modules.sort_unstable();
    let saved = peft.modules_to_save.unwrap_or_default();
    let lora = (!target_modules.is_empty()).then_some(LoraConfig {
        rank: peft.r,
        alpha: peft.lora_alpha,
        dropout: peft.lora_dropout,
        target_modules,
    });
    let config = AdapterConfig {
        lora,
        norms: saved.iter().any(|name| name.ends_with("norm")),
        embeddings: saved.iter().any(|name| name == "embed_tokens"),
        rope_offset,
    };
    config.validate().map_err(adapter)?;
    Ok(config)
}

impl PeftConfig {
    fn refuse_what_we_would_ignore(&self, path: &Path) -> Result<(), LlamaError> {
        let refuse = |key, value: String, supported| {
            Err(LlamaError::Unsupported { path: path.to_owned(), key, value, supported })
        };
        if self.peft_type != "LORA" {
            return refuse("peft_type", self.peft_type.clone(), "supported is `LORA`");
        }
        if self.bias != "none" {
            return refuse("bias", self.bias.clone(), "supported is `none`");
        }
        if self.use_rslora {
            return refuse("use_rslora", "true".to_owned(), "supported is `false`");
        }
        if self.use_dora {
            return refuse("use_dora", "true".to_owned(), "supported is `false`");
        }
        // These split the base weights when PEFT attaches them; the other ways only draw A and B.
        let splitting = ["pissa", "olora", "corda", "loftq"];
        if let Value::String(init) = &self.init_lora_weights
            && splitting.iter().any(|name| init.starts_with(name))
        {
            let supported = "let PEFT convert it to a plain LoRA first";
            return refuse("init_lora_weights", init.clone(), supported);
        }
        if let Some((module, rank)) = self.rank_pattern.iter().next() {
            let value = format!("{module}: {rank}");
            return refuse("rank_pattern", value, "supported is one rank for all");
        }
        if let Some((module, alpha)) = self.alpha_pattern.iter().next() {
            let value = format!("{module}: {alpha}");
            return refuse("alpha_pattern", value, "supported is one alpha for all");
        }
        let known = ["input_layernorm", "post_attention_layernorm", "norm", "embed_tokens"];
        let saved = self.modules_to_save.iter().flatten();
        if let Some(module) = saved.into_iter().find(|module| !known.contains(&module.as_str())) {
            let supported = "supported are norms and `embed_tokens`";
            return refuse("modules_to_save", module.clone(), supported);
        }
        Ok(())
    }
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, LlamaError> {
    let text = std::fs::read_to_string(path).map_err(LlamaError::file("read", path))?;
    serde_json::from_str(&text).map_err(|source| LlamaError::Json { path: path.to_owned(), source })
}

fn write_json(path: &Path, value: &Value) -> Result<(), LlamaError> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be printed");
    write_atomically(path, format!("{text}\n").as_bytes())
}
