//! The slow, obvious twin of generation: the whole text is read anew for each token.
//!
//! It is never optimised. Generation with a cache means what this file says.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use longlora_adapters::Rotary;
use longlora_attention::{AttentionPattern, Layout};

use crate::cache::planned_length;
use crate::generate::{GenerateOptions, Generated};
use crate::llama::Llama;
use crate::pass::Pass;

/// What [`Llama::generate`] does, for a text whose tokens all stay.
///
/// # Panics
/// If `prompt` is empty, or if the options let go of tokens.
pub fn generate(
    llama: &Llama,
    prompt: &[u32],
    options: &GenerateOptions,
    on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Generated {
    assert!(!prompt.is_empty(), "needs at least one token to read");
    assert!(options.streaming.is_none(), "needs all tokens of the text");
    let pattern = match options.window {
        None => AttentionPattern::Full,
        Some(window) => AttentionPattern::SlidingWindow { window },
    };
    let most = prompt.len() + options.max_new_tokens;
    let mut planned = 0;
    llama.write(&mut prompt.to_vec(), options, on_token, |text| {
        if text.len() > planned {
            planned = planned_length(&llama.config.rope, text.len(), most);
        }
        last_hidden(llama, text, pattern, planned)
    })
}

/// The final hidden state of the last token, `[1, hidden_size]`, at the frequencies of a text of `length` tokens.
fn last_hidden(llama: &Llama, text: &[u32], pattern: AttentionPattern, length: usize) -> Tensor<2> {
    let seq = text.len();
    let rotary = Rotary::at(&llama.config.rope, 0..seq, length, &llama.device());
    let plan = pattern.plan(&Layout::dense(1, seq));
    let pass = Pass::new(plan, &llama.config.windows, rotary, llama.model.rope_offset.clone());
    let ids: Vec<i64> = text.iter().map(|&id| i64::from(id)).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, seq]), &llama.device());
    llama.hidden(ids, &pass).narrow(1, seq - 1, 1).squeeze_dim(1)
}
