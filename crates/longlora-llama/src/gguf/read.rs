//! A GGUF file in.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use longlora_gguf::GgufFile;

use super::{config, names, rope, rows};
use crate::config::LlamaConfig;
use crate::error::LlamaError;
use crate::llama::Llama;
use crate::parameters::{Selection, restore_as};
use crate::storage::WeightStorage;

/// Reads what a GGUF file says of its model.
pub(crate) fn read_config(path: &Path) -> Result<LlamaConfig, LlamaError> {
    config::read(&mut GgufFile::open(path)?)
}

/// Reads the model of a GGUF file, quantised or not.
pub(crate) fn load(
    path: &Path,
    storage: WeightStorage,
    device: &Device,
) -> Result<Llama, LlamaError> {
    let mut file = GgufFile::open(path)?;
    let config = config::read(&mut file)?;
    let mut weights = Weights::new(file, &config);
    let llama = storage.prepare(config.init(device));
    let llama = restore_as(llama, &Selection::Base, storage, path, |name| weights.read(name))?;
    weights.refuse_leftovers()?;
    Ok(llama)
}

struct Weights {
    file: GgufFile,
    heads: usize,
    kv_heads: usize,
    /// Whether rows of q and k are interleaved.
    interleaved: bool,
    experts: usize,
    unread: BTreeSet<String>,
}

impl Weights {
    fn new(file: GgufFile, config: &LlamaConfig) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            interleaved: config::architecture(config) == Some("llama"),
            unread: file.tensors().iter().map(|tensor| tensor.name.clone()).collect(),
            experts: config.experts.map_or(0, |experts| experts.count),
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
                self.check_stack(&place.name, &shape)?;
                shape.remove(0);
                self.file.read_f32_at(&place.name, expert)?
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

    /// llama.cpp stacks the experts of a layer.
    fn check_stack(&self, tensor: &str, shape: &[usize]) -> Result<(), LlamaError> {
        if shape.len() == 3 && shape[0] == self.experts {
            return Ok(());
        }
        let needed = [&[self.experts], &shape[shape.len().min(1)..]].concat();
        let path = self.file.path().to_owned();
        Err(LlamaError::Shape { path, tensor: tensor.to_owned(), found: shape.to_vec(), needed })
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
