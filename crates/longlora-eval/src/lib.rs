//! What came out: numbers about a model, each with its standard error.
//!
//! ```text
//! documents (token ids) ─► Protocol ─► windows ─► Llama ─► NLL of every scored token
//!                                                            │ sums and counts, in f64
//!                                    PerplexityTable ◄─ Measurement ─► paired_difference
//! ```
//!
//! A [`Protocol`] decides which predictions count. «Perplexity at 8,192 tokens» means little without it: for the same
//! model and text, windows side by side and a sliding window give different numbers.
//!
//! ```text
//! WholeWindows                  LastTokens { stride: 2 }
//!
//! · x x x                       · x x x
//!         · x x x                   · · x x
//!                 · x x x               · · x x      · read   x read and scored
//! ```

mod error;
mod protocol;
mod perplexity;
mod measurement;
mod table;
#[cfg(test)]
mod golden;

pub use error::EvalError;
pub use measurement::{Difference, Measurement, Stretch, paired_difference};
pub use perplexity::{PerplexityConfig, perplexity};
pub use protocol::Protocol;
pub use table::PerplexityTable;
