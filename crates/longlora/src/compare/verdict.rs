//! Which method to take, and why.

use anyhow::Result;
use longlora_eval::{Measurement, Retention, bootstrap, paired_difference};

/// The short context may lose so much; `eval retention` has the same default.
const LOSS: f64 = 0.05;

/// A method with what decides about it; perplexities are means over its seeds.
pub(super) struct Candidate<'a> {
    pub(super) title: &'a str,
    /// At the longest length.
    pub(super) longest: &'a Measurement,
    /// At the model's own length and below, against the untouched model.
    pub(super) retention: &'a [Retention],
    /// Score of each passkey, the mean over the seeds; the same passkeys in every method.
    pub(super) passkeys: &'a [f64],
    /// Seconds of training; none for an untrained one.
    pub(super) seconds: f64,
}

impl Candidate<'_> {
    fn keeps_the_short_context(&self) -> bool {
        self.retention.iter().all(|row| row.passes(LOSS))
    }

    /// Share of the passkeys, from 0 to 1.
    fn found(&self) -> f64 {
        self.passkeys.iter().sum::<f64>() / self.passkeys.len().max(1) as f64
    }

    /// As far as so many passkeys can tell, by the paired bootstrap over them.
    fn finds_more_than(&self, other: &Self) -> bool {
        let pairs = self.passkeys.iter().zip(other.passkeys);
        let pieces: Vec<(f64, f64)> = pairs.map(|(ours, theirs)| (1.0, ours - theirs)).collect();
        bootstrap(&pieces, 0).is_some_and(|interval| interval.low > 0.0)
    }
}

/// One sentence per step of the decision: the best perplexity; those that cannot be told from it; of these, one that keeps
/// the short context and finds as many passkeys as any, and of these the cheapest. Then whatever else finds more.
pub(super) fn recommend(candidates: &[Candidate<'_>]) -> Result<Vec<String>> {
    let by_nll =
        |a: &&Candidate<'_>, b: &&Candidate<'_>| a.longest.nll().total_cmp(&b.longest.nll());
    let Some(best) = candidates.iter().min_by(by_nll) else { return Ok(vec![]) };
    let mut reasons = vec![format!(
        "At {} tokens {} has the lowest perplexity, {:.3}.",
        best.longest.length,
        best.title,
        best.longest.perplexity()
    )];
    if best.longest.stretches.len() < 2 {
        reasons.push(
            "That is one window of text, which cannot tell methods apart; give more held-out text, or raise --eval-tokens."
                .to_owned(),
        );
    }
    let equals = equals(candidates, best)?;
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
    let pool = finding(if keeping.is_empty() { &equals } else { &keeping });
    let by_cost = |a: &&&Candidate<'_>, b: &&&Candidate<'_>| a.seconds.total_cmp(&b.seconds);
    let chosen = pool.iter().min_by(by_cost).copied().unwrap_or(best);
    reasons.push(recommendation(chosen, pool.len()));
    reasons.extend(warning(candidates, chosen));
    Ok(reasons)
}

/// Those whose perplexity cannot be told from the best one's. Where nothing can be told, for want of text, that is the best
/// one alone.
fn equals<'a>(
    candidates: &'a [Candidate<'a>],
    best: &Candidate<'_>,
) -> Result<Vec<&'a Candidate<'a>>> {
    let mut equals = vec![];
    for candidate in candidates {
        let difference = paired_difference(candidate.longest, best.longest)?;
        let alike = difference.interval.is_some_and(|interval| !interval.excludes_zero());
        if alike || candidate.title == best.title {
            equals.push(candidate);
        }
    }
    Ok(equals)
}

/// Those that find as many passkeys as the best of them, as far as it can be told.
fn finding<'a>(pool: &[&'a Candidate<'a>]) -> Vec<&'a Candidate<'a>> {
    let best = pool.iter().max_by(|a, b| a.found().total_cmp(&b.found()));
    let as_many = |one: &&Candidate<'_>| best.is_none_or(|best| !best.finds_more_than(one));
    pool.iter().copied().filter(as_many).collect()
}

/// The chosen one is the cheapest of `pool`.
fn recommendation(chosen: &Candidate<'_>, pool: usize) -> String {
    let limit = 100.0 * LOSS;
    let short = match chosen.keeps_the_short_context() {
        _ if chosen.retention.is_empty() => {
            "what its short lengths lost was not measured".to_owned()
        }
        true => format!("none of its short lengths lost more than {limit:.0} %"),
        false => {
            format!(
                "though it, as all that are as good, lost more than {limit:.0} % at a short length"
            )
        }
    };
    let cost = match chosen.seconds > 0.0 {
        true if pool > 1 => format!("it trained for {:.0} s, the least of them", chosen.seconds),
        true => format!("it trained for {:.0} s", chosen.seconds),
        false => "it needs no training".to_owned(),
    };
    let passkeys = match chosen.passkeys {
        [] => String::new(),
        passkeys => {
            format!(", it finds {:.0} % of {} passkeys", 100.0 * chosen.found(), passkeys.len())
        }
    };
    format!("Recommended: {}; {short}{passkeys}, and {cost}.", chosen.title)
}

/// Perplexity says little about whether a fact is found again: a method that does that better is named.
fn warning(candidates: &[Candidate<'_>], chosen: &Candidate<'_>) -> Option<String> {
    let best = candidates.iter().max_by(|a, b| a.found().total_cmp(&b.found()))?;
    best.finds_more_than(chosen).then(|| {
        format!(
            "{} finds more passkeys, {:.0} %: take it where single facts must be found again.",
            best.title,
            100.0 * best.found()
        )
    })
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
            passkeys: &[],
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
        check(&[("free", &good, &[], 0.0)], &["was not measured"]);
    }

    #[test]
    fn one_window_makes_nothing_equal() {
        let cut = |shift| {
            let mut one = measurement(shift, 0.0);
            one.stretches.truncate(1);
            one
        };
        let (good, bad, kept) = (cut(0.0), cut(0.5), lost(0.0));
        check(
            &[("slow", &good, &kept, 90.0), ("free", &bad, &kept, 0.0)],
            &["one window of text", "Recommended: slow;"],
        );
    }
    #[test]
    fn what_finds_fewer_passkeys_is_not_recommended_for_its_cost() {
        let (good, equal, bad) =
            (measurement(0.0, 0.0), measurement(0.001, 0.05), measurement(0.5, 0.01));
        let kept = lost(0.01);
        let candidate = |title, longest, passkeys, seconds| Candidate {
            title,
            longest,
            retention: &kept,
            passkeys,
            seconds,
        };
        let (all, half, none) = ([1.0; 20], [[1.0, 0.0]; 10].concat(), [0.0; 20]);
        let say = |candidates: &[Candidate<'_>]| recommend(candidates).unwrap().join(" ");
        let said =
            say(&[candidate("slow", &good, &all, 90.0), candidate("fast", &equal, &none, 9.0)]);
        assert!(said.contains("Recommended: slow;"), "{said}");
        assert!(said.contains("it finds 100 % of 20 passkeys, and"), "{said}");
        assert!(!said.contains("finds more"), "{said}");

        let said =
            say(&[candidate("slow", &good, &half, 90.0), candidate("free", &bad, &all, 0.0)]);
        assert!(said.contains("Recommended: slow; "), "{said}");
        assert!(
            said.contains("50 % of 20") && said.contains("free finds more passkeys, 100 %"),
            "{said}"
        );
    }
}
