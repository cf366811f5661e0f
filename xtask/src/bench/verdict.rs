//! What came out, beside what was wanted.

use std::path::Path;
use std::process::ExitCode;

use super::pairs::{Pairs, Spread};
use super::row::{Figure, Row};

/// One figure as it was measured.
pub(super) struct Verdict<'a> {
    row: &'a Row,
    figure: &'a Figure,
    measured: Option<Spread>,
    /// Medians of ours and of the other side.
    tokens_per_s: [Option<f64>; 2],
    peak_mib: [Option<f64>; 2],
}

impl<'a> Verdict<'a> {
    pub(super) fn of(row: &'a Row, figure: &'a Figure, pairs: &Pairs) -> Self {
        let medians = |key| pairs.sides(key).map(|spread| spread.map(|spread| spread.median));
        Self {
            row,
            figure,
            measured: pairs.spread(figure.quantity),
            tokens_per_s: medians("tokens_per_s"),
            peak_mib: medians("peak_rss_mib"),
        }
    }

    fn reaches(&self, target: f64) -> bool {
        self.measured.is_some_and(|measured| self.figure.quantity.reaches(measured.median, target))
    }

    fn word(&self) -> &'static str {
        match (self.reaches(self.figure.goal), self.reaches(self.figure.limit)) {
            (true, _) => "reached",
            (false, true) => "good enough",
            (false, false) => "MISSED",
        }
    }

    fn line(&self) -> String {
        let Self { row, figure: Figure { what, goal, limit, .. }, measured, .. } = self;
        let measured = measured.map_or("—".to_owned(), |Spread { median, least, most }| {
            format!("{median:.2} ({least:.2} to {most:.2})")
        });
        let sides = |medians: [Option<f64>; 2]| {
            let side = |median: Option<f64>| median.map_or("—".to_owned(), |m| format!("{m:.0}"));
            medians.map(side).join(" / ")
        };
        format!(
            "| {} | {what} | {measured} | {goal} | {limit} | {} | {} | {} |",
            row.name,
            self.word(),
            sides(self.tokens_per_s),
            sides(self.peak_mib),
        )
    }
}

/// Prints the table. Exit code 2, if something is worse than it may be; at shorter lengths than the targets', nothing is.
#[expect(clippy::print_stdout, reason = "this is the result")]
pub(super) fn report(verdicts: &[Verdict<'_>], raw: &Path, shrink: usize) -> ExitCode {
    println!(
        "| row | what | median (least to most) | goal | not worse than | | tokens/s, ours / other | peak MiB, ours / other |"
    );
    println!("| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |");
    for verdict in verdicts {
        println!("{}", verdict.line());
    }
    println!("\nevery line that was measured is in {}", raw.display());
    if shrink > 1 {
        println!("lengths were divided by {shrink}: the targets mean nothing");
        return ExitCode::SUCCESS;
    }
    let missed = verdicts.iter().any(|verdict| !verdict.reaches(verdict.figure.limit));
    if missed { ExitCode::from(2) } else { ExitCode::SUCCESS }
}
