//! What can stop a training run.

use std::path::PathBuf;

use bytesize::ByteSize;
use longlora_adapters::{AdapterError, RopeError};
use longlora_attention::PatternError;
use longlora_data::DataError;
use longlora_llama::LlamaError;

/// Why a run cannot start, go on, or be resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model.
    #[error(transparent)]
    Llama(#[from] LlamaError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The attention pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The adapters.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The position embedding.
    #[error(transparent)]
    Rope(#[from] RopeError),
    /// The file system refused.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A configuration file with a mistake.
    #[error("cannot read `{path}`: {reason}")]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and key.
        reason: String,
    },
    /// A number that cannot be trained with.
    #[error("`{key}` is `{value}`, which cannot be; {needed}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        needed: &'static str,
    },
    /// The loss is no number any more.
    #[error(
        "the loss of step {step} is `{loss}`, so training stopped before it could spoil the weights; \
         lower the learning rate, or look at the data of that step; what was saved before is kept"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// The same, where only the way back met it.
    #[error(
        "the norm of the gradient of step {step} is `{grad_norm}`, and nothing was learnt from it; lower the learning rate, or \
         look at the data of that step; what was saved before is kept"
    )]
    GradientNotFinite {
        /// The step, from 1.
        step: u64,
        /// The norm of the whole gradient.
        grad_norm: f64,
    },
    /// Windows in which nothing is to be predicted.
    #[error(
        "step {step} has nothing to predict: its documents are of one token each; leave such documents out"
    )]
    NoTargets {
        /// The step, from 1.
        step: u64,
    },
    /// Less text than one window.
    #[error(
        "`{path}` has `{tokens}` tokens to learn from, and one window takes `{length}`; give more text, or a shorter context"
    )]
    ShortText {
        /// The file or folder.
        path: PathBuf,
        /// Tokens that are not held out.
        tokens: usize,
        /// Tokens of a window.
        length: usize,
    },
    /// Text of another model, to be measured on.
    #[error(
        "`{path}` has token id `{token}`, and the model's vocabulary ends before `{vocab_size}`; give text that is tokenized \
         for this model"
    )]
    UnknownToken {
        /// The file, or the folder that it is a part of.
        path: PathBuf,
        /// The token's id.
        token: u32,
        /// How many tokens the model knows.
        vocab_size: usize,
    },
    /// The text to measure on is another one, or gone.
    #[error(
        "`{path}` is no longer what the table of this run was to be measured on; put it back, or name the text to measure on \
         anew"
    )]
    OtherHeldOut {
        /// The file.
        path: PathBuf,
    },
    /// A device may have room for a step and none for one of its tensors.
    #[error(
        "a step over {tokens} tokens at once has a tensor of {needed:.1}, and this device takes none of more than {most:.1}; \
         take a shorter context, a smaller batch, or another device"
    )]
    TensorTooLarge {
        /// Tokens of a window, times the windows of a micro-batch.
        tokens: usize,
        /// Of the largest tensor.
        needed: ByteSize,
        /// What the device takes.
        most: ByteSize,
    },
    /// Nothing is overwritten unasked.
    #[error("run folder `{path}` exists already; choose another, or resume that run")]
    RunExists {
        /// The folder.
        path: PathBuf,
    },
    /// Two processes in one folder would write over each other.
    #[error("another process works in `{path}`; wait until it is done, or take another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// What a run noted of its steps was cut off.
    #[error("a line of `{path}` is torn; resuming the run mends it")]
    TornMetrics {
        /// The run's `metrics.jsonl`.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// There is nothing to go on with.
    #[error("`{path}` cannot be resumed: {reason}")]
    NotResumable {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl TrainError {
    pub(crate) fn file(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
