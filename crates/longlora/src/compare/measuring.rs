//! Measuring one model; what was measured is kept by what it was measured on.

use std::path::{Path, PathBuf};

use anyhow::Result;
use longlora_attention::AttentionPattern;
use longlora_data::Tokenizer;
use longlora_eval::{
    Answer, EvalError, Examinee, Measurement, PasskeyProtocol, PerplexityConfig, Prompter,
    Protocol, Question, Results, passkey_questions, perplexity,
};
use longlora_llama::{Llama, write_atomically};
use serde::{Deserialize, Serialize};

use super::data::sha256;
use crate::exam::ask;
use crate::progress::Progress;

/// Perplexities and answers of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Measured {
    /// Of the model, the text, and how it was measured.
    key: String,
    /// At each length, under full attention.
    pub(super) perplexities: Vec<Measurement>,
    /// At the training length, under the pattern of the training, where that was sparse.
    pub(super) sparse: Option<Measurement>,
    /// Of the passkeys.
    pub(super) answers: Vec<Answer>,
}

/// How models are measured.
pub(super) struct Bench<'a> {
    pub(super) folder: PathBuf,
    pub(super) held_out: &'a [Vec<u32>],
    pub(super) held_out_sha256: &'a str,
    /// In tokens, ascending.
    pub(super) lengths: &'a [usize],
    /// Passkeys, and what turns them into tokens; `None` for a model without a tokenizer.
    pub(super) passkeys: Option<(Prompter, Vec<Question>)>,
}

impl Bench<'_> {
    /// Measures a model, or takes what was measured of it before; `load` is called in the first case alone. `trained` is
    /// the pattern and the length of its training.
    pub(super) fn measure(
        &self,
        name: &str,
        fingerprint: &str,
        trained: Option<(AttentionPattern, usize)>,
        load: impl FnOnce() -> Result<Llama>,
    ) -> Result<Measured> {
        let settings =
            format!("{fingerprint}\n{}\n{:?}\n{trained:?}", self.held_out_sha256, self.lengths);
        let asked: Vec<&str> = self
            .passkeys
            .iter()
            .flat_map(|(_, questions)| questions)
            .map(|one| one.text.as_str())
            .collect();
        let key = sha256(format!("{settings}\n{}", sha256(asked.concat().as_bytes())).as_bytes());
        let path = self.folder.join("measurements").join(format!("{name}.json"));
        if let Some(measured) = read(&path, &key) {
            return Ok(measured);
        }
        let llama = load()?;
        let full = |length| self.perplexity(name, &llama, length, AttentionPattern::Full);
        let perplexities =
            self.lengths.iter().map(|&length| full(length)).collect::<Result<_>>()?;
        let sparse = match trained {
            None | Some((AttentionPattern::Full, _)) => None,
            Some((pattern, length)) => Some(self.perplexity(name, &llama, length, pattern)?),
        };
        let answers = self.ask(llama, name, fingerprint)?;
        let measured = Measured { key, perplexities, sparse, answers };
        write_atomically(&path, &serde_json::to_vec(&measured)?)?;
        Ok(measured)
    }

    fn perplexity(
        &self,
        name: &str,
        llama: &Llama,
        length: usize,
        pattern: AttentionPattern,
    ) -> Result<Measurement> {
        let protocol = Protocol::WholeWindows { stride: None };
        let config = PerplexityConfig { length, protocol, pattern, max_tokens: None };
        let mut progress = Progress::new();
        let what = format!("{name}, {length} tokens");
        let mut show = |done, all| progress.window(&what, done, all);
        let measurement = perplexity(llama, self.held_out, &config, &mut show)?;
        progress.finish();
        Ok(measurement)
    }

    /// Also what is longer than a model is meant for: it is asked as it is.
    fn ask(&self, llama: Llama, name: &str, key: &str) -> Result<Vec<Answer>> {
        let Some((prompter, questions)) = &self.passkeys else { return Ok(vec![]) };
        let longest = self.lengths.last().copied().unwrap_or_default();
        let mut results = Results::open(&self.folder.join("passkey.jsonl"))?;
        let examinee = Examinee {
            room: llama.config.rope.max_position_embeddings.max(longest),
            llama: llama.for_generation(),
            // In its folder a name stands for all else.
            name: name.to_owned(),
            weights: None,
            adapter: None,
            key: key.to_owned(),
        };
        ask(&examinee, "passkey", prompter, questions, &mut results)
    }
}

fn read(path: &Path, key: &str) -> Option<Measured> {
    let measured: Measured = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (measured.key == key).then_some(measured)
}

/// The passkeys of a comparison: five depths of each length that has room for one. `None`, if the model's folder has no
/// tokenizer.
pub(super) fn passkeys(
    model: &Path,
    lengths: &[usize],
    trials: usize,
) -> Result<Option<(Prompter, Vec<Question>)>> {
    let Ok(tokenizer) = Tokenizer::read(model) else { return Ok(None) };
    let prompter = Prompter::text(tokenizer);
    let mut questions = vec![];
    for &length in lengths {
        let depths = vec![0.0, 0.25, 0.5, 0.75, 1.0];
        let protocol = PasskeyProtocol::Grid { lengths: vec![length], depths, trials };
        match passkey_questions(&protocol, 0, &prompter) {
            Err(EvalError::ShortContext { .. }) => {}
            asked => questions.extend(asked?),
        }
    }
    Ok(Some((prompter, questions)))
}
