//! What a parameter is for.

/// What a parameter is for, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Lora,
    RopeOffset,
    Norm,
    Embedding,
    Head,
    Weight,
}

impl Role {
    pub(crate) fn of(path: &str) -> Self {
        match path.rsplit_once('.') {
            Some((_, "lora_a" | "lora_b" | "magnitude")) => Self::Lora,
            Some((_, "delta")) => Self::RopeOffset,
            Some((_, "gamma")) => Self::Norm,
            Some((layer, "weight")) if layer.ends_with("embed_tokens") => Self::Embedding,
            Some(("lm_head", "weight")) => Self::Head,
            _ => Self::Weight,
        }
    }
}
