//! Which tokens may see which: what a user asks for.

use serde::{Deserialize, Serialize};

use crate::group_size::GroupSize;
use crate::layout::Layout;
use crate::segments::{AttentionPlan, Segments};

/// Who attends to whom. Every pattern is causal, and none crosses the border of a document.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AttentionPattern {
    /// Every token sees all earlier ones of its document.
    Full,
    /// S²-Attn: attention inside groups, some of them shifted by half a group.
    Shifted {
        /// Tokens per group; LongLoRA trains with a quarter of the context.
        group_size: GroupSize,
        /// Which groups are shifted; LongLoRA shifts half of the heads.
        shift: Shift,
    },
    /// Every token sees itself and the `window - 1` tokens before it (Mistral, arXiv:2310.06825).
    SlidingWindow {
        /// Tokens seen, the token itself included.
        window: usize,
    },
}

/// Which groups are moved by half a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shift {
    /// In every layer, the second half of the query heads (the paper).
    HalfHeads,
    /// In every second layer, all heads (the paper's ablation; worse when inference attends in full).
    AlternateLayers,
    /// None: groups by themselves, between which nothing passes ("short attention" in the paper's tables 1 and 6, which is
    /// what the shift is compared with).
    Unshifted,
}

/// Why a pattern cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum PatternError {
    /// The ratio is not a share.
    #[error("group ratio `{ratio}` is not in (0, 1]; LongLoRA uses 0.25")]
    Ratio {
        /// What was asked for.
        ratio: f64,
    },
    /// Half a group must be whole tokens.
    #[error(
        "group size `{tokens}` is not an even number of at least 2 tokens, so it cannot be shifted by half"
    )]
    OddGroup {
        /// What was asked for.
        tokens: usize,
    },
    /// The group holds the whole context, so that nothing would be sparse.
    #[error(
        "group size `{tokens}` does not divide a context of `{context_length}` tokens into several groups; \
         choose one below it, or full attention"
    )]
    OneGroup {
        /// What was asked for.
        tokens: usize,
        /// Tokens of the context.
        context_length: usize,
    },
    /// A window of zero tokens sees nothing.
    #[error("a sliding window of `0` tokens sees nothing; use at least 1")]
    EmptyWindow,
}

impl AttentionPattern {
    /// The paper's pattern: groups of a quarter of the context, half of the heads shifted.
    pub const LONGLORA: Self =
        Self::Shifted { group_size: GroupSize::Ratio(0.25), shift: Shift::HalfHeads };

    /// Checks the numbers against a training context.
    ///
    /// # Errors
    /// [`PatternError`], if the pattern could not do what it says at `context_length` tokens.
    pub fn validate(&self, context_length: usize) -> Result<(), PatternError> {
        match *self {
            Self::Full => Ok(()),
            Self::SlidingWindow { window: 0 } => Err(PatternError::EmptyWindow),
            Self::SlidingWindow { .. } => Ok(()),
            Self::Shifted { group_size, .. } => check_groups(group_size, context_length),
        }
    }

    /// The spans inside which each layer attends, for the rows of a batch.
    ///
    /// # Panics
    /// If the pattern is invalid by [`AttentionPattern::validate`] in itself, or a row is longer than `layout.seq`.
    pub fn plan(&self, layout: &Layout) -> AttentionPlan {
        match *self {
            Self::Full => AttentionPlan::same(Segments::full(layout)),
            Self::SlidingWindow { window } => {
                AttentionPlan::same(Segments::full(layout).with_window(window))
            }
            Self::Shifted { group_size, shift } => {
                let still = Segments::grouped(layout, group_size, [false, false]);
                match shift {
                    Shift::Unshifted => AttentionPlan::same(still),
                    Shift::HalfHeads => {
                        AttentionPlan::same(Segments::grouped(layout, group_size, [false, true]))
                    }
                    Shift::AlternateLayers => AttentionPlan::alternate(
                        still,
                        Segments::grouped(layout, group_size, [true, true]),
                    ),
                }
            }
        }
    }
}

/// Whether a context falls into several whole groups that can be shifted by half.
fn check_groups(group_size: GroupSize, context_length: usize) -> Result<(), PatternError> {
    match group_size {
        GroupSize::Ratio(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
            Err(PatternError::Ratio { ratio })
        }
        GroupSize::Tokens(tokens) if tokens < 2 || tokens % 2 == 1 => {
            Err(PatternError::OddGroup { tokens })
        }
        _ if group_size.tokens(context_length) >= context_length => Err(PatternError::OneGroup {
            tokens: group_size.tokens(context_length),
            context_length,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn shifted(group_size: GroupSize) -> AttentionPattern {
        AttentionPattern::Shifted { group_size, shift: Shift::HalfHeads }
    }

    #[track_caller]
    fn check(pattern: AttentionPattern, expected: &str) {
        assert_eq!(pattern.validate(33).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_pattern_that_cannot_do_what_it_says_is_refused_with_the_reason() {
        let not_a_share = "is not in (0, 1]; LongLoRA uses 0.25";
        for ratio in [0.0, -0.25, 1.5, f64::INFINITY, f64::NAN] {
            let expected = format!("group ratio `{ratio}` {not_a_share}");
            check(shifted(GroupSize::Ratio(ratio)), &expected);
        }
        for tokens in [0, 1, 7, 35] {
            let expected = format!(
                "group size `{tokens}` is not an even number of at least 2 tokens, so it cannot be shifted by half"
            );
            check(shifted(GroupSize::Tokens(tokens)), &expected);
        }
        check(
            shifted(GroupSize::Tokens(34)),
            "group size `34` does not divide a context of `33` tokens into several groups; \
             choose one below it, or full attention",
        );
        check(
            AttentionPattern::SlidingWindow { window: 0 },
            "a sliding window of `0` tokens sees nothing; use at least 1",
        );
    }

    #[test]
    fn a_ratio_that_leaves_one_group_is_refused_by_its_tokens() {
        let error = shifted(GroupSize::Ratio(1.0)).validate(32).unwrap_err();
        assert_eq!(error, PatternError::OneGroup { tokens: 32, context_length: 32 });
    }

    #[test]
    fn patterns_that_leave_several_groups_are_accepted() {
        for pattern in [
            AttentionPattern::Full,
            AttentionPattern::LONGLORA,
            shifted(GroupSize::Tokens(2)),
            shifted(GroupSize::Tokens(32)),
            shifted(GroupSize::Ratio(1e-9)),
            AttentionPattern::SlidingWindow { window: 1 },
            AttentionPattern::SlidingWindow { window: 99 },
        ] {
            pattern.validate(33).unwrap();
        }
    }

    #[test]
    fn a_ratio_is_rounded_down_to_an_even_group_of_at_least_two() {
        let quarter = GroupSize::Ratio(0.25);
        let tokens = [0, 3, 11, 15, 16, 23, 24, 8192].map(|length| quarter.tokens(length));
        assert_eq!(tokens, [2, 2, 2, 2, 4, 4, 6, 2048]);
    }
}
