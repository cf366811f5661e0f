//! What PEFT has no place for: how the model was trained, and how it has to be used.

use std::path::Path;

use longlora_adapters::{AdapterConfig, RopeConfig, RopeOffsetConfig};
use longlora_attention::AttentionPattern;
use serde::{Deserialize, Serialize};

use super::{OUR_CONFIG, PEFT_CONFIG, read_json};
use crate::error::LlamaError;
use crate::llama::Llama;
use crate::storage::WeightStorage;

/// What an adapter needs to be used as it was trained, and PEFT does not record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFacts {
    longlora_version: String,
    context_length: usize,
    training_pattern: AttentionPattern,
    rope: RopeConfig,
    rope_offset: Option<RopeOffsetConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trained_beside: Option<WeightStorage>,
}

impl AdapterFacts {
    /// Of a model with what `config` attached to it, trained on windows of `context_length` tokens.
    pub fn new(
        llama: &Llama,
        config: &AdapterConfig,
        context_length: usize,
        training_pattern: AttentionPattern,
    ) -> Self {
        Self {
            longlora_version: env!("CARGO_PKG_VERSION").to_owned(),
            context_length,
            training_pattern,
            rope: llama.config.rope.clone(),
            rope_offset: config.rope_offset,
            trained_beside: None,
        }
    }

    /// The same of a model whose frozen weights were kept so.
    pub fn beside(self, weights: WeightStorage) -> Self {
        Self { trained_beside: Some(weights), ..self }
    }

    /// Reads what stands beside an adapter, whose folder is checked to be one; `None` for an adapter of PEFT's own.
    ///
    /// # Errors
    /// [`LlamaError`], if the folder is not that of an adapter, or its `longlora.json` is torn.
    pub fn read(folder: &Path) -> Result<Option<Self>, LlamaError> {
        if !folder.exists() {
            return Err(LlamaError::NoSuchPath { path: folder.to_owned() });
        }
        if !folder.join(PEFT_CONFIG).exists() {
            return Err(LlamaError::NotAnAdapter { path: folder.to_owned() });
        }
        let path = folder.join(OUR_CONFIG);
        // A link to nothing is there, and says that something is missing.
        if path.symlink_metadata().is_ok() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Version of this program that wrote it.
    pub fn longlora_version(&self) -> &str {
        &self.longlora_version
    }

    /// Tokens that the model is to read at once.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Pattern of training; inference attends in full unless told otherwise.
    pub fn training_pattern(&self) -> AttentionPattern {
        self.training_pattern
    }

    /// Position embedding of training: to be used at inference, too.
    pub fn rope(&self) -> &RopeConfig {
        &self.rope
    }

    /// How the frozen weights were kept in training, if that was noted.
    pub fn trained_beside(&self) -> Option<WeightStorage> {
        self.trained_beside
    }

    /// Learnable offsets, if there are any.
    pub fn rope_offset(&self) -> Option<RopeOffsetConfig> {
        self.rope_offset
    }

    /// Checks what no tensor would notice.
    pub(super) fn check(&self, llama: &Llama, path: &Path) -> Result<(), LlamaError> {
        let rope = |source| LlamaError::Rope { path: path.to_owned(), source };
        self.rope.validate().map_err(rope)?;
        let (ours, models) = (self.rope.head_dim, llama.config.rope.head_dim);
        if ours != models {
            let reason = format!("its `rope.head_dim` is `{ours}`, and the model's is `{models}`");
            return Err(LlamaError::Config { path: path.to_owned(), reason });
        }
        Ok(())
    }
}
