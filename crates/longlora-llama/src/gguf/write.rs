//! A GGUF file out.

use std::collections::BTreeMap;
use std::path::Path;

use longlora_gguf::{Metadata, NewTensor, TensorData, TensorKind, Value as Entry};

use super::{config, names, rope, rows};
use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::llama::Llama;
use crate::parameters::{Handle, Selection, handles};

/// Writes a model without adapters as a GGUF file: matrices as `kind` (F32, F16, BF16 or Q8_0), vectors and routers as
/// F32, as llama.cpp's own converter does. `tokenizer` is the metadata of its tokenizer, which is added unchanged.
///
/// # Errors
/// [`LlamaError`], if llama.cpp would compute something else, or the disk refuses.
pub fn save_gguf(
    llama: &Llama,
    path: &Path,
    kind: TensorKind,
    tokenizer: &Metadata,
) -> Result<(), LlamaError> {
    let config = &llama.config;
    let architecture = config::architecture(config).ok_or_else(|| LlamaError::Inexpressible {
        what: format!("a model of type `{}`", config.model_type),
        format: "GGUF",
        reason: "llama.cpp's name of its architecture is not known here".to_owned(),
    })?;
    refuse_windows(config)?;
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", Entry::String(architecture.to_owned()));
    metadata.insert("general.file_type", Entry::U32(file_type(kind)));
    metadata.insert("general.quantization_version", Entry::U32(2));
    config::write(config, architecture, &mut metadata);
    let divisors = rope::write(config, architecture, &mut metadata)?;
    for (key, value) in tokenizer.iter() {
        metadata.insert(key, value.clone());
    }

    let parameters = handles(llama, &Selection::Base);
    let mut tensors: Vec<NewTensor<'_>> = divisors
        .iter()
        .map(|(name, divisors)| NewTensor {
            name: (*name).to_owned(),
            shape: vec![divisors.len()],
            kind: TensorKind::F32,
            data: TensorData::Slice(divisors),
        })
        .collect();
    for (name, parts) in by_place(&parameters)? {
        tensors.push(tensor(name, parts, kind, config, architecture));
    }
    Ok(longlora_gguf::write(path, &metadata, tensors)?)
}

/// llama.cpp runs a Mistral as a LLaMA, without its window.
fn refuse_windows(config: &LlamaConfig) -> Result<(), LlamaError> {
    let context = config.rope.max_position_embeddings;
    match config.windows.iter().flatten().find(|&&window| window < context) {
        None => Ok(()),
        Some(window) => Err(LlamaError::Inexpressible {
            what: format!("a sliding window of `{window}` tokens"),
            format: "GGUF",
            reason: format!(
                "llama.cpp would let each of `{context}` tokens see all earlier ones; write a Hugging Face folder instead"
            ),
        }),
    }
}

/// One parameter, or those of all experts in order, by llama.cpp's name.
type Parts<'a> = Vec<(&'a str, &'a Handle)>;

fn by_place(
    parameters: &BTreeMap<String, Handle>,
) -> Result<BTreeMap<String, Parts<'_>>, LlamaError> {
    let mut places: BTreeMap<String, BTreeMap<usize, (&str, &Handle)>> = BTreeMap::new();
    for (name, parameter) in parameters {
        let place = names::place(name).ok_or_else(|| LlamaError::Inexpressible {
            what: format!("tensor `{name}`"),
            format: "GGUF",
            reason: "llama.cpp has no place for it".to_owned(),
        })?;
        let parts = places.entry(place.name).or_default();
        parts.insert(place.expert.unwrap_or(0), (name, parameter));
    }
    let in_order = |(name, parts): (String, BTreeMap<_, _>)| (name, parts.into_values().collect());
    Ok(places.into_iter().map(in_order).collect())
}

fn tensor<'a>(
    name: String,
    parts: Parts<'a>,
    kind: TensorKind,
    config: &LlamaConfig,
    architecture: &str,
) -> NewTensor<'a> {
    let (first, handle) = parts[0];
    let mut shape = handle.shape().to_vec();
    let is_matrix = shape.len() > 1 && !name.contains("ffn_gate_inp");
    if name.contains("_exps.") {
        shape.insert(0, parts.len());
    }
    let kind = if is_matrix { fitting(kind, &shape) } else { TensorKind::F32 };
    let heads = match first {
        name if architecture != "llama" || !names::is_rotated(name) => None,
        name if name.contains(".q_proj.") => Some(config.num_attention_heads),
        _ => Some(config.num_key_value_heads),
    };
    let width = handle.shape()[1..].iter().product::<usize>();
    let compute = move || {
        let mut numbers = vec![];
        for (_, part) in parts {
            let data = part.data().convert::<f32>();
            numbers.extend_from_slice(data.as_slice::<f32>().expect("it was made f32"));
        }
        Ok(match heads {
            None => numbers,
            Some(heads) => rows::interleave(&numbers, heads, width),
        })
    };
    NewTensor { name, shape, kind, data: TensorData::Computed(Box::new(compute)) }
}

/// As llama.cpp's converter: what does not fill whole blocks is F16.
fn fitting(kind: TensorKind, shape: &[usize]) -> TensorKind {
    let row = shape.last().expect("a matrix has rows");
    if row.is_multiple_of(kind.block_len()) { kind } else { TensorKind::F16 }
}

/// llama.cpp's number of what most of a file is.
fn file_type(kind: TensorKind) -> u32 {
    match kind {
        TensorKind::F32 => 0,
        TensorKind::Q8_0 => 7,
        TensorKind::BF16 => 32,
        _ => 1,
    }
}
