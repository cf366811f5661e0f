//! Counts, from the command line: what is refused before anything is computed.

use std::fmt::Display;

use anyhow::{Result, ensure};
use clap::builder::RangedU64ValueParser;

/// Questions, repetitions and steps that somebody may wait for.
const MOST: u64 = 1_000_000;
/// Tokens of a window; longer than any model reads.
const MOST_TOKENS: u64 = 1 << 24;
/// Tokens that a model may be left to write.
const MOST_NEW_TOKENS: u64 = 1_000_000_000;

/// Of something that is done at least once.
pub(crate) fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST)
}

/// Of something that 0 leaves out.
pub(crate) fn any_number<T: TryFrom<u64>>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(0..=MOST)
}

/// Tokens of a window.
pub(crate) fn tokens() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST_TOKENS)
}

/// Tokens to write.
pub(crate) fn new_tokens() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST_NEW_TOKENS)
}

/// Refuses a list with the same value twice: what is measured there would count twice, too.
pub(crate) fn refuse_twice<T: PartialEq + Display>(option: &str, values: &[T]) -> Result<()> {
    for (index, value) in values.iter().enumerate() {
        ensure!(!values[..index].contains(value), "{option} has `{value}` twice; once is enough");
    }
    Ok(())
}
