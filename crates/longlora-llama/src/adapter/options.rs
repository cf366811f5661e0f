//! PEFT's `adapter_config.json`: every option that changes what is computed, taken as PEFT takes it or refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use fancy_regex::Regex;
use longlora_adapters::LoraConfig;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::targets::{self, ALL_LINEAR, Layers, NO_TARGETS, Names, Targets};
use crate::error::LlamaError;
use crate::modules::{ModuleKind, NamedModule};

/// What an adapter's configuration says of a certain model.
pub(super) struct PeftConfig {
    /// `None`, if nothing gets an update.
    pub(super) lora: Option<LoraConfig>,
    /// The modules that `modules_to_save` means.
    pub(super) saved: BTreeSet<String>,
    /// Whether a tied head stays tied to a saved embedding; PEFT knows it since 0.18.
    pub(super) ensure_weight_tying: bool,
}

/// Options that change the computation when they are on, and that we do not have.
const REFUSED: [&str; 9] = [
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "megatron_config",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
];

/// Options that say where an adapter comes from and how it began.
const IGNORED: [&str; 11] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

impl PeftConfig {
    /// Reads the file for a model with these modules.
    pub(super) fn read(path: &Path, modules: &[NamedModule]) -> Result<Self, LlamaError> {
        let text = std::fs::read_to_string(path).map_err(LlamaError::file("read", path))?;
        let json = |source| LlamaError::Json { path: path.to_owned(), source };
        let mut options = Options { path, map: serde_json::from_str(&text).map_err(json)? };
        options.refuse_other_methods()?;
        let saved = options.saved(modules)?;
        let ensure_weight_tying = options.flag("ensure_weight_tying")?;
        let lora = options.lora(modules, &saved, &text)?;
        options.refuse_unknown()?;
        Ok(Self { lora, saved, ensure_weight_tying })
    }
}

/// Patterns with the values of the layers that they fit.
type PatternList<T> = Vec<(Regex, T)>;

type Numbers<T> = BTreeMap<String, T>;

/// The options that have not been taken yet.
struct Options<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrSeveral<T> {
    One(T),
    Several(Vec<T>),
}

impl<T> OneOrSeveral<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Several(several) => several,
        }
    }
}

