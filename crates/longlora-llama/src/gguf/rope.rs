//! The position embedding, in a GGUF file's metadata and tensors.
//!
//! llama.cpp knows linear interpolation and YaRN by their numbers, and everything else that does not depend on the
//! sequence at hand by one divisor per frequency, in the tensor `rope_freqs.weight`.

use longlora_adapters::{RopeConfig, RopeScaling};
use longlora_gguf::{GgufFile, Metadata, Value as Entry};
use serde_json::{Map, Value, json};

use super::config::shortest;
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

/// The keys of `config.json` that say what the file says; `config` has its other keys.
pub(super) fn read(
    file: &mut GgufFile,
    architecture: &str,
    config: &Map<String, Value>,
) -> Result<Map<String, Value>, LlamaError> {
    let metadata = file.metadata();
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let theta = shortest(metadata.number(&key("freq_base"))?.unwrap_or(10_000.0));
    let kind = metadata.string(&key("scaling.type"))?.unwrap_or("none").to_owned();
    let factor = metadata.number(&key("scaling.factor"))?.map(shortest);
    let original = metadata.unsigned(&key("scaling.original_context_length"))?;
    let temperature = metadata.number(&key("scaling.attn_factor"))?.map(shortest);
    let context = config["max_position_embeddings"].as_u64().expect("a count was put there");
    let head_dim = config["head_dim"].as_u64().expect("a count was put there") as usize;

    let scaling = match kind.as_str() {
        "none" | "longrope" if file.tensor(FREQS).is_some() => {
            let divisors = numbers(file, FREQS)?;
            divisors_as_scaling(head_dim, theta, divisors, original.unwrap_or(context), temperature)
        }
        "none" => Value::Null,
        "linear" => json!({ "rope_type": "linear", "factor": factor }),
        "yarn" => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original.unwrap_or(context),
        }),
        "longrope" => json!({
            "rope_type": "longrope",
            "short_factor": numbers(file, SHORT)?,
            "long_factor": numbers(file, LONG)?,
            "attention_factor": temperature,
            "original_max_position_embeddings": original.unwrap_or(context),
        }),
        other => {
            return Err(LlamaError::Unsupported {
                path: file.path().to_owned(),
                key: "rope.scaling.type",
                value: other.to_owned(),
                supported: "supported are `none`, `linear`, `yarn` and `longrope`",
            });
        }
    };
    let mut keys = Map::new();
    keys.insert("rope_theta".to_owned(), theta.into());
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
fn divisors_as_scaling(
    head_dim: usize,
    theta: f64,
    divisors: Vec<f64>,
    original: u64,
    temperature: Option<f64>,
) -> Value {
    let llama3 = LLAMA3_FACTORS.map(|factor| RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    });
    let plain =
        RopeConfig { head_dim, theta, max_position_embeddings: 8192, scaling: RopeScaling::None };
    for scaling in llama3 {
        let rule = RopeConfig { scaling, ..plain.clone() };
        let same = |(rules, files): (f64, &f64)| (rules / files - 1.0).abs() < 1e-5;
        let rules = rule.divisors();
        if rules.len() == divisors.len() && rules.into_iter().zip(&divisors).all(same) {
            return rule.scaling.to_hugging_face().expect("LLaMA 3's rule has a name");
        }
    }
    json!({
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "attention_factor": temperature.unwrap_or(1.0),
        "original_max_position_embeddings": original,
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
        RopeScaling::Linear { factor } => {
            scaling("linear", *factor);
            vec![]
        }
        RopeScaling::Dynamic { .. } => {
            return refuse(
                "dynamic NTK",
                "it changes with the sequence at hand; export as a Hugging Face folder",
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
