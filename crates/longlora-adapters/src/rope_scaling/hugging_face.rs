//! Hugging Face's spelling of RoPE, in and out.
//!
//! | transformers | dictionary | base | pre-trained context of longrope |
//! | --- | --- | --- | --- |
//! | up to 4.57 | `rope_scaling` | beside it | beside it, `original_max_position_embeddings` |
//! | from 5 | `rope_parameters` | `rope_theta` in it | in it, or beside it |
//!
//! The two disagree about `original_max_position_embeddings`, and each name of the dictionary is read as its own version
//! has it:
//!
//! | | `rope_scaling`, as 4.57 | `rope_parameters`, as 5 |
//! | --- | --- | --- |
//! | longrope, beside the dictionary | counts, and so does the context over it in place of `factor` | counts; a `factor` stays |
//! | longrope, in the dictionary alone | `max_position_embeddings` counts; without a `factor` 4.57 fails, and we read it as 5 | counts |
//! | yarn, beside the dictionary alone | `max_position_embeddings` counts | counts |
//!
//! transformers 5 reads `rope_scaling` as if it were `rope_parameters`: a config of these three kinds means something else
//! there. What we write means the same to both.

use serde_json::{Map, Value, json};

use super::{ORIGINAL, RopeConfig, RopeError, RopeScaling, YARN_BETA_FAST, YARN_BETA_SLOW};

/// What a dictionary without a type may hold and still mean plain RoPE, as transformers 5 takes it.
const NOT_OF_A_SCALING: [&str; 4] = ["rope_type", "type", "rope_theta", ORIGINAL];
/// LLaMA's base, where a config names none.
const DEFAULT_THETA: f64 = 10_000.0;

impl RopeConfig {
    /// Reads what `config.json` says about RoPE, in the spelling of transformers 4 or 5.
    ///
    /// `head_dim` is the caller's, because configs often leave it to be computed. A base that the
    /// config does not name is LLaMA's 10,000. Nothing is checked but types: call
    /// [`RopeConfig::validate`].
    ///
    /// `max_position_embeddings` of a config is the context after the scaling or the one before it. After it, as
    /// transformers asks for today, if it is above `original_max_position_embeddings`, and of llama3 and longrope always.
    /// Before it, if it is not above that (Qwen2.5 with YaRN), or always, if the scaling is dynamic, which transformers
    /// anchors there. Of a linear scaling without `original_max_position_embeddings` it is taken for the one before, as
    /// LongLoRA's own models, Vicuna's and vLLM have it; DeepSeek-Coder has it the other way, so such a model runs, but
    /// [`RopeConfig::extended`] refuses it.
    ///
    /// # Errors
    /// [`RopeError`], as [`RopeScaling::from_hugging_face`] has it, also for
    /// `max_position_embeddings` and `rope_theta`.
    pub fn from_hugging_face(
        head_dim: usize,
        config: &Map<String, Value>,
    ) -> Result<Self, RopeError> {
        let top = Fields { kind: "default", fields: config };
        let said = top.tokens("max_position_embeddings")?;
        let present = |key| config.get(key).filter(|value| !value.is_null());
        // With both, `rope_scaling` counts: in transformers 5, too, where it is the older name.
        let older = present("rope_scaling");
        let mut scaling = older.or(present("rope_parameters")).cloned();

        let mut theta = top.optional_number("rope_theta")?;
        if let (None, Some(Value::Object(fields))) = (theta, present("rope_parameters")) {
            theta = Fields { kind: "default", fields }.optional_number("rope_theta")?;
        }
        if let Some(Value::Object(fields)) = &mut scaling {
            theta = Fields { kind: "default", fields }.optional_number("rope_theta")?.or(theta);
            place_original(fields, present(ORIGINAL), older.is_some())?;
        }
        let scaling = RopeScaling::from_hugging_face(scaling.as_ref(), said)?;
        let max_position_embeddings = scaling.reach(said);
        let theta = theta.unwrap_or(DEFAULT_THETA);
        Ok(Self { head_dim, theta, max_position_embeddings, scaling })
    }

