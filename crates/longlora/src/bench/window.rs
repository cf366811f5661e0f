//! How long a window is, and who sees whom in it.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use longlora_attention::{AttentionPattern, GroupSize, Shift};

use crate::count::tokens;

/// A training window.
#[derive(Args)]
pub(super) struct WindowArgs {
    /// Tokens of the window
    #[arg(long, value_name = "TOKENS", value_parser = tokens())]
    pub(super) tokens: usize,
    /// Who sees whom
    #[arg(long, value_name = "PATTERN")]
    attention: PatternKind,
    /// Tokens per group of shifted sparse attention [default: a quarter of the window]
    #[arg(long, value_name = "TOKENS")]
    group: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PatternKind {
    /// Every token sees all earlier ones
    Full,
    /// Shifted sparse attention, half of the heads shifted by half a group
    S2,
}

impl WindowArgs {
    /// The pattern, which the window has room for.
    pub(super) fn pattern(&self) -> Result<AttentionPattern> {
        let pattern = match self.attention {
            PatternKind::Full if self.group.is_some() => {
                bail!("full attention has no groups; leave --group out, or take --attention s2")
            }
            PatternKind::Full => AttentionPattern::Full,
            PatternKind::S2 => shifted(self.group_size()),
        };
        pattern.validate(self.tokens)?;
        Ok(pattern)
    }

    /// `full` or `s2`
    pub(super) fn name(&self) -> &'static str {
        match self.attention {
            PatternKind::Full => "full",
            PatternKind::S2 => "s2",
        }
    }

    /// Tokens per group, if there are groups.
    pub(super) fn group(&self) -> Option<usize> {
        match self.attention {
            PatternKind::Full => None,
            PatternKind::S2 => Some(self.group_size()),
        }
    }

    fn group_size(&self) -> usize {
        self.group.unwrap_or(self.tokens / 4)
    }
}

/// S²-Attn in groups of so many tokens.
pub(super) fn shifted(group: usize) -> AttentionPattern {
    AttentionPattern::Shifted { group_size: GroupSize::Tokens(group), shift: Shift::HalfHeads }
}
