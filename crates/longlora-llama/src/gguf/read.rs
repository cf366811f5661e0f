//! A GGUF file in.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use longlora_gguf::GgufFile;

use super::{config, names, rope, rows};
use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::llama::Llama;
use crate::parameters::{Selection, restore};

/// Reads what a GGUF file says of its model.
pub(crate) fn read_config(path: &Path) -> Result<LlamaConfig, LlamaError> {
    config::read(&mut GgufFile::open(path)?)
}

/// Reads the model of a GGUF file, quantised or not, as f32.
pub(crate) fn load(path: &Path, device: &Device) -> Result<Llama, LlamaError> {
    let mut file = GgufFile::open(path)?;
    let config = config::read(&mut file)?;
    let mut weights = Weights::new(file, &config);
    let llama = restore(config.init(device), &Selection::Base, path, |name| weights.read(name))?;
    weights.refuse_leftovers()?;
    Ok(llama)
}

struct Weights {
    file: GgufFile,
    heads: usize,
    kv_heads: usize,
    /// Whether rows of q and k are interleaved.
    interleaved: bool,
    unread: BTreeSet<String>,
    /// The experts that were read last: llama.cpp stacks all of a layer in one tensor.
    stacked: Option<(String, Vec<f32>)>,
}

impl Weights {
    fn new(file: GgufFile, config: &LlamaConfig) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            interleaved: config::architecture(config) == Some("llama"),
            unread: file.tensors().iter().map(|tensor| tensor.name.clone()).collect(),
            stacked: None,
            file,
        }
    }

    /// A tensor by Hugging Face's name, in Hugging Face's layout.
    fn read(&mut self, name: &str) -> Result<TensorData, LlamaError> {
        let missing = |tensor| LlamaError::Missing { path: self.file.path().to_owned(), tensor };
        let place = names::place(name).ok_or_else(|| missing(name.to_owned()))?;
        let info = self.file.tensor(&place.name).ok_or_else(|| missing(place.name.clone()))?;
        let mut shape = info.shape.clone();
        self.unread.remove(&place.name);
        let numbers = match place.expert {
            None => self.file.read_f32(&place.name)?,
            Some(expert) => {
                shape.remove(0);
                self.expert(&place.name, expert, shape.iter().product())?
            }
        };
        let numbers = if self.interleaved && names::is_rotated(name) {
            self.half_split(name, &shape, &numbers)?
        } else {
            numbers
        };
        Ok(TensorData::new(numbers, shape))
    }

    fn half_split(
        &self,
        name: &str,
        shape: &[usize],
        numbers: &[f32],
    ) -> Result<Vec<f32>, LlamaError> {
        let heads = if name.contains(".q_proj.") { self.heads } else { self.kv_heads };
        let width = shape[1..].iter().product::<usize>();
        if !shape[0].is_multiple_of(2 * heads) {
            let reason = format!("`{name}` has `{}` rows for `{heads}` heads", shape[0]);
            return Err(LlamaError::Config { path: self.file.path().to_owned(), reason });
        }
        Ok(rows::half_split(numbers, heads, width))
    }

    /// One of the experts that are stacked in tensor `name`.
    fn expert(
        &mut self,
        name: &str,
        expert: usize,
        numbers: usize,
    ) -> Result<Vec<f32>, LlamaError> {
        if self.stacked.as_ref().is_none_or(|(read, _)| read != name) {
            self.stacked = Some((name.to_owned(), self.file.read_f32(name)?));
        }
        let (_, all) = self.stacked.as_ref().expect("it was just read");
        let range = expert * numbers..(expert + 1) * numbers;
        all.get(range).map(<[f32]>::to_vec).ok_or_else(|| LlamaError::Missing {
            path: self.file.path().to_owned(),
            tensor: format!("{name}[{expert}]"),
        })
    }

    fn refuse_leftovers(&self) -> Result<(), LlamaError> {
        let leftover = self.unread.iter().find(|name| !rope::TENSORS.contains(&name.as_str()));
        match leftover {
            None => Ok(()),
            Some(tensor) => Err(LlamaError::Unused {
                path: self.file.path().to_owned(),
                tensor: tensor.clone(),
            }),
        }
    }
}