    /// `rope_theta` and `rope_scaling` for `config.json`, as transformers 4.57 reads them; it fills
    /// in nothing itself.
    ///
    /// ntk has no type there and needs none: it is the changed base. The factor on cos and sin of
    /// longrope is written out in place of `factor`, because 4.57 derives it from `max_position_embeddings`
    /// and 5 from `factor`. [`RopeConfig::write_hugging_face`] adds what has to stand beside them.
    pub fn to_hugging_face(&self) -> (f64, Option<Value>) {
        let theta = match self.scaling {
            RopeScaling::Ntk { factor } => self.stretched_theta(factor),
            _ => self.theta,
        };
        let scaling = self.scaling.to_hugging_face().map(|mut scaling| {
            if let RopeScaling::LongRope {
                factor,
                original_max_position_embeddings: original,
                attention_factor: None,
                ..
            } = self.scaling
            {
                scaling["attention_factor"] =
                    self.longrope_attention_factor(factor, original).into();
            }
            if let (RopeScaling::LongRope { .. }, Some(fields)) =
                (&self.scaling, scaling.as_object_mut())
            {
                fields.remove("factor");
            }
            // By these names vLLM reads it; transformers passes them over.
            if let (RopeScaling::LongRope { .. }, Some(temperature)) =
                (&self.scaling, scaling.get("attention_factor").cloned())
            {
                scaling["short_mscale"] = temperature.clone();
                scaling["long_mscale"] = temperature;
            }
            scaling
        });
        (theta, scaling)
    }

    /// The context that a config states, from which [`RopeConfig::from_hugging_face`] comes to
    /// `max_position_embeddings`.
    pub fn stated_context(&self) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { .. }
            | RopeScaling::Linear { original_max_position_embeddings: None, .. } => {
                self.original_context()
            }
            _ => self.max_position_embeddings,
        }
    }

    /// Writes into `config.json` all that transformers needs to compute these very frequencies.
    ///
    /// Besides [`RopeConfig::to_hugging_face`] that is `max_position_embeddings`, which for dynamic
    /// has to be the pre-trained length (transformers starts to stretch there), and for longrope
    /// `original_max_position_embeddings`. That stands there for linear, too, where transformers passes it over: without it
    /// nobody could tell how far the model reaches.
    pub fn write_hugging_face(&self, config: &mut Map<String, Value>) {
        let (theta, scaling) = self.to_hugging_face();
        for key in ["rope_parameters", ORIGINAL] {
            config.remove(key);
        }
        config.insert("rope_theta".to_owned(), theta.into());
        config.insert("rope_scaling".to_owned(), scaling.into());
        config.insert("max_position_embeddings".to_owned(), self.stated_context().into());
        if let RopeScaling::LongRope { original_max_position_embeddings: original, .. }
        | RopeScaling::Linear { original_max_position_embeddings: Some(original), .. } =
            self.scaling
        {
            config.insert(ORIGINAL.to_owned(), original.into());
        }
    }
}

/// Puts the pre-trained context where [`RopeScaling::from_hugging_face`] looks for it: `beside` is what stands beside the
/// dictionary, which is read as transformers 4.57 (`older`) or 5 reads it.
fn place_original(
    fields: &mut Map<String, Value>,
    beside: Option<&Value>,
    older: bool,
) -> Result<(), RopeError> {
    match (rope_type(fields)?, beside) {
        (Some("yarn" | "llama3"), _) if older => {}
        (Some("longrope"), None) if older => {
            if fields.get("factor").is_some_and(|factor| !factor.is_null()) {
                fields.remove(ORIGINAL);
            }
        }
        (kind, Some(original)) => {
            fields.insert(ORIGINAL.to_owned(), original.clone());
            if older && kind == Some("longrope") {
                fields.remove("factor");
            }
        }
        (_, None) => {}
    }
    Ok(())
}

