//! The text of a comparison: tokenized and parted once, so that every method learns from the same and is measured on the
//! same.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use longlora_data::{Corpus, Tokenizer};
use longlora_llama::write_atomically;
use longlora_train::{FinetuneConfig, HeldOut};
use sha2::{Digest, Sha256};

use crate::held_out::{left_out, share};

/// What is learned from, and what is measured on.
pub(super) struct Text {
    /// Where the token ids to train on are, once they were [left](Self::leave_in) there.
    pub(super) train: PathBuf,
    json: Vec<u8>,
    /// SHA-256 of that file.
    pub(super) train_sha256: String,
    /// What is measured on.
    pub(super) held_out: Vec<Vec<u32>>,
    /// SHA-256 of it.
    pub(super) held_out_sha256: String,
}

impl Text {
    /// Reads the text that `config` names; `tokens` are measured on at most, an equal share from the start of each document
    /// that is long enough.
    pub(super) fn read(config: &FinetuneConfig, tokens: usize) -> Result<Self> {
        let mut train = tokenize(&config.data.path, &config.model.path)?;
        let mut held_out = match &config.data.held_out {
            HeldOut::Path(path) => tokenize(path, &config.model.path)?,
            HeldOut::Fraction(fraction) => part(&mut train, *fraction),
        };
        let whole = held_out.iter().map(Vec::len).max().unwrap_or_default();
        let length = config.context.length;
        let used = whole.min(tokens);
        let without = share(&mut held_out, tokens, length);
        ensure!(
            !held_out.is_empty(),
            "the longest held-out document has `{whole}` tokens, of which `{used}` would be used, and `{length}` are \
             measured; give longer text with --eval-data, or raise --eval-tokens"
        );
        if let Some(said) = left_out(&held_out, without, tokens) {
            crate::say(&said);
        }
        let json = serde_json::to_vec(&train)?;
        let (train_sha256, held_out_sha256) =
            (sha256(&json), sha256(&serde_json::to_vec(&held_out)?));
        Ok(Self { train: PathBuf::new(), json, train_sha256, held_out, held_out_sha256 })
    }

    /// Checks that some document is as long as each of the lengths to measure at.
    pub(super) fn refuse_longer(&self, lengths: &[usize]) -> Result<()> {
        let longest = self.held_out.iter().map(Vec::len).max().unwrap_or_default();
        match lengths.iter().find(|&&length| length > longest) {
            None => Ok(()),
            Some(length) => bail!(
                "--eval-lengths has `{length}`, and of the longest held-out document `{longest}` tokens are used; give \
                 longer text with --eval-data, raise --eval-tokens, or measure a shorter length"
            ),
        }
    }

    /// Writes what is trained on into a folder.
    pub(super) fn leave_in(&mut self, folder: &Path) -> Result<()> {
        // Absolute: a run's settings are read from another folder.
        self.train = std::path::absolute(folder.join("train.json"))?;
        Ok(write_atomically(&self.train, &self.json)?)
    }
}

fn tokenize(data: &Path, model: &Path) -> Result<Vec<Vec<u32>>> {
    let corpus = Corpus::read(data)?;
    let tokenizer = corpus.has_text().then(|| Tokenizer::read(model)).transpose()?;
    Ok(corpus.tokenize(tokenizer.as_ref())?)
}

/// Takes this share of the tokens from the end; a document is cut where it has to be.
fn part(documents: &mut Vec<Vec<u32>>, fraction: f64) -> Vec<Vec<u32>> {
    let all: usize = documents.iter().map(Vec::len).sum();
    let mut left = (fraction * all as f64).round() as usize;
    let mut taken = vec![];
    while left > 0
        && let Some(document) = documents.last_mut()
    {
        let end = document.split_off(document.len().saturating_sub(left));
        left -= end.len();
        taken.push(end);
        if documents.last().is_some_and(Vec::is_empty) {
            documents.pop();
        }
    }
    taken.reverse();
    taken
}

/// In hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_held_out_and_nothing_is_in_both() {
        let mut documents = vec![vec![1, 2, 3, 4], vec![5, 6], vec![7, 8]];
        assert_eq!(part(&mut documents, 3.0 / 8.0), [vec![6], vec![7, 8]]);
        assert_eq!(documents, [vec![1, 2, 3, 4], vec![5]]);
        assert_eq!(part(&mut documents, 0.0), Vec::<Vec<u32>>::new());
    }
}
