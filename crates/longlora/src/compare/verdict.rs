//! Which method to take, and why.

use anyhow::Result;
use longlora_eval::{Measurement, Retention, paired_difference};

/// The short context may lose so much; `eval retention` has the same default.
const LOSS: f64 = 0.05;

/// A method with what decides about it; perplexities are means over its seeds.
pub(super) struct Candidate<'a> {
    pub(super) title: &'a str,
    /// At the longest length.
    pub(super) longest: &'a Measurement,
    /// At the model's own length and below, against the untouched model.
    pub(super) retention: &'a [Retention],
    /// Seconds of training; none for an untrained one.
    pub(super) seconds: f64,
}

impl Candidate<'_> {
    fn keeps_the_short_context(&self) -> bool {
        self.retention.iter().all(|row| row.passes(LOSS))
    }
}

/// One sentence per step of the decision: the best perplexity; those that cannot be told from it; of these, one that keeps
/// the short context, and of these the cheapest.
pub(super) fn recommend(candidates: &[Candidate<'_>]) -> Result<Vec<String>> {
    let by_nll =
        |a: &&Candidate<'_>, b: &&Candidate<'_>| a.longest.nll().total_cmp(&b.longest.nll());
    let Some(best) = candidates.iter().min_by(by_nll) else { return Ok(vec![]) };
    let length = best.longest.length;
    let mut reasons = vec![format!(
        "At {length} tokens {} has the lowest perplexity, {:.3}.",
        best.title,
        best.longest.perplexity()
    )];
    let mut equals = vec![];
    for candidate in candidates {
        let difference = paired_difference(candidate.longest, best.longest)?;
        let told = difference.interval.is_some_and(|interval| interval.excludes_zero());
        if !told {
            equals.push(candidate);
        }
    }
    let others: Vec<&str> =
        equals.iter().map(|one| one.title).filter(|title| *title != best.title).collect();
    if !others.is_empty() {
        reasons.push(format!(
            "On this text it cannot be told from {} (95 % intervals of the paired differences).",
            others.join(", ")
        ));
    }
    let keeping: Vec<_> =
        equals.iter().copied().filter(|one| one.keeps_the_short_context()).collect();
    let (pool, limit) = (if keeping.is_empty() { &equals } else { &keeping }, 100.0 * LOSS);
    let cheapest = pool.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).unwrap_or(&best);
    let short = match keeping.is_empty() {
        false => format!("none of its short lengths lost more than {limit:.0} %"),
        true => format!("though it, as all of them, lost more than {limit:.0} % at a short length"),
    };
    let cost = match cheapest.seconds > 0.0 {
        true if pool.len() > 1 => {
            format!("it trained for {:.0} s, the least of them", cheapest.seconds)
        }
        true => format!("it trained for {:.0} s", cheapest.seconds),
        false => "it needs no training".to_owned(),
    };
    reasons.push(format!("Recommended: {}; {short}, and {cost}.", cheapest.title));
    Ok(reasons)
}

#[cfg(test)]
mod tests {
    use longlora_eval::Stretch;
    use serde_json::json;

    use super::*;

    /// 20 stretches whose difficulty differs, all better or worse by `shift`, give or take `noise`.
    fn measurement(shift: f64, noise: f64) -> Measurement {
        let stretch = |n: usize| Stretch {
            document: 0,
            start: 8 * n,
            tokens: 7,
            nll_sum: 7.0
                * (3.0
                    + 0.1 * (n % 5) as f64
                    + shift
                    + if n.is_multiple_of(2) { noise } else { -noise }),
        };
        let stretches: Vec<Stretch> = (0..20).map(stretch).collect();
        let nll_sum: f64 = stretches.iter().map(|one| one.nll_sum).sum();
        serde_json::from_value(json!({
            "length": 8, "windows": 20, "tokens": 140, "nll_sum": nll_sum, "nll_standard_error": null,
            "windows_sha256": "same", "stretches": stretches,
        }))
        .unwrap()
    }

    fn lost(increase: f64) -> [Retention; 1] {
        [Retention { length: 4, before: 1.0, after: 1.0 + increase, increase, interval: None }]
    }

    #[track_caller]
    fn check(candidates: &[(&str, &Measurement, &[Retention], f64)], parts: &[&str]) {
        let candidate = |&(title, longest, retention, seconds)| Candidate {
            title,
            longest,
            retention,
            seconds,
        };
        let candidates: Vec<_> = candidates.iter().map(candidate).collect();
        let reasons = recommend(&candidates).unwrap().join(" ");
        assert!(parts.iter().all(|part| reasons.contains(part)), "{reasons}");
    }

    #[test]
    fn the_cheapest_of_those_that_are_as_good_is_recommended() {
        let (good, equal, bad) =
            (measurement(0.0, 0.0), measurement(0.001, 0.05), measurement(0.5, 0.01));
        let kept = lost(0.01);
        check(
            &[
                ("slow", &good, &kept, 90.0),
                ("fast", &equal, &kept, 30.0),
                ("free", &bad, &kept, 0.0),
            ],
            &["slow has the lowest", "cannot be told from fast", "Recommended: fast", "30 s"],
        );
        check(
            &[("slow", &good, &kept, 90.0), ("fast", &equal, &lost(0.2), 30.0)],
            &["Recommended: slow"],
        );
        check(&[("slow", &good, &lost(0.2), 90.0)], &["Recommended: slow; though it"]);
        check(&[("free", &good, &kept, 0.0)], &["needs no training"]);
    }
}