impl RopeScaling {
    /// Reads Hugging Face's `rope_scaling` or `rope_parameters` dictionary.
    ///
    /// - The type stands under `rope_type` or, in older files, `type`. Null, no dictionary and
    ///   `default` are plain RoPE; `su` is longrope's first name.
    /// - Fields that a type does not have are passed over, as transformers does with a warning. So
    ///   is dynamic's `original_max_position_embeddings`: transformers accepts it, but anchors the
    ///   stretch at `max_position_embeddings` all the same.
    /// - yarn and longrope without `original_max_position_embeddings` take
    ///   `max_position_embeddings` for it. Phi-3 has that field beside the dictionary;
    ///   [`RopeConfig::from_hugging_face`] looks there.
    ///
    /// # Errors
    /// [`RopeError::UnknownKind`], [`RopeError::MissingKind`], [`RopeError::TwoKinds`],
    /// [`RopeError::NotADictionary`], and [`RopeError::MissingField`] or [`RopeError::IllTyped`],
    /// which name the field.
    pub fn from_hugging_face(
        value: Option<&Value>,
        max_position_embeddings: usize,
    ) -> Result<Self, RopeError> {
        let fields = match value {
            None | Some(Value::Null) => return Ok(Self::None),
            Some(Value::Object(fields)) => fields,
            Some(value) => return Err(RopeError::NotADictionary { value: value.clone() }),
        };
        let Some(kind) = rope_type(fields)? else { return Ok(Self::None) };
        let read = Fields { kind, fields };
        let original = || Ok(read.optional_tokens(ORIGINAL)?.unwrap_or(max_position_embeddings));
        Ok(match kind {
            "linear" => Self::Linear {
                factor: read.number("factor")?,
                original_max_position_embeddings: read.optional_tokens(ORIGINAL)?,
            },
            "dynamic" => Self::Dynamic {
                factor: read.number("factor")?,
                original_max_position_embeddings: max_position_embeddings,
            },
            "yarn" => Self::Yarn {
                factor: read.number("factor")?,
                original_max_position_embeddings: original()?,
                beta_fast: read.optional_number("beta_fast")?.unwrap_or(YARN_BETA_FAST),
                beta_slow: read.optional_number("beta_slow")?.unwrap_or(YARN_BETA_SLOW),
                attention_factor: read.optional_number("attention_factor")?,
                mscale: read.optional_number("mscale")?,
                mscale_all_dim: read.optional_number("mscale_all_dim")?,
                truncate: read.optional_bool("truncate")?.unwrap_or(true),
            },
            "longrope" => Self::LongRope {
                short_factor: read.numbers("short_factor")?,
                long_factor: read.numbers("long_factor")?,
                factor: read.optional_number("factor")?,
                original_max_position_embeddings: original()?,
                attention_factor: read.optional_number("attention_factor")?,
            },
            "llama3" => Self::Llama3 {
                factor: read.number("factor")?,
                low_freq_factor: read.number("low_freq_factor")?,
                high_freq_factor: read.number("high_freq_factor")?,
                original_max_position_embeddings: read.tokens(ORIGINAL)?,
            },
            _ => Self::None,
        })
    }

    /// How far a model reaches whose config has `said` as `max_position_embeddings`.
    fn reach(&self, said: usize) -> usize {
        let (original, factor) = match *self {
            Self::Linear { factor, original_max_position_embeddings } => {
                (original_max_position_embeddings.unwrap_or(said), factor)
            }
            Self::Dynamic { factor, .. } => (said, factor),
            Self::Yarn { factor, original_max_position_embeddings, .. } => {
                (original_max_position_embeddings, factor)
            }
            Self::None | Self::Ntk { .. } | Self::LongRope { .. } | Self::Llama3 { .. } => {
                return said;
            }
        };
        if said > original { said } else { (original as f64 * factor).round() as usize }
    }

