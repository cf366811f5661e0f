//! The tensors of an adapter's folder: PEFT's, and those that LongLoRA's own code keeps beside them.

use std::path::{Path, PathBuf};

use super::options::PeftConfig;
use super::{PEFT_PREFIX, Tensors, weight_of};
use crate::error::LlamaError;
use crate::files::read_tensors;
use crate::llama::Llama;
use crate::modules::{EMBEDDING, HEAD, ModuleKind, NamedModule};
use crate::pickle::read_pickle;

pub(super) const PEFT_MODEL: &str = "adapter_model.safetensors";
const PEFT_PICKLE: &str = "adapter_model.bin";
/// What LongLoRA trains beside LoRA, by the names of the model: its `get_trainable_weights.py` writes it, and its
/// `merge_lora_weights_and_save_hf_model.py` puts it into the base before PEFT's adapter.
const TRAINABLE: &str = "trainable_params.bin";
/// What other tools leave before the names in it.
const WRAPPERS: [&str; 2] = ["base_model.model.", "module."];

/// The tensors of PEFT's file, without the prefix that all of them have, and the file: safetensors where there are both
/// kinds, as in PEFT.
pub(super) fn read_peft(folder: &Path) -> Result<(PathBuf, Tensors), LlamaError> {
    let (safetensors, pickle) = (folder.join(PEFT_MODEL), folder.join(PEFT_PICKLE));
    let (path, all) = if !safetensors.exists() && pickle.exists() {
        let all = read_pickle(&pickle)?;
        (pickle, all)
    } else {
        let all = read_tensors(&safetensors)?;
        (safetensors, all)
    };
    let mut tensors = Tensors::new();
    for (name, tensor) in all {
        match name.strip_prefix(PEFT_PREFIX) {
            Some(name) if is_computed(name) => {}
            Some(name) => {
                tensors.insert(name.to_owned(), tensor);
            }
            None => return Err(LlamaError::Unused { path, tensor: name }),
        }
    }
    Ok((path, tensors))
}

/// Adds what LongLoRA keeps beside PEFT's files to the `tensors` of `peft_path`, as modules that are saved.
///
/// It goes into the base, so a table of a tied model gets it in both roles.
///
/// # Errors
/// [`LlamaError`], if it holds anything but norms, embeddings and head, or what PEFT's file holds, too.
pub(super) fn add_trainable(
    tensors: &mut Tensors,
    peft: &mut PeftConfig,
    llama: &Llama,
    modules: &[NamedModule],
    (folder, peft_path): (&Path, &Path),
) -> Result<(), LlamaError> {
    let path = folder.join(TRAINABLE);
    // A link to nothing is there, and says that something is missing.
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let tied = llama.lm_head.is_none();
    let of_peft = peft.saved.clone();
    for (name, tensor) in read_pickle(&path)? {
        let plain = without_wrappers(&name);
        if is_computed(plain) {
            continue;
        }
        let module = plain.strip_suffix(".weight").and_then(|plain| saved_module(plain, modules));
        let Some(module) = module else {
            return Err(LlamaError::Unused { path, tensor: name });
        };
        if of_peft.contains(&module.name) || tensors.contains_key(plain) {
            let reason = format!(
                "`{plain}` is in it and in `{}`; take it out of one of the two",
                peft_path.display()
            );
            return Err(LlamaError::Contradiction { path, reason });
        }
        check_shape(&name, tensor.shape(), module, &path)?;
        tensors.insert(plain.to_owned(), tensor);
        peft.saved.insert(module.name.clone());
        if tied && module.kind != ModuleKind::Norm {
            peft.saved.insert(EMBEDDING.to_owned());
            peft.ensure_weight_tying = true;
        }
    }
    Ok(())
}

/// Checks that tables of a file of PEFT's have the model's vocabulary.
pub(super) fn check_vocabulary(
    tensors: &Tensors,
    modules: &[NamedModule],
    path: &Path,
) -> Result<(), LlamaError> {
    for module in modules.iter().filter(|module| [EMBEDDING, HEAD].contains(&module.name.as_str()))
    {
        let name = weight_of(&module.name);
        if let Some(table) = tensors.get(&name) {
            check_shape(&format!("{PEFT_PREFIX}{name}"), table.shape(), module, path)?;
        }
    }
    Ok(())
}

fn saved_module<'a>(name: &str, modules: &'a [NamedModule]) -> Option<&'a NamedModule> {
    let saved = [ModuleKind::Norm, ModuleKind::Embedding, ModuleKind::Head];
    modules.iter().find(|module| module.name == name && saved.contains(&module.kind))
}

fn check_shape(
    tensor: &str,
    found: &[usize],
    module: &NamedModule,
    path: &Path,
) -> Result<(), LlamaError> {
    let (path, tensor, needed) = (path.to_owned(), tensor.to_owned(), module.shape.clone());
    match (found, needed.as_slice()) {
        (found, needed) if found == needed => Ok(()),
        (&[found, columns], &[needed, width]) if columns == width => {
            Err(LlamaError::Vocabulary { path, tensor, found, needed })
        }
        _ => Err(LlamaError::Shape { path, tensor, found: found.to_vec(), needed }),
    }
}

/// Tables that are computed: transformers had them among the weights once, and PEFT drops them without a word.
fn is_computed(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

fn without_wrappers(mut name: &str) -> &str {
    while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)) {
        name = inner;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_tools_put_before_a_name_is_left_out() {
        let name = "model.norm.weight";
        for wrapped in ["", "module.", "base_model.model.", "module.base_model.model."] {
            assert_eq!(without_wrappers(&format!("{wrapped}{name}")), name);
        }
    }
}
