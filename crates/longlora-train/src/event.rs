//! What a run tells while it goes.

use std::fmt;

use longlora_data::Windows;

use crate::config::TrainingConfig;
use crate::document_counts::DocumentCounts;
use crate::execution::MemoryPlan;
use crate::step_report::StepReport;

/// Something that has just been decided or done.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A run goes on: from this step, of so many that were taken.
    Resumed {
        /// The last step that is saved; 0 if none is.
        step: u64,
        /// The last step that was taken.
        taken: u64,
    },
    /// Before the first step: what will be learned from.
    Reading(&'a Reading),
    /// Before the first step: what will be kept in memory.
    Planned(&'a MemoryPlan),
    /// A step was taken.
    Stepped(&'a StepReport),
}

/// The text of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Tokens to learn from.
    pub tokens: usize,
    /// Windows that they fill.
    pub windows: usize,
    /// How often each window is read in the whole run.
    pub times: f64,
    /// What the windows were made of.
    pub documents: DocumentCounts,
}

impl Reading {
    pub(crate) fn of(
        windows: &Windows,
        documents: DocumentCounts,
        training: &TrainingConfig,
    ) -> Self {
        let each = training.batch_size * training.accumulation;
        let read = training.steps as f64 * each as f64;
        let (tokens, windows) = (windows.tokens(), windows.len());
        Self { tokens, windows, times: read / windows as f64, documents }
    }
}

/// A sentence for the user.
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, windows, times, documents } = *self;
        match windows {
            1 => write!(f, "text: {tokens} tokens in one window, ")?,
            _ => write!(f, "text: {tokens} tokens in {windows} windows, ")?,
        }
        let (percent, rounded) = (100.0 * times, (10.0 * times).round() / 10.0);
        if percent < 0.1 {
            f.write_str("of which less than 0.1 % is read")?;
        } else if percent < 1.0 {
            write!(f, "of which {percent:.1} % is read")?;
        } else if times < 1.0 {
            write!(f, "of which {percent:.0} % are read")?;
        } else if rounded == 1.0 {
            f.write_str("each read once")?;
        } else {
            write!(f, "each read {rounded} times")?;
        }
        let DocumentCounts { texts, conversations, cut, left_out } = documents;
        if conversations == 0 {
            return Ok(());
        }
        write!(f, "; conversations: {conversations}, of which the answers are learned")?;
        if cut > 0 {
            write!(f, "; cut, since they are longer than a window: {cut}")?;
        }
        if left_out > 0 {
            write!(f, "; left out, since they answer beyond a window: {left_out}")?;
        }
        if texts > 0 {
            write!(f, "; texts beside them, of which all is learned: {texts}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_said_in_words() {
        let documents = DocumentCounts { texts: 9, ..DocumentCounts::default() };
        let said = |times| Reading { tokens: 2466, windows: 16, times, documents }.to_string();
        assert_eq!(said(1.5), "text: 2466 tokens in 16 windows, each read 1.5 times");
        assert_eq!(said(0.25), "text: 2466 tokens in 16 windows, of which 25 % are read");
        for (times, words) in [
            (24.0, "each read 24 times"),
            (1.04, "each read once"),
            (0.004, "of which 0.4 % is read"),
            (1e-6, "of which less than 0.1 % is read"),
        ] {
            assert_eq!(said(times), format!("text: 2466 tokens in 16 windows, {words}"));
        }
    }

    #[test]
    fn conversations_are_told_with_what_became_of_them() {
        let said = |texts, cut, left_out| {
            let documents = DocumentCounts { texts, conversations: 40, cut, left_out };
            Reading { tokens: 2466, windows: 16, times: 2.0, documents }.to_string()
        };
        let text = "text: 2466 tokens in 16 windows, each read 2 times; conversations: 40, of which the answers are learned";
        assert_eq!(said(0, 0, 0), text);
        let all = said(2, 3, 1);
        assert!(all.starts_with(text), "{all}");
        for part in ["longer than a window: 3", "beyond a window: 1", "all is learned: 2"] {
            assert!(all.contains(part), "{all}");
        }
    }
}
