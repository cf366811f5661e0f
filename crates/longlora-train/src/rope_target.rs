//! The context that a run is for.

use longlora_adapters::RopeKind;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Tokens of a window, beyond which sizes in bytes would no longer fit into a number.
pub(crate) const LONGEST: usize = 1 << 32;

/// The context to train for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeTarget {
    /// Tokens that the model is to read at once.
    pub length: usize,
    /// Tokens of a training window, where they are to be fewer: the position embedding is stretched to `length` all the
    /// same. Absent, a window has the whole length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_length: Option<usize>,
    /// Scaling from the model's own context to `length`; LongLoRA's is `linear`. A model that reaches so far already
    /// keeps its own.
    pub rope_scaling: RopeKind,
}

impl RopeTarget {
    /// Tokens of a training window.
    pub fn window(&self) -> usize {
        self.train_length.unwrap_or(self.length)
    }

    /// Checks both lengths.
    ///
    /// # Errors
    /// [`TrainError::Value`], naming the key and the value.
    pub(crate) fn validate(&self) -> Result<(), TrainError> {
        if !(2..=LONGEST).contains(&self.length) {
            return Err(TrainError::Value {
                key: "context.length",
                value: self.length.to_string(),
                needed: "predicting takes at least 2 tokens, and no more than 2^32 can be read",
            });
        }
        match self.train_length {
            Some(window) if !(2..=self.length).contains(&window) => Err(TrainError::Value {
                key: "context.train_length",
                value: window.to_string(),
                needed: "a training window has at least 2 tokens, and no more than the context to reach",
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longlora_attention::{AttentionPattern, GroupSize, Shift};

    use crate::config::FinetuneConfig;

    fn with(train_length: Option<usize>) -> FinetuneConfig {
        let mut config = FinetuneConfig::longlora("model".into(), "text".into(), 8192);
        config.context.train_length = train_length;
        config
    }

    #[test]
    fn windows_may_be_shorter_than_the_context_and_not_longer() {
        for (train_length, window) in [(None, 8192), (Some(4096), 4096), (Some(8192), 8192)] {
            let config = with(train_length);
            config.validate().unwrap();
            assert_eq!(config.context.window(), window);
            let toml = config.to_toml();
            assert_eq!(toml.contains("train_length"), train_length.is_some());
            assert_eq!(FinetuneConfig::from_toml(&toml, Path::new("run.toml")).unwrap(), config);
        }
        for train_length in [0, 1, 8193] {
            let error = with(Some(train_length)).validate().unwrap_err().to_string();
            let value = format!("`{train_length}`");
            assert!(error.contains("`context.train_length`") && error.contains(&value), "{error}");
        }
    }

    #[test]
    fn groups_are_of_a_window() {
        let mut config = with(Some(1024));
        let (group_size, shift) = (GroupSize::Tokens(2048), Shift::HalfHeads);
        config.attention = AttentionPattern::Shifted { group_size, shift };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("`2048`") && error.contains("`1024`"), "{error}");
    }
}
