//! The embedding table and the head of an adapter, as PEFT would use them.

use std::path::Path;

use burn::tensor::TensorData;

use super::options::PeftConfig;
use super::{Tensors, weight_of};
use crate::error::LlamaError;
use crate::llama::Llama;
use crate::modules::{EMBEDDING, HEAD};

/// `(embeddings, head)`: whether the adapter brings a table of embeddings and a head of its own. Leaves in `tensors`
/// what is to be put there, and nothing else of the two.
///
/// PEFT writes both tables as part of the base, too, when it was told to or when the vocabulary was resized; such
/// tables are in force without a word in `modules_to_save`.
pub(super) fn settle(
    tensors: &mut Tensors,
    peft: &PeftConfig,
    llama: &Llama,
    path: &Path,
) -> Result<(bool, bool), LlamaError> {
    let original = remove_wrapping(tensors);
    let in_file = |tensors: &Tensors, module| tensors.contains_key(&weight_of(module));
    let (embedding_saved, head_saved) = (peft.saved.contains(EMBEDDING), peft.saved.contains(HEAD));
    let embeddings = embedding_saved || in_file(tensors, EMBEDDING);
    if llama.lm_head.is_some() {
        return Ok((embeddings, head_saved || in_file(tensors, HEAD)));
    }

    let (of_embedding, of_head) = (weight_of(EMBEDDING), weight_of(HEAD));
    let table = tensors.remove(&of_embedding);
    let mut head = tensors.remove(&of_head);
    let stays_tied = embedding_saved && peft.ensure_weight_tying;
    if !head_saved && !stays_tied {
        // Then it is the table of the base, under another name.
        head = agreed((&of_head, head), (&original_of(EMBEDDING), original), path)?;
    }
    if stays_tied || !embedding_saved && !head_saved {
        // One table under two names.
        let table = agreed((&of_embedding, table), (&of_head, head), path)?;
        tensors.extend(table.map(|table| (of_embedding, table)));
        return Ok((embedding_saved || in_file(tensors, EMBEDDING), false));
    }
    let is_one = table.as_ref().zip(head.as_ref()).is_some_and(|(table, head)| same(table, head));
    tensors.extend(table.map(|table| (of_embedding, table)));
    if is_one {
        return Ok((embeddings, false));
    }
    let own = || llama.model.embed_tokens.weight.val().without_autodiff().into_data();
    // A head that is saved and not there is missed when it is to be put in its place.
    let head = if head_saved { head } else { Some(head.unwrap_or_else(own)) };
    tensors.extend(head.map(|head| (of_head, head)));
    Ok((embeddings, true))
}

/// Removes what PEFT writes of the insides of a saved module; the table of the base, if that is among it.
fn remove_wrapping(tensors: &mut Tensors) -> Option<TensorData> {
    for module in [EMBEDDING, HEAD] {
        if tensors.contains_key(&weight_of(module)) {
            tensors.remove(&format!("{module}.modules_to_save.weight"));
        }
    }
    tensors.remove(&original_of(HEAD));
    tensors.remove(&original_of(EMBEDDING))
}

/// What a module was before it was saved, where PEFT writes that, too.
fn original_of(module: &str) -> String {
    format!("{module}.original_module.weight")
}

/// One of two tensors that have to be the same, if both are there; each with its name.
fn agreed(
    (one_name, one): (&str, Option<TensorData>),
    (other_name, other): (&str, Option<TensorData>),
    path: &Path,
) -> Result<Option<TensorData>, LlamaError> {
    if let (Some(one), Some(other)) = (&one, &other)
        && !same(one, other)
    {
        let reason = format!(
            "the model's head is its embedding table, and the adapter holds two different tables for it, `{one_name}` and \
             `{other_name}`"
        );
        return Err(LlamaError::Contradiction { path: path.to_owned(), reason });
    }
    Ok(one.or(other))
}

/// Without a copy, where both are of one type: tables are large.
fn same(one: &TensorData, other: &TensorData) -> bool {
    if one.shape() != other.shape() {
        return false;
    }
    if one.dtype() == other.dtype() {
        return one.as_bytes() == other.as_bytes();
    }
    let f32s = |tensor: &TensorData| tensor.clone().convert::<f32>();
    f32s(one).as_bytes() == f32s(other).as_bytes()
}
