//! The position embedding, in a GGUF file's metadata and tensors.
//!
//! llama.cpp knows linear interpolation and YaRN by their numbers, and everything else that does not depend on the
//! sequence at hand by one divisor per frequency, in the tensor `rope_freqs.weight`.

use longlora_adapters::{RopeConfig, RopeScaling};
use longlora_gguf::{GgufFile, Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::shortest::shortest;
use crate::config::LlamaConfig;
use crate::error::LlamaError;

/// Divisors of all frequencies.
const FREQS: &str = "rope_freqs.weight";
/// LongRoPE's divisors for short and for long sequences.
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";
/// What the files of this module may hold beside weights.
pub(super) const TENSORS: [&str; 3] = [FREQS, SHORT, LONG];

/// LLaMA 3.1's and 3.2's own factors, which files hold as divisors alone.
const LLAMA3_FACTORS: [f64; 2] = [8.0, 32.0];

/// What a file may say of RoPE, after the architecture's name; the last one changes nothing that is computed.
pub(super) const KEYS: [&str; 10] = [
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.finetuned",
];

/// What the metadata says of RoPE.
struct Said {
    theta: f64,
    kind: String,
    factor: Option<f64>,
    original: Option<u64>,
    /// Factor on cos and sin, beside YaRN's own.
    temperature: Option<f64>,
    /// The factor on cos and sin in YaRN's place, which llama.cpp's converter writes, and llama.cpp passes over.
    attention_factor: Option<f64>,
    /// Ends of YaRN's ramp.
    betas: [f64; 2],
    head_dim: usize,
}

impl Said {
    fn read(
        metadata: &Metadata,
        architecture: &str,
        config: &Map<String, Value>,
    ) -> Result<Self, LlamaError> {
        let key = |name: &str| format!("{architecture}.rope.{name}");
        let number = |name: &str| Ok::<_, LlamaError>(metadata.number(&key(name))?.map(shortest));
        let count = |key: &str| config[key].as_u64().expect("a count was put there");
        let factor = number("scaling.factor")?.filter(|&factor| factor != 0.0);
        // llama.cpp takes a factor without a type for linear.
        let default = if factor.is_some_and(|factor| factor != 1.0) { "linear" } else { "none" };
        Ok(Self {
            theta: number("freq_base")?.unwrap_or(10_000.0),
            kind: metadata.string(&key("scaling.type"))?.unwrap_or(default).to_owned(),
            factor,
            original: metadata.unsigned(&key("scaling.original_context_length"))?,
            temperature: number("scaling.attn_factor")?.filter(|&factor| factor != 1.0),
            attention_factor: number("scaling.yarn_attn_factor")?,
            betas: [
                number("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                number("scaling.yarn_beta_slow")?.unwrap_or(1.0),
            ],
            head_dim: count("head_dim") as usize,
        })
    }

    fn yarn(&self) -> Value {
        // llama.cpp multiplies it by YaRN's own.
        let own = self.factor.map_or(1.0, |factor| 0.1 * factor.ln() + 1.0);
        let mut scaling = json!({
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": self.original,
            "beta_fast": self.betas[0],
            "beta_slow": self.betas[1],
        });
        let temperature = self.temperature.map(|temperature| shortest(own * temperature));
        if let Some(factor) = temperature.or(self.attention_factor) {
            scaling["attention_factor"] = factor.into();
        }
        scaling
    }
}

/// The keys of `config.json` that say what the file says; `config` has its other keys.
pub(super) fn read(
    file: &mut GgufFile,
    architecture: &str,
    config: &Map<String, Value>,
) -> Result<Map<String, Value>, LlamaError> {
    let said = Said::read(file.metadata(), architecture, config)?;
    let divided = file.tensor(FREQS).is_some();
    let short_and_long = [SHORT, LONG].into_iter().any(|name| file.tensor(name).is_some());
    let unsupported = |key, value: &str, supported| {
        let path = file.path().to_owned();
        Err(LlamaError::Unsupported { path, key, value: value.to_owned(), supported })
    };
    if short_and_long && (divided || said.kind != "longrope") {
        return unsupported("rope_factors_long.weight", "…", "it goes with `longrope` alone");
    }
    let scaling = match said.kind.as_str() {
        "none" | "longrope" if divided => {
            let divisors = numbers(file, FREQS)?;
            divisors_as_scaling(divisors, &said)
        }
        _ if divided => {
            let supported = "divisors beside another scaling are not implemented";
            return unsupported("rope_freqs.weight", "…", supported);
        }
        "none" | "linear" if said.temperature.is_some() => {
            let supported = "with this scaling, supported is `1`";
            return unsupported("rope.scaling.attn_factor", "…", supported);
        }
        "none" => Value::Null,
        "linear" => json!({
            "rope_type": "linear",
            "factor": said.factor,
            "original_max_position_embeddings": said.original,
        }),
        "yarn" => said.yarn(),
        "longrope" => json!({
            "rope_type": "longrope",
            "short_factor": numbers(file, SHORT)?,
            "long_factor": numbers(file, LONG)?,
            "attention_factor": said.temperature.unwrap_or(1.0),
            "original_max_position_embeddings": said.original,
        }),
        other => {
            let supported = "supported are `none`, `linear`, `yarn` and `longrope`";
            return unsupported("rope.scaling.type", other, supported);
        }
    };
    let mut keys = Map::new();
    keys.insert("rope_theta".to_owned(), said.theta.into());
    keys.insert("rope_scaling".to_owned(), scaling);
    Ok(keys)
}

fn numbers(file: &mut GgufFile, tensor: &str) -> Result<Vec<f64>, LlamaError> {
    let missing =
        || LlamaError::Missing { path: file.path().to_owned(), tensor: tensor.to_owned() };
    if file.tensor(tensor).is_none() {
        return Err(missing());
    }
    Ok(file.read_f32(tensor)?.into_iter().map(|number| shortest(number.into())).collect())
}

/// LLaMA 3's rule, if it gives these divisors; else LongRoPE, which has any divisors.
fn divisors_as_scaling(divisors: Vec<f64>, said: &Said) -> Value {
    let llama3 = LLAMA3_FACTORS.map(|factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    });
    let plain = RopeConfig {
        head_dim: said.head_dim,
        theta: said.theta,
        max_position_embeddings: 8192,
        scaling: RopeScaling::None,
    };
    for scaling in llama3 {
        let rule = RopeConfig { scaling, ..plain.clone() };
        let same = |(rules, files): (f64, &f64)| (rules / files - 1.0).abs() < 1e-5;
        let rules = rule.divisors();
        let fits = rules.len() == divisors.len() && rules.into_iter().zip(&divisors).all(same);
        if fits && said.temperature.is_none() {
            return rule.scaling.to_hugging_face().expect("LLaMA 3's rule has a name");
        }
    }
    json!({
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": said.temperature.unwrap_or(1.0),
        "original_max_position_embeddings": said.original,
    })
}

/// Says in `metadata` what RoPE `config` has; the divisors that go into tensors, by their names.
pub(super) fn write(
    config: &LlamaConfig,
    architecture: &str,
    metadata: &mut Metadata,
) -> Result<Vec<(&'static str, Vec<f32>)>, LlamaError> {
    let rope = &config.rope;
    let mut put = |name: &str, value| metadata.insert(format!("{architecture}.rope.{name}"), value);
    let (theta, _) = rope.to_hugging_face();
    put("dimension_count", Entry::U32(rope.head_dim as u32));
    put("freq_base", Entry::F32(theta as f32));
    let mut scaling = |kind: &str, factor: f64| {
        put("scaling.type", Entry::String(kind.to_owned()));
        put("scaling.factor", Entry::F32(factor as f32));
    };
    let original = Entry::U32(rope.original_context() as u32);
    let temperature = rope.frequencies(rope.max_position_embeddings).attention_factor;
    let tensors = match &rope.scaling {
        RopeScaling::None | RopeScaling::Ntk { .. } => vec![],
        RopeScaling::Linear { factor, original_max_position_embeddings } => {
            scaling("linear", *factor);
            if original_max_position_embeddings.is_some() {
                put("scaling.original_context_length", original);
            }
            vec![]
        }
        RopeScaling::Dynamic { .. } => {
            return refuse(
                "dynamic NTK",
                "it changes with the sequence at hand; write a Hugging Face folder instead",
            );
        }
        RopeScaling::Yarn { factor, .. } => {
            check_yarn(&rope.scaling)?;
            scaling("yarn", *factor);
            put("scaling.original_context_length", original);
            // llama.cpp multiplies it by YaRN's own `0.1 · ln(factor) + 1`.
            let rest = f64::from(temperature) / (0.1 * factor.ln() + 1.0);
            if (rest - 1.0).abs() > 1e-6 {
                put("scaling.attn_factor", Entry::F32(rest as f32));
            }
            vec![]
        }
        RopeScaling::LongRope { short_factor, long_factor, .. } => {
            put("scaling.original_context_length", original);
            put("scaling.attn_factor", Entry::F32(temperature));
            let floats = |factors: &[f64]| factors.iter().map(|&factor| factor as f32).collect();
            if short_factor == long_factor {
                vec![(FREQS, floats(long_factor))]
            } else {
                put("scaling.type", Entry::String("longrope".to_owned()));
                vec![(SHORT, floats(short_factor)), (LONG, floats(long_factor))]
            }
        }
        RopeScaling::Llama3 { .. } => {
            vec![(FREQS, rope.divisors().into_iter().map(|divisor| divisor as f32).collect())]
        }
    };
    if !tensors.is_empty() && architecture != "llama" {
        let reason = format!(
            "llama.cpp reads divisors of frequencies for `llama` alone, not for `{architecture}`"
        );
        return refuse(rope.scaling.name(), &reason);
    }
    Ok(tensors)
}

/// llama.cpp takes the ends of YaRN's ramp from its command line, not from the file.
fn check_yarn(scaling: &RopeScaling) -> Result<(), LlamaError> {
    let RopeScaling::Yarn { beta_fast, beta_slow, truncate, .. } = scaling else { return Ok(()) };
    if (*beta_fast, *beta_slow, *truncate) != (32.0, 1.0, true) {
        let reason = format!(
            "llama.cpp has `beta_fast` 32, `beta_slow` 1 and `truncate` true, the model has `{beta_fast}`, `{beta_slow}` and `{truncate}`"
        );
        return refuse("YaRN", &reason);
    }
    Ok(())
}

fn refuse<T>(what: &str, reason: &str) -> Result<T, LlamaError> {
    Err(LlamaError::Inexpressible {
        what: format!("the RoPE scaling {what}"),
        format: "GGUF",
        reason: reason.to_owned(),
    })
}
