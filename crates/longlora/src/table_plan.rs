//! What the table at the end of a run is to be, before the first step.

use anyhow::{Result, bail};
use longlora_llama::LlamaConfig;
use longlora_train::{FinetuneConfig, HeldOutText, held_out_documents};

use crate::comparison::default_lengths;
use crate::held_out::{left_out, share};
use crate::measured_on::warn_if_learned;
use crate::say;

/// What it is measured on.
pub(crate) struct TablePlan {
    pub(crate) documents: Vec<Vec<u32>>,
    pub(crate) lengths: Vec<usize>,
}

impl TablePlan {
    /// Reads the held-out text before the first step: a table that cannot be made is a mistake to hear of now. `None`, if
    /// none is wanted, or nothing is held out.
    pub(crate) fn read(config: &FinetuneConfig, base: &LlamaConfig) -> Result<Option<Self>> {
        let evaluation = &config.evaluation;
        if !evaluation.enabled {
            return Ok(None);
        }
        let HeldOutText { mut documents, has_conversations } = held_out_documents(config)?;
        if documents.is_empty() {
            say("nothing is held out, so there will be no table; --eval-data gives text for it");
            return Ok(None);
        }
        warn_if_learned(config)?;
        if has_conversations {
            say(
                "the table reads held-out conversations as texts: what is asked counts as what is answered",
            );
        }
        let lengths = match &evaluation.lengths {
            Some(lengths) => lengths.clone(),
            None => default_lengths(base, config.context.length),
        };
        if config.eval_data().is_none() {
            joined_if_short(&mut documents, &lengths);
        }
        let length = lengths.iter().copied().max().unwrap_or_default();
        let longest = documents.iter().map(Vec::len).max().unwrap_or_default();
        let without = share(&mut documents, evaluation.tokens, length);
        if documents.is_empty() {
            let reach = longest.min(evaluation.tokens);
            bail!(
                "the table needs a held-out document of `{length}` tokens, and the longest has `{longest}`, of which \
                 `{reach}` would be used; give longer text with --eval-data, other --eval-lengths or --eval-tokens, or \
                 --no-eval"
            );
        }
        if let Some(said) = left_out(&documents, without, evaluation.tokens) {
            say(&said);
        }
        Ok(Some(Self { documents, lengths }))
    }
}

/// Documents that happened to be held out and none of which is as long as the longest length become one text: better a table
/// that says less than none.
fn joined_if_short(documents: &mut Vec<Vec<u32>>, lengths: &[usize]) {
    let needed = lengths.iter().copied().max().unwrap_or_default();
    let longest = documents.iter().map(Vec::len).max().unwrap_or_default();
    if longest < needed && documents.len() > 1 {
        say(&format!(
            "the longest of {} held-out documents has {longest} tokens, so the table reads them as one text; what {needed} \
             tokens of one document are worth is told by --eval-data with longer ones",
            documents.len()
        ));
        *documents = vec![documents.concat()];
    }
}
