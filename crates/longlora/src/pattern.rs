//! Who sees whom, from the command line.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use longlora_attention::{AttentionPattern, GroupSize, Shift};

/// Attention pattern.
#[derive(Args, Default)]
pub(crate) struct PatternArgs {
    /// Attention pattern [default: shifted in training, full elsewhere]
    #[arg(long, value_name = "PATTERN")]
    attention: Option<PatternKind>,
    /// Tokens per group; an even number. The cost per token is then flat in the context length
    #[arg(long, value_name = "TOKENS", conflicts_with = "group_ratio")]
    group_size: Option<usize>,
    /// Share of the context per group [default: 0.25, LongLoRA's]
    #[arg(long, value_name = "RATIO")]
    group_ratio: Option<f64>,
    /// Which groups are shifted by half a group [default: half-heads]
    #[arg(long, value_name = "MODE")]
    shift: Option<ShiftKind>,
    /// Tokens that a token sees, itself included, with `--attention sliding-window`
    #[arg(long, value_name = "TOKENS")]
    window: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum PatternKind {
    /// Every token sees all earlier ones
    Full,
    /// Shifted sparse attention: groups, some of them shifted by half a group
    Shifted,
    /// Every token sees the last few
    SlidingWindow,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShiftKind {
    /// In every layer, the second half of the heads (the paper)
    HalfHeads,
    /// In every second layer, all heads
    AlternateLayers,
    /// None: nothing passes between groups
    Unshifted,
}

impl PatternArgs {
    /// The pattern asked for, what is not said taken from `default`.
    pub(crate) fn over(&self, default: AttentionPattern) -> Result<AttentionPattern> {
        let kind = self.attention.unwrap_or(match default {
            _ if self.group_size.is_some() || self.group_ratio.is_some() => PatternKind::Shifted,
            AttentionPattern::Full => PatternKind::Full,
            AttentionPattern::Shifted { .. } => PatternKind::Shifted,
            AttentionPattern::SlidingWindow { .. } => PatternKind::SlidingWindow,
        });
        let grouped = self.group_size.is_some() || self.group_ratio.is_some();
        if kind != PatternKind::Shifted && (grouped || self.shift.is_some()) {
            bail!("--group-size, --group-ratio and --shift go with `--attention shifted` alone");
        }
        if kind != PatternKind::SlidingWindow && self.window.is_some() {
            bail!("--window goes with `--attention sliding-window` alone");
        }
        Ok(match kind {
            PatternKind::Full => AttentionPattern::Full,
            PatternKind::Shifted => self.shifted(default),
            PatternKind::SlidingWindow => match (self.window, default) {
                (Some(window), _) => AttentionPattern::SlidingWindow { window },
                (None, AttentionPattern::SlidingWindow { .. }) => default,
                (None, _) => bail!("`--attention sliding-window` needs --window"),
            },
        })
    }

    fn shifted(&self, default: AttentionPattern) -> AttentionPattern {
        let (mut group_size, mut shift) = match default {
            AttentionPattern::Shifted { group_size, shift } => (group_size, shift),
            _ => (GroupSize::Ratio(0.25), Shift::HalfHeads),
        };
        if let Some(tokens) = self.group_size {
            group_size = GroupSize::Tokens(tokens);
        }
        if let Some(ratio) = self.group_ratio {
            group_size = GroupSize::Ratio(ratio);
        }
        match self.shift {
            None => {}
            Some(ShiftKind::HalfHeads) => shift = Shift::HalfHeads,
            Some(ShiftKind::AlternateLayers) => shift = Shift::AlternateLayers,
            Some(ShiftKind::Unshifted) => shift = Shift::Unshifted,
        }
        AttentionPattern::Shifted { group_size, shift }
    }
}
