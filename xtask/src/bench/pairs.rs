//! Runs of both sides in turn.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use super::row::{Other, Quantity, Row};
use super::{Peer, Setting};

/// What was measured of one row: ours, and the other side if there is one.
pub(super) struct Pairs(Vec<(Value, Option<Value>)>);

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// One side of a pair.
#[derive(Clone, Copy)]
enum Side {
    Ours,
    Other,
}

impl Pairs {
    /// Runs `count` pairs, the two sides in changing order, and adds every line that they print to `lines`.
    pub(super) fn run(
        sh: &Shell,
        row: &Row,
        count: usize,
        setting: &Setting,
        peer: &Peer,
        lines: &Path,
    ) -> anyhow::Result<Self> {
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(lines)
            .with_context(|| format!("opening `{}`", lines.display()))?;
        let mut pairs = vec![];
        for pair in 0..count {
            let order: &[Side] = match (row.other, pair % 2) {
                (Other::Nobody, _) => &[Side::Ours],
                (_, 0) => &[Side::Ours, Side::Other],
                _ => &[Side::Other, Side::Ours],
            };
            let (mut ours, mut other) = (None, None);
            for &side in order {
                say(&format!("{}, pair {} of {count}, {}", row.name, pair + 1, side.name()));
                let line = run(sh, row, side, setting, peer)?;
                record(&mut log, &line, row, pair, side)?;
                match side {
                    Side::Ours => ours = Some(line),
                    Side::Other => other = Some(line),
                }
            }
            pairs.push((ours.context("ours is always run")?, other));
        }
        Ok(Self(pairs))
    }

    /// A quantity over all pairs; `None`, if a number is missing.
    pub(super) fn spread(&self, quantity: Quantity) -> Option<Spread> {
        let values = self.0.iter().map(|(ours, other)| quantity.of(ours, other.as_ref()));
        Spread::of(values.collect::<Option<_>>()?)
    }

    /// A number of our side and of the other, over all pairs.
    pub(super) fn sides(&self, key: &str) -> [Option<Spread>; 2] {
        let ours = self.0.iter().map(|(ours, _)| ours[key].as_f64());
        let other = self.0.iter().map(|(_, other)| other.as_ref()?[key].as_f64());
        [ours.collect::<Option<_>>(), other.collect()].map(|values| Spread::of(values?))
    }
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Other => "other",
        }
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Self { median, least, most })
    }
}

/// The line of JSON that one side prints.
fn run(sh: &Shell, row: &Row, side: Side, setting: &Setting, peer: &Peer) -> anyhow::Result<Value> {
    let program = &setting.program;
    let ours = |words: &str| {
        let words = setting.ours(words);
        cmd!(sh, "{program} bench {words...} --json").quiet().read()
    };
    let said = match (side, row.other) {
        (Side::Ours, _) => ours(row.ours)?,
        (Side::Other, Other::Ours(words)) => ours(words)?,
        (Side::Other, Other::Peer(words)) => {
            let (Peer { python, script }, words) = (peer, setting.theirs(words));
            cmd!(sh, "{python} {script} {words...}").quiet().read()?
        }
        (Side::Other, Other::Nobody) => bail!("`{}` has no other side", row.name),
    };
    let last = said.lines().last().context("a measurement said nothing")?;
    serde_json::from_str(last).with_context(|| format!("reading `{last}`"))
}

fn record(log: &mut File, line: &Value, row: &Row, pair: usize, side: Side) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let (row, side) = (row.name, side.name());
    let line = json!({ "row": row, "pair": pair + 1, "side": side, "at": now, "line": line });
    writeln!(log, "{line}")?;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "this says how far it is")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_pairs_and_its_median_counts() {
        let pair = |ours: f64, theirs: f64| {
            (json!({ "tokens_per_s": ours }), Some(json!({ "tokens_per_s": theirs })))
        };
        let pairs = Pairs(vec![pair(10.0, 10.0), pair(30.0, 10.0), pair(40.0, 20.0)]);
        let ratio = pairs.spread(Quantity::Speed);
        assert_eq!(ratio, Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        let [ours, theirs] = pairs.sides("tokens_per_s").map(|spread| spread.map(|s| s.median));
        assert_eq!((ours, theirs), (Some(30.0), Some(10.0)));
    }

    #[test]
    fn a_missing_number_is_no_zero() {
        let pairs = Pairs(vec![(json!({ "tokens_per_s": 1.0 }), None)]);
        assert_eq!(pairs.spread(Quantity::Speed), None);
        assert_eq!(pairs.sides("peak_rss_mib"), [None, None]);
    }
}
