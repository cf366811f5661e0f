//! What is measured at the end of a run, and on what.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{FinetuneConfig, HeldOut};
use crate::error::TrainError;
use crate::rope_target::LONGEST;

/// The table at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Text to measure on, a file or a folder, instead of what is held out, which is not learned from nevertheless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Its context lengths, in tokens; absent: the model's own, doubled up to the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lengths: Option<Vec<usize>>,
    /// Tokens to measure on at most, an equal share from the start of each document that is long enough.
    pub tokens: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { enabled: true, data: None, lengths: None, tokens: 65_536 }
    }
}

impl EvaluationConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`TrainError::Value`], naming the key and the value.
    pub fn validate(&self) -> Result<(), TrainError> {
        let lengths = self.lengths.as_deref();
        let of_lengths = |fine: fn(&[usize]) -> bool, needed: &'static str| {
            let shown = format!("{:?}", lengths.unwrap_or_default());
            ("evaluation.lengths", shown, lengths.is_none_or(fine), needed)
        };
        let checks = [
            of_lengths(|lengths| !lengths.is_empty(), "name at least one, or leave the key out"),
            of_lengths(
                |lengths| lengths.iter().all(|length| (2..=LONGEST).contains(length)),
                "predicting takes at least 2 tokens, and no more than 2^32 can be read",
            ),
            of_lengths(
                |lengths| (1..lengths.len()).all(|n| !lengths[..n].contains(&lengths[n])),
                "once is enough for each",
            ),
            (
                "evaluation.tokens",
                self.tokens.to_string(),
                (1..=LONGEST).contains(&self.tokens),
                "it has to be from 1 to 4,294,967,296",
            ),
        ];
        match checks.into_iter().find(|(_, _, fine, _)| !fine) {
            None => Ok(()),
            Some((key, value, _, needed)) => Err(TrainError::Value { key, value, needed }),
        }
    }
}

impl FinetuneConfig {
    /// The text that the table at the end is measured on, if it is not a share of the training text.
    pub fn eval_data(&self) -> Option<&Path> {
        match (&self.evaluation.data, &self.data.held_out) {
            (Some(path), _) | (None, HeldOut::Path(path)) => Some(path),
            (None, HeldOut::Fraction(_)) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longlora() -> FinetuneConfig {
        FinetuneConfig::longlora("model".into(), "text".into(), 8192)
    }

    /// As files of before there was such a section.
    #[test]
    fn what_is_usual_is_not_written_and_what_is_not_written_is_usual() {
        let toml = longlora().to_toml();
        assert!(!toml.contains("evaluation"), "{toml}");
        let read = FinetuneConfig::from_toml(&toml, Path::new("config.toml")).unwrap();
        assert_eq!(read.evaluation, EvaluationConfig::default());
        let toml = format!("{toml}\n[evaluation]\nenabled = false\n");
        let read = FinetuneConfig::from_toml(&toml, Path::new("config.toml")).unwrap();
        assert_eq!(
            read.evaluation,
            EvaluationConfig { enabled: false, ..EvaluationConfig::default() }
        );
    }

    #[test]
    fn all_else_comes_back_as_it_was() {
        let mut config = longlora();
        config.evaluation = EvaluationConfig {
            enabled: false,
            data: Some("other.txt".into()),
            lengths: Some(vec![4096, 8192]),
            tokens: 100_000,
        };
        let toml = config.to_toml();
        assert!(toml.contains("\n[evaluation]\n"), "{toml}");
        assert!(toml.contains("\nlengths = [4096, 8192]\n"), "{toml}");
        assert_eq!(FinetuneConfig::from_toml(&toml, Path::new("config.toml")).unwrap(), config);
        let config = config.relative_to(Path::new("runs"));
        assert_eq!(config.eval_data(), Some(Path::new("runs/other.txt")));
    }

    #[test]
    fn what_is_measured_on_is_named_apart_or_held_out() {
        let mut config = longlora();
        assert_eq!(config.eval_data(), None);
        config.data.held_out = HeldOut::Path("held".into());
        assert_eq!(config.eval_data(), Some(Path::new("held")));
        config.evaluation.data = Some("other".into());
        assert_eq!(config.eval_data(), Some(Path::new("other")));
    }

    #[track_caller]
    fn check(evaluation: EvaluationConfig, parts: [&str; 2]) {
        let config = FinetuneConfig { evaluation, ..longlora() };
        let error = config.validate().unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn a_table_that_cannot_be_is_refused_with_the_key_and_the_value() {
        for (lengths, shown) in
            [(vec![], "`[]`"), (vec![64, 1], "`[64, 1]`"), (vec![64, 32, 64], "`[64, 32, 64]`")]
        {
            let evaluation =
                EvaluationConfig { lengths: Some(lengths), ..EvaluationConfig::default() };
            check(evaluation, ["`evaluation.lengths`", shown]);
        }
        for (tokens, shown) in [(0, "`0`"), (usize::MAX, "`18446744073709551615`")] {
            let evaluation = EvaluationConfig { tokens, ..EvaluationConfig::default() };
            check(evaluation, ["`evaluation.tokens`", shown]);
        }
    }
}
