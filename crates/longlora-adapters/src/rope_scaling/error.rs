/// Why a description of RoPE cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RopeError {
    /// A scaling nobody here knows.
    #[error("unknown rope scaling `{kind}`; use one of {known}")]
    UnknownKind {
        /// The name as it was given.
        kind: String,
        /// The names that are read in its place, separated by commas.
        known: String,
    },
    /// The dictionary has fields of a scaling but no type.
    #[error("rope field `rope_type` is missing; name one of {known}")]
    MissingKind {
        /// The names that are read, separated by commas.
        known: String,
    },
    /// The dictionary names its type twice, differently.
    #[error("`rope_type` is `{rope_type}` but `type` is `{legacy}`; keep `rope_type` only")]
    TwoKinds {
        /// Value of `rope_type`.
        rope_type: String,
        /// Value of `type`, its older spelling.
        legacy: String,
    },
    /// `rope_scaling` is neither null nor a dictionary.
    #[error("rope scaling `{value}` is not a dictionary; write null for plain RoPE")]
    NotADictionary {
        /// What stands there instead.
        value: serde_json::Value,
    },
    /// A field that the scaling cannot do without is absent or null.
    #[error(
        "rope field `{field}` is missing; rope scaling `{kind}` needs it in the model's config"
    )]
    MissingField {
        /// Name of the scaling.
        kind: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A field has a value of another type.
    #[error("rope field `{field}` is `{value}`; it must be {wanted}")]
    IllTyped {
        /// Name of the field.
        field: &'static str,
        /// What stands there instead.
        value: serde_json::Value,
        /// The type that is read.
        wanted: &'static str,
    },
    /// A number is outside of its range.
    #[error("rope field `{field}` is `{value}`; it must be {wanted}")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The range, in words.
        wanted: String,
    },
    /// A list of factors does not have one entry per pair.
    #[error("rope field `{field}` has `{actual}` entries; it needs `{expected}`, half of head_dim")]
    WrongLength {
        /// Name of the field.
        field: &'static str,
        /// `head_dim / 2`.
        expected: usize,
        /// Entries it has.
        actual: usize,
    },
    /// A linear scaling that may have led to the context, or may lead on from it.
    #[error(
        "`max_position_embeddings` is `{said}` beside a linear `rope_scaling` by `{factor}`, and may be the context \
         before that scaling or after it; add \"original_max_position_embeddings\" with the context before it to \
         config.json"
    )]
    UnclearOriginal {
        /// What the config has as `max_position_embeddings`.
        said: usize,
        /// The scaling's.
        factor: f64,
    },
}
