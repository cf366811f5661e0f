//! What can be wrong with a user's model.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use longlora_adapters::{AdapterError, RopeError, TargetModule};
use longlora_gguf::{GgufError, shown_within};

/// Most characters of a name or a value from a file that an error shows.
const NAME: usize = 200;
/// Most characters of a reason that holds words of a file.
const REASON: usize = 500;

/// Why a model or an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// The file system refused.
    #[error("cannot {action} `{path}`{}", advice(.source))]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The folder is not a model.
    #[error("`{path}` is not a Hugging Face model folder: it has no `{missing}`")]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// The folder is not an adapter.
    #[error(
        "`{path}` is not an adapter folder: it has no `adapter_config.json`; give the folder that PEFT wrote"
    )]
    NotAnAdapter {
        /// The folder.
        path: PathBuf,
    },
    /// A path that names nothing.
    #[error("`{path}` does not exist; check the path")]
    NoSuchPath {
        /// The path.
        path: PathBuf,
    },
    /// A JSON file that is none, or lacks something.
    #[error("cannot read `{path}`")]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A model family or an option that would be ignored.
    #[error(
        "`{path}` has `{key}` = `{}`, which this version does not implement; {supported}",
        shown_within(.value, NAME)
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What there is instead.
        supported: &'static str,
    },
    /// A rank that no layer can have any use for.
    #[error(
        "a LoRA rank of `{rank}` is more than the widest layer of the model has columns, `{width}`; use a smaller one"
    )]
    Rank {
        /// The rank.
        rank: usize,
        /// Columns of the widest layer.
        width: usize,
    },
    /// A layer that is to get an update, and that the model does not have.
    #[error(
        "a model of type `{model_type}` has experts in place of `{target}`, and they take no LoRA; target q_proj, k_proj, v_proj and o_proj"
    )]
    NoSuchTarget {
        /// The layer.
        target: TargetModule,
        /// The model's family.
        model_type: String,
    },
    /// Something about a model that would be ignored.
    #[error("`{path}` has the key `{key}`, which this version does not know and would ignore")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A GGUF file that cannot be used.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// What a format has no place for.
    #[error("{what} cannot be written as {format}: {reason}")]
    Inexpressible {
        /// The part of the model.
        what: String,
        /// The format.
        format: &'static str,
        /// Why not, and what to do.
        reason: String,
    },
    /// Learned RoPE offsets for which other programs have no place.
    #[error(
        "the learned RoPE offsets cannot be written as `longrope` factors: they differ between layers and heads; train \
         offsets that all share, or drop these and see what that costs"
    )]
    OffsetsOfLayers,
    /// Learned RoPE offsets of frequencies that are not the same for every text.
    #[error(
        "the learned RoPE offsets cannot be written as `longrope` factors: dynamic NTK changes with the sequence at \
         hand, and they do not; train with another RoPE scaling"
    )]
    OffsetsOfDynamic,
    /// An option of PEFT that nobody here has heard of, and that may change what is computed.
    #[error(
        "`{path}` has `{}` = `{}`, which this version does not know; it knows PEFT up to 0.18",
        shown_within(.key, NAME), shown_within(.value, NAME)
    )]
    UnknownOption {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A value of another type than its key has.
    #[error("`{path}` has `{key}` = `{}`, but `{key}` is {needed}", shown_within(.value, NAME))]
    OptionType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        value: String,
        /// What its values are.
        needed: &'static str,
    },
    /// Parts of an adapter that cannot both be true.
    #[error("`{path}` contradicts itself: {}", shown_within(.reason, REASON))]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        reason: String,
    },
    /// A table for a vocabulary that is not the model's.
    #[error(
        "tensor `{}` of `{path}` is a table of `{found}` tokens, and the model has `{needed}`: the adapter is that of a model \
         whose vocabulary was resized; resize the base in the same way, save it, and give that one as the model",
        shown_within(.tensor, NAME)
    )]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its rows.
        found: usize,
        /// The model's.
        needed: usize,
    },
    /// Numbers that contradict each other.
    #[error("`{path}` does not describe a model: {}", shown_within(.reason, REASON))]
    Config {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        reason: String,
    },
    /// RoPE parameters that cannot be used.
    #[error("`{path}` has RoPE parameters that cannot be used")]
    Rope {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: RopeError,
    },
    /// Adapter parameters that cannot be used.
    #[error("`{path}` describes an adapter that cannot be used")]
    Adapter {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: AdapterError,
    },
    /// A file of tensors that is torn or none at all.
    #[error(
        "`{path}` is not a whole {format} file: {}; fetch or copy it again",
        shown_within(.reason, REASON)
    )]
    Torn {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// What the reader met.
        reason: String,
    },
    /// Weights in a type of a few bits.
    #[error(
        "tensor `{}` of `{path}` is quantised (`{}`), which is not read; use the model that it was quantised from, or a GGUF \
         file",
        shown_within(.tensor, NAME), shown_within(.kind, NAME)
    )]
    Quantised {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, or what tells of it.
        kind: String,
    },
    /// A tensor that the model needs.
    #[error("`{path}` lacks tensor `{}`", shown_within(.tensor, NAME))]
    Missing {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor of another shape.
    #[error(
        "tensor `{}` of `{path}` has shape {}, but the model needs {needed:?}",
        shown_within(.tensor, NAME), shown_within(&format!("{found:?}"), NAME)
    )]
    Shape {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The model's.
        needed: Vec<usize>,
    },
    /// A tensor that would be ignored.
    #[error(
        "`{path}` holds tensor `{}`, which the model has no place for",
        shown_within(.tensor, NAME)
    )]
    Unused {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Nothing is overwritten unasked.
    #[error("`{path}` exists already; choose another place, or remove it first")]
    Exists {
        /// The path.
        path: PathBuf,
    },
}

impl LlamaError {
    pub(crate) fn file(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}

/// What to do about a path that the file system refuses.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => "; check the path",
        ErrorKind::IsADirectory => "; give a file",
        _ => "",
    }
}
