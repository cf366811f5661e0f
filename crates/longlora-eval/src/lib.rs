//! What came out: numbers about a model, each with its standard error.
//!
//! ```text
//! documents (token ids) ─► Protocol ─► windows ─► Llama ─► NLL of every scored token
//!                                                            │ sums and counts, in f64
//!                                    PerplexityTable ◄─ Measurement ─► paired_difference
//! ```
//!
//! Perplexity is not all that a model can do: an [`exam`] asks it to find and use what stands far back.
//!
//! ```text
//! passkey, needle, RULER, LongBench ─► Question ─► Prompter ─► Llama ─► Answer ─► HeatMap, RulerScores, …
//!                                                                        │
//!                                                      Results, a file that only grows
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
mod bootstrap;
mod protocol;
mod perplexity;
mod position_bins;
mod pieces;
mod measurement;
mod context_gain;
mod divergence;
mod retention;
mod grid;
mod table;
mod question;
mod scoring;
mod metrics;
mod prompter;
mod exam;
mod results;
mod heat_map;
mod draws;
mod fit;
mod sentences;
mod passkey;
mod needle;
mod ruler;
mod longbench;
mod report;
#[cfg(test)]
mod golden;

pub use bootstrap::{ENOUGH_PIECES, Interval, bootstrap};
pub use context_gain::context_gain;
pub use divergence::{Divergence, divergence};
pub use error::EvalError;
pub use exam::{Examinee, exam};
pub use grid::Grid;
pub use heat_map::{HeatCell, HeatMap};
pub use longbench::{
    LengthClass, LongBenchItem, LongBenchKind, LongBenchTask, longbench_questions, read_longbench,
    read_narrativeqa, read_qasper,
};
pub use measurement::{Difference, Measurement, Stretch, paired_difference};
pub use needle::{NeedleConfig, NeedleKind, needle_questions};
pub use passkey::{PasskeyProtocol, passkey_questions};
pub use perplexity::{PerplexityConfig, perplexity, perplexity_by};
pub use pieces::Pieces;
pub use position_bins::PositionBin;
pub use prompter::Prompter;
pub use protocol::Protocol;
pub use question::{Answer, Question};
pub use report::{Cost, LossCurve, Report, ReportError, ReportTable};
pub use results::Results;
pub use retention::Retention;
pub use ruler::{QaItem, RulerConfig, RulerScores, RulerTask, read_qa_items, ruler_questions};
pub use scoring::Scoring;
pub use table::PerplexityTable;