    /// The dictionary that transformers 4.57 reads, complete with every default.
    ///
    /// `None` is plain RoPE. So is ntk here, whose whole effect is a changed base; and dynamic and
    /// longrope lean on fields beside the dictionary. [`RopeConfig::write_hugging_face`] takes care
    /// of all three.
    pub fn to_hugging_face(&self) -> Option<Value> {
        let mut value = match self {
            Self::None | Self::Ntk { .. } => return None,
            Self::Linear { factor, .. } | Self::Dynamic { factor, .. } => {
                json!({ "factor": factor })
            }
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                beta_fast,
                beta_slow,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            } => json!({
                "factor": factor,
                ORIGINAL: original_max_position_embeddings,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "attention_factor": attention_factor,
                "mscale": mscale,
                "mscale_all_dim": mscale_all_dim,
                "truncate": truncate,
            }),
            Self::LongRope {
                short_factor,
                long_factor,
                factor,
                original_max_position_embeddings,
                attention_factor,
            } => json!({
                "short_factor": short_factor,
                "long_factor": long_factor,
                "factor": factor,
                ORIGINAL: original_max_position_embeddings,
                "attention_factor": attention_factor,
            }),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                ORIGINAL: original_max_position_embeddings,
            }),
        };
        if let Value::Object(fields) = &mut value {
            fields.retain(|_, value| !value.is_null());
        }
        value["rope_type"] = self.name().into();
        Some(value)
    }
}

/// The type that a dictionary names, in one spelling; `None` where it only carries a base.
fn rope_type(fields: &Map<String, Value>) -> Result<Option<&'static str>, RopeError> {
    const KNOWN: [&str; 6] = ["default", "linear", "dynamic", "yarn", "longrope", "llama3"];
    let read = Fields { kind: "default", fields };
    let canonical = |name: &str| {
        let name = if name == "su" { "longrope" } else { name };
        KNOWN.into_iter().find(|known| *known == name).ok_or_else(|| RopeError::UnknownKind {
            kind: name.to_owned(),
            known: KNOWN.join(", "),
        })
    };
    match (read.optional_text("rope_type")?, read.optional_text("type")?) {
        (Some(rope_type), Some(legacy)) if canonical(rope_type)? != canonical(legacy)? => {
            Err(RopeError::TwoKinds { rope_type: rope_type.to_owned(), legacy: legacy.to_owned() })
        }
        (Some(name), _) | (None, Some(name)) => canonical(name).map(Some),
        (None, None) if fields.keys().all(|key| NOT_OF_A_SCALING.contains(&key.as_str())) => {
            Ok(None)
        }
        (None, None) => Err(RopeError::MissingKind { known: KNOWN.join(", ") }),
    }
}

/// A dictionary of the scaling `kind`, read field by field. Null is as good as absent.
struct Fields<'a> {
    kind: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn optional<T>(
        &self,
        field: &'static str,
        wanted: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, RopeError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(RopeError::IllTyped { field, value: value.clone(), wanted }),
            },
        }
    }

    fn required<T>(&self, field: &'static str, value: Option<T>) -> Result<T, RopeError> {
        value.ok_or(RopeError::MissingField { kind: self.kind, field })
    }

    fn optional_text(&self, field: &'static str) -> Result<Option<&'a str>, RopeError> {
        self.optional(field, "a string", Value::as_str)
    }

    fn optional_bool(&self, field: &'static str) -> Result<Option<bool>, RopeError> {
        self.optional(field, "true or false", Value::as_bool)
    }

    fn optional_number(&self, field: &'static str) -> Result<Option<f64>, RopeError> {
        self.optional(field, "a number", Value::as_f64)
    }

    fn number(&self, field: &'static str) -> Result<f64, RopeError> {
        self.required(field, self.optional_number(field)?)
    }

    fn optional_tokens(&self, field: &'static str) -> Result<Option<usize>, RopeError> {
        self.optional(field, "a whole number of tokens", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
    }

    fn tokens(&self, field: &'static str) -> Result<usize, RopeError> {
        self.required(field, self.optional_tokens(field)?)
    }

    fn numbers(&self, field: &'static str) -> Result<Vec<f64>, RopeError> {
        let numbers = self.optional(field, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })?;
        self.required(field, numbers)
    }
}