impl Options<'_> {
    /// An option, which then counts as read; `null` is none.
    fn take<T: for<'a> Deserialize<'a>>(
        &mut self,
        key: &'static str,
        needed: &'static str,
    ) -> Result<Option<T>, LlamaError> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::deserialize(&value) {
                Ok(taken) => Ok(Some(taken)),
                Err(_) => {
                    let path = self.path.to_owned();
                    Err(LlamaError::OptionType { path, key, value: value.to_string(), needed })
                }
            },
        }
    }

    fn flag(&mut self, key: &'static str) -> Result<bool, LlamaError> {
        Ok(self.take(key, "`true` or `false`")?.unwrap_or_default())
    }

    fn refusal(&self, key: &'static str, value: String, supported: &'static str) -> LlamaError {
        LlamaError::Unsupported { path: self.path.to_owned(), key, value, supported }
    }

    /// Takes a word; any but `known` is refused.
    fn only(&mut self, key: &'static str, known: &'static str) -> Result<bool, LlamaError> {
        match self.take::<String>(key, "a word")? {
            None => Ok(false),
            Some(word) if word == known => Ok(true),
            Some(word) => {
                let supported = match key {
                    "peft_type" => "supported is `LORA`",
                    "task_type" => "supported is `CAUSAL_LM`",
                    _ => "supported is `none`",
                };
                Err(self.refusal(key, word, supported))
            }
        }
    }

    /// Whatever is no LoRA, rsLoRA or DoRA of linear layers.
    fn refuse_other_methods(&mut self) -> Result<(), LlamaError> {
        if !self.only("peft_type", "LORA")? {
            return Err(self.refusal("peft_type", "null".to_owned(), "supported is `LORA`"));
        }
        self.only("task_type", "CAUSAL_LM")?;
        self.only("bias", "none")?;
        for key in REFUSED {
            if let Some(value) = self.map.remove(key)
                && !is_off(&value)
            {
                return Err(self.refusal(key, shown(&value), "supported is the option left out"));
            }
        }
        for key in IGNORED {
            self.map.remove(key);
        }
        self.refuse_changed_bases()
    }

    /// These change the base weights when PEFT attaches them; the other ways only draw A and B.
    fn refuse_changed_bases(&mut self) -> Result<(), LlamaError> {
        let init = self.map.remove("init_lora_weights").unwrap_or_default();
        if init.is_null()
            || init.is_boolean()
            || ["gaussian", "eva", "orthogonal"].contains(&shown(&init).as_str())
        {
            return Ok(());
        }
        let supported = "let PEFT convert it to a plain LoRA first";
        Err(self.refusal("init_lora_weights", shown(&init), supported))
    }

    /// An option that is on and that nobody has asked for.
    fn refuse_unknown(self) -> Result<(), LlamaError> {
        match self.map.into_iter().find(|(_, value)| !is_off(value)) {
            None => Ok(()),
            Some((key, value)) => {
                let path = self.path.to_owned();
                Err(LlamaError::UnknownOption { path, key, value: shown(&value) })
            }
        }
    }

    /// The modules that `modules_to_save` means: those whose path ends with one of its entries, letter by letter. An entry
    /// that fits nothing means nothing, as in PEFT.
    fn saved(&mut self, modules: &[NamedModule]) -> Result<BTreeSet<String>, LlamaError> {
        let key = "modules_to_save";
        let entries: Vec<String> = self.take(key, "a list of names")?.unwrap_or_default();
        let mut saved = BTreeSet::new();
        for entry in entries {
            let fits = |name: &str| !entry.is_empty() && name.ends_with(&entry);
            let mut named = modules.iter().filter(|module| fits(&module.name)).peekable();
            // `layers.0` would save everything in it.
            let parent = modules.iter().any(|module| {
                module.name.match_indices('.').any(|(dot, _)| fits(&module.name[..dot]))
            });
            let ours = |module: &NamedModule| {
                use ModuleKind::{Embedding, Head, Norm};
                matches!(module.kind, Norm | Embedding | Head)
            };
            if named.peek().is_none() && !parent && !entry.is_empty() {
                tracing::warn!(
                    "`{key}` of the adapter names `{entry}`, which the model does not have"
                );
                continue;
            }
            // PEFT takes an empty name for the whole model.
            if parent || entry.is_empty() || !named.clone().all(ours) {
                let supported = "supported are norms, `embed_tokens` and `lm_head`";
                return Err(self.refusal(key, entry, supported));
            }
            saved.extend(named.map(|module| module.name.clone()));
        }
        Ok(saved)
    }

    /// The updates of the model's layers.
    fn lora(
        &mut self,
        modules: &[NamedModule],
        saved: &BTreeSet<String>,
        text: &str,
    ) -> Result<Option<LoraConfig>, LlamaError> {
        let common = LoraConfig {
            // Where PEFT's defaults are not LongLoRA's.
            rank: self.take("r", "a whole number")?.unwrap_or(8),
            alpha: self.take("lora_alpha", "a number")?.unwrap_or(8.0),
            dropout: self.take("lora_dropout", "a number")?.unwrap_or(0.0),
            use_rslora: self.flag("use_rslora")?,
            use_dora: self.flag("use_dora")?,
            ..LoraConfig::default()
        };
        let patterns = self.patterns(text)?;
        let named = self.map.get("target_modules").map(shown).unwrap_or("null".to_owned());
        let Some(targets) = self.targets()? else { return Ok(None) };
        let mut updates = vec![];
        for module in modules.iter().filter(|module| module.kind != ModuleKind::Norm) {
            let adapted = !saved.contains(&module.name) && targets.contain(module);
            if adapted && module.kind != ModuleKind::Linear {
                let supported = "supported are the linear layers of the blocks";
                return Err(self.refusal("target_modules", module.name.clone(), supported));
            }
            let rank = || targets::first_match(&patterns.0, &module.name).unwrap_or(common.rank);
            let alpha = || targets::first_match(&patterns.1, &module.name).unwrap_or(common.alpha);
            updates.push((module.name.as_str(), adapted.then(|| (rank(), alpha()))));
        }
        if updates.iter().all(|(_, update)| update.is_none()) {
            let supported = "it names no linear layer of this model's blocks, like `q_proj`";
            return Err(self.refusal("target_modules", named, supported));
        }
        let described = targets::describe(&common, &updates);
        let adapter = |source| LlamaError::Adapter { path: self.path.to_owned(), source };
        described.map(Some).map_err(adapter)
    }

    /// `rank_pattern` and `alpha_pattern`, in the order of the file.
    fn patterns(
        &mut self,
        text: &str,
    ) -> Result<(PatternList<usize>, PatternList<f64>), LlamaError> {
        self.take::<Numbers<usize>>("rank_pattern", "an object of names and whole numbers")?;
        self.take::<Numbers<f64>>("alpha_pattern", "an object of names and numbers")?;
        let json = |source| LlamaError::Json { path: self.path.to_owned(), source };
        let patterns: Patterns = serde_json::from_str(text).map_err(json)?;
        Ok((
            self.compiled("rank_pattern", patterns.rank_pattern)?,
            self.compiled("alpha_pattern", patterns.alpha_pattern)?,
        ))
    }

    fn compiled<T>(
        &self,
        key: &'static str,
        entries: Option<Entries<T>>,
    ) -> Result<PatternList<T>, LlamaError> {
        let entries = entries.map(|entries| entries.0).unwrap_or_default().into_iter();
        let compiled = entries.map(|(pattern, value)| match targets::ending(&pattern) {
            Some(regex) => Ok((regex, value)),
            None => Err(self.refusal(key, pattern, NO_REGEX)),
        });
        compiled.collect()
    }

    /// `None`, if the adapter is said to have no LoRA.
    fn targets(&mut self) -> Result<Option<Targets>, LlamaError> {
        let key = "target_modules";
        let names = match self.take::<OneOrSeveral<String>>(key, NAMES)? {
            None => {
                let supported = "save the adapter with the names that PEFT chose";
                return Err(self.refusal(key, "null".to_owned(), supported));
            }
            Some(OneOrSeveral::One(word)) if word == NO_TARGETS => None,
            Some(OneOrSeveral::Several(names)) if names.is_empty() => None,
            Some(OneOrSeveral::One(word)) if word.eq_ignore_ascii_case(ALL_LINEAR) => {
                Some(Names::AllLinear)
            }
            Some(names) => Some(self.names(key, names)?),
        };
        let excluded = match self.take("exclude_modules", NAMES)? {
            Some(names) => Some(self.names("exclude_modules", names)?),
            None => None,
        };
        let layers = self.layers()?;
        let Some(names) = names else { return Ok(None) };
        if let (Names::Regex(_) | Names::AllLinear, Some(layers)) = (&names, &layers) {
            let value = format!("{:?}", layers.indices);
            let supported = "PEFT takes it only beside a list of `target_modules`";
            return Err(self.refusal("layers_to_transform", value, supported));
        }
        Ok(Some(Targets { names, excluded, layers }))
    }

    fn names(&self, key: &'static str, names: OneOrSeveral<String>) -> Result<Names, LlamaError> {
        match names {
            OneOrSeveral::Several(names) => Ok(Names::Several(names.into_iter().collect())),
            OneOrSeveral::One(pattern) => {
                Names::regex(&pattern).ok_or_else(|| self.refusal(key, pattern, NO_REGEX))
            }
        }
    }

    fn layers(&mut self) -> Result<Option<Layers>, LlamaError> {
        let key = "layers_to_transform";
        let indices: Option<OneOrSeveral<usize>> = self.take(key, "a list of whole numbers")?;
        let indices = indices.map(OneOrSeveral::into_vec).unwrap_or_default();
        let key = "layers_pattern";
        let names: Option<OneOrSeveral<String>> = self.take(key, NAMES)?;
        let mut names = names.map(OneOrSeveral::into_vec).unwrap_or_default();
        names.retain(|name| !name.is_empty());
        if names.is_empty() {
            names.push("[^.]*".to_owned());
        }
        let patterns = names.into_iter().map(|name| {
            Layers::pattern(&name).ok_or_else(|| self.refusal(key, name.clone(), NO_REGEX))
        });
        let patterns = patterns.collect::<Result<_, _>>()?;
        Ok((!indices.is_empty()).then_some(Layers { indices, patterns }))
    }
}

const NAMES: &str = "a list of names, or a regular expression";
const NO_REGEX: &str = "it is no regular expression that can be read here";

/// Off are `null`, `false` and whatever is empty.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(word) => word.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(word) => word.clone(),
        other => other.to_string(),
    }
}

/// The two options whose order counts.
#[derive(Deserialize)]
struct Patterns {
    rank_pattern: Option<Entries<usize>>,
    alpha_pattern: Option<Entries<f64>>,
}

/// A JSON object in the order of its file.
struct Entries<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
        let mut entries = vec![];
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}
