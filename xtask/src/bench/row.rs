//! The rows of the table in docs/performance.md: what is run, and what its figures should be.

use serde_json::Value;

/// A comparison.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// Arguments of `longlora bench`.
    pub(super) ours: &'static str,
    /// What ours is compared with.
    pub(super) other: Other,
    /// What is read off.
    pub(super) figures: &'static [Figure],
}

/// The other side of a comparison.
#[derive(Debug, Clone, Copy)]
pub(super) enum Other {
    /// Arguments of benches/peer_bench.py, without model and text.
    Peer(&'static str),
    /// Arguments of `longlora bench`.
    Ours(&'static str),
    /// Ours alone.
    Nobody,
}

/// One number of a row, with its target.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) what: &'static str,
    pub(super) quantity: Quantity,
    /// What is aimed at.
    pub(super) goal: f64,
    /// What is just good enough.
    pub(super) limit: f64,
}

/// How a number is made from what was measured on both sides.
#[derive(Debug, Clone, Copy)]
pub(super) enum Quantity {
    /// Tokens/s, ours / the other's. The more, the better.
    Speed,
    /// Peak memory, ours / the other's. The less, the better.
    Memory,
    /// Seconds per token, ours / the other's. The less, the better.
    CostPerToken,
    /// Operations per second over a whole step / the machine's. The more, the better.
    ShareOfRate,
    /// Peak memory in GiB. The less, the better.
    Gibibytes,
}

impl Quantity {
    /// `None`, if a number is missing.
    pub(super) fn of(self, ours: &Value, other: Option<&Value>) -> Option<f64> {
        let number = |side: &Value, key: &str| side[key].as_f64();
        let ratio = |key: &str| Some(number(ours, key)? / number(other?, key)?);
        match self {
            Self::Speed => ratio("tokens_per_s"),
            Self::Memory => ratio("peak_rss_mib"),
            Self::CostPerToken => ratio("tokens_per_s").map(f64::recip),
            Self::ShareOfRate => number(ours, "share_without_recomputation"),
            Self::Gibibytes => number(ours, "peak_rss_mib").map(|mebibytes| mebibytes / 1024.0),
        }
    }

    /// Whether `value` is as good as `target`.
    pub(super) fn reaches(self, value: f64, target: f64) -> bool {
        match self {
            Self::Speed | Self::ShareOfRate => value >= target,
            Self::Memory | Self::CostPerToken | Self::Gibibytes => value <= target,
        }
    }
}

/// Every row, in the order of the table. `N` is the number of steps.
pub(super) static ROWS: [Row; 7] = [
    Row {
        name: "train-s2-8192",
        ours: "step --tokens 8192 --attention s2 --memory 20GiB --steps N",
        other: Other::Peer("train s2 8192 --steps N"),
        figures: &[Figure {
            what: "training, S²-Attn, 8,192 tokens, both at their fastest: tokens/s, ours / PyTorch",
            quantity: Quantity::Speed,
            goal: 1.8,
            limit: 1.3,
        }],
    },
    Row {
        name: "train-s2-8192-small",
        ours: "step --tokens 8192 --attention s2 --memory 1B --steps N",
        other: Other::Peer("train s2 8192 --checkpointing --steps N"),
        figures: &[
            Figure {
                what: "the same, both in their smallest memory: peak memory, ours / PyTorch",
                quantity: Quantity::Memory,
                goal: 0.5,
                limit: 0.8,
            },
            Figure {
                what: "the same, both in their smallest memory: tokens/s, ours / PyTorch",
                quantity: Quantity::Speed,
                goal: 1.5,
                limit: 1.15,
            },
        ],
    },
    Row {
        name: "train-full-4096",
        ours: "step --tokens 4096 --attention full --memory 20GiB --steps N",
        other: Other::Peer("train full 4096 --steps N"),
        figures: &[Figure {
            what: "training, full attention, 4,096 tokens: tokens/s, ours / PyTorch",
            quantity: Quantity::Speed,
            goal: 2.0,
            limit: 1.3,
        }],
    },
    Row {
        name: "forward-8192",
        ours: "forward --tokens 8192 --repeat N",
        other: Other::Peer("eval full 8192 --steps N"),
        figures: &[Figure {
            what: "perplexity forward, full attention, 8,192 tokens: tokens/s, ours / PyTorch",
            quantity: Quantity::Speed,
            goal: 1.5,
            limit: 1.1,
        }],
    },
    Row {
        name: "attention-8192",
        ours: "attention --tokens 8192 --repeat N",
        other: Other::Peer("attention full 8192 --steps N"),
        figures: &[Figure {
            what: "attention alone, forward and backward, 8,192 tokens: speed, ours / SDPA",
            quantity: Quantity::Speed,
            goal: 2.5,
            limit: 1.5,
        }],
    },
    Row {
        name: "gemm-share",
        ours: "floor --tokens 8192 --attention s2 --memory 20GiB --steps N",
        other: Other::Nobody,
        figures: &[Figure {
            what: "share of the measured GEMM rate over a training step, S²-Attn, 8,192 tokens",
            quantity: Quantity::ShareOfRate,
            goal: 0.8,
            limit: 0.6,
        }],
    },
    Row {
        name: "fixed-group-32768",
        ours: "step --tokens 32768 --attention s2 --group 2048 --memory 1B --steps N",
        other: Other::Ours("step --tokens 8192 --attention s2 --group 2048 --memory 1B --steps N"),
        figures: &[
            Figure {
                what: "groups of 2,048: cost per token, at 32,768 / at 8,192 tokens",
                quantity: Quantity::CostPerToken,
                goal: 1.03,
                limit: 1.15,
            },
            Figure {
                what: "peak memory of a training step of 32,768 tokens, GiB",
                quantity: Quantity::Gibibytes,
                goal: 4.0,
                limit: 8.0,
            },
        ],
    },
];

/// The row of this name.
pub(super) fn named(name: &str) -> Result<&'static Row, String> {
    let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
    ROWS.iter().find(|row| row.name == name).ok_or_else(|| format!("the rows are {}", known()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_ours_over_theirs() {
        let ours = json!({ "tokens_per_s": 30.0, "peak_rss_mib": 512 });
        let theirs = json!({ "tokens_per_s": 20.0, "peak_rss_mib": 2048 });
        let of = |quantity: Quantity| quantity.of(&ours, Some(&theirs));
        assert_eq!(of(Quantity::Speed), Some(1.5));
        assert_eq!(of(Quantity::Memory), Some(0.25));
        assert_eq!(of(Quantity::CostPerToken), Some(1.0 / 1.5));
        assert_eq!(of(Quantity::Gibibytes), Some(0.5));
        assert_eq!(of(Quantity::ShareOfRate), None);
        assert_eq!(Quantity::Speed.of(&ours, None), None);
    }

    #[test]
    fn every_limit_is_short_of_its_goal() {
        for figure in ROWS.iter().flat_map(|row| row.figures) {
            assert!(figure.quantity.reaches(figure.goal, figure.limit), "{}", figure.what);
            assert!(!figure.quantity.reaches(figure.limit, figure.goal), "{}", figure.what);
        }
    }
}
