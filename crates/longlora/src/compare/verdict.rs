//! Which method to take, and why.

use anyhow::Result;
use longlora_eval::{
    Difference, ENOUGH_PIECES as ENOUGH, Measurement, Retention, bootstrap, paired_difference,
};

/// A method is as good as the best one if it is worse by less, in nats per token, at the upper end of the 95 % interval: 2 %
/// of the perplexity. That is less than half of what the short context may lose, and about what the seeds of one method are
/// apart (docs/results.md has from 0.007 to 0.1), so that it is no reason to train for longer.
const MARGIN: f64 = 0.02;
/// Half of a 95 % interval in standard errors, where there is enough text.
const NORMAL: f64 = 1.96;
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

/// How a method compares with the one of the lowest perplexity.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Standing {
    /// It is that one, or worse by less than [`MARGIN`].
    AsGood,
    /// Nothing else is known than that it is worse.
    Worse,
    /// Neither is known: there is too little text. It would take about so many times as much, if that can be told.
    Open(Option<f64>),
}

impl Standing {
    fn of(candidate: &Candidate<'_>, best: &Candidate<'_>) -> Result<Self> {
        if candidate.title == best.title {
            return Ok(Self::AsGood);
        }
        let difference = paired_difference(candidate.longest, best.longest)?;
        Ok(match difference.interval {
            Some(interval) if interval.high < MARGIN => Self::AsGood,
            Some(interval) if interval.low > 0.0 => Self::Worse,
            _ => Self::Open(more_text(&difference)),
        })
    }
}

/// How many times as much text would decide, if all of it were like this: the interval then ends where the difference is
/// either told from nothing or below the margin, whichever takes less.
fn more_text(difference: &Difference) -> Option<f64> {
    let half = difference.nll.max(MARGIN - difference.nll);
    let there = difference.pieces.count() as f64;
    let needed = there * (NORMAL * difference.standard_error? / half).powi(2);
    // With fewer, the interval is Student's, and wider.
    Some((needed.max(ENOUGH as f64) / there).max(2.0))
}

/// One sentence per step of the decision: the best perplexity; those that are as good; of these, one that keeps the short
/// context and finds as many passkeys as any, and of these the cheapest. Then whatever else finds more. Where the text is too
/// short to say of each whether it is as good or worse, there is no recommendation.
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
    let pieces = best.longest.pieces();
    if pieces.count() < ENOUGH {
        reasons.push(format!(
            "Measured was {pieces}, and fewer than {ENOUGH} tell little about other text: give more that is held out, or raise \
             --eval-tokens."
        ));
    }
    let (mut equals, mut open) = (vec![], vec![]);
    for candidate in candidates {
        match Standing::of(candidate, best)? {
            Standing::AsGood => equals.push(candidate),
            Standing::Worse => {}
            Standing::Open(times) => open.push((candidate.title, times)),
        }
    }
    let others: Vec<&str> =
        equals.iter().map(|one| one.title).filter(|title| *title != best.title).collect();
    if !others.is_empty() {
        reasons.push(format!(
            "As good, worse by less than {MARGIN} nats (2 % of the perplexity) at the upper end of the 95 % interval of the paired \
             difference: {}.",
            others.join(", ")
        ));
    }
    if !open.is_empty() {
        reasons.push(no_recommendation(&open, best.longest.tokens));
        return Ok(reasons);
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

/// `open` has a title and how many times as much text each needs; `tokens` were scored.
fn no_recommendation(open: &[(&str, Option<f64>)], tokens: usize) -> String {
    let titles: Vec<&str> = open.iter().map(|(title, _)| *title).collect();
    let times: Option<Vec<f64>> = open.iter().map(|(_, times)| *times).collect();
    let more = match times.map(|times| times.into_iter().fold(2.0f64, f64::max).ceil()) {
        Some(times) if times.is_finite() => {
            format!("about {times:.0} times as much, {:.0} tokens,", times * tokens as f64)
        }
        _ => format!("at least {ENOUGH} windows"),
    };
    format!(
        "No recommendation: this text is too short to tell whether {} {} as good, worse by less than {MARGIN} nats, or worse. \
         Measure on more of it, {more} by --eval-data and --eval-tokens.",
        titles.join(", "),
        if titles.len() == 1 { "is" } else { "are" }
    )
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
            (measurement(0.0, 0.0), measurement(0.001, 0.02), measurement(0.5, 0.01));
        let kept = lost(0.01);
        check(
            &[
                ("slow", &good, &kept, 90.0),
                ("fast", &equal, &kept, 30.0),
                ("free", &bad, &kept, 0.0),
            ],
            &[
                "slow has the lowest",
                "less than 0.02 nats",
                "difference: fast.",
                "Recommended: fast",
                "30 s",
            ],
        );
        check(
            &[("slow", &good, &kept, 90.0), ("fast", &equal, &lost(0.2), 30.0)],
            &["Recommended: slow"],
        );
        check(&[("slow", &good, &lost(0.2), 90.0)], &["Recommended: slow; though it"]);
        check(&[("free", &good, &kept, 0.0)], &["needs no training"]);
        check(&[("free", &good, &[], 0.0)], &["was not measured"]);
    }

    /// Worse without a doubt, and by less than anybody would notice.
    #[test]
    fn what_is_worse_by_next_to_nothing_is_as_good() {
        let (good, equal, bad) =
            (measurement(0.0, 0.0), measurement(0.015, 0.001), measurement(0.025, 0.001));
        let kept = lost(0.0);
        check(
            &[
                ("slow", &good, &kept, 9.0),
                ("fast", &equal, &kept, 3.0),
                ("free", &bad, &kept, 0.0),
            ],
            &["difference: fast. Recommended: fast"],
        );
    }

    fn cut(shift: f64, noise: f64, stretches: usize) -> Measurement {
        let mut part = measurement(shift, noise);
        part.stretches.truncate(stretches);
        part.tokens = 7 * stretches;
        part.nll_sum = part.stretches.iter().map(|one| one.nll_sum).sum();
        part
    }

    #[test]
    fn what_cannot_be_told_from_the_best_one_is_not_as_good_for_that() {
        let kept = lost(0.0);
        let said = |good: &Measurement, bad: &Measurement| {
            let candidate = |(title, longest, seconds)| Candidate {
                title,
                longest,
                retention: &kept,
                passkeys: &[],
                seconds,
            };
            let said =
                recommend(&[("slow", good, 90.0), ("free", bad, 0.0)].map(candidate)).unwrap();
            assert!(said.iter().all(|one| !one.contains("Recommended")), "{said:?}");
            said.join(" ")
        };
        // A perplexity of 85 beside 31, whose interval by Student's t of two stretches has nothing inside.
        let few = said(&cut(0.0, 0.0, 2), &cut(1.0, 0.3, 2));
        for part in ["Measured was 2 stretches of text", "fewer than 16", "whether free is as good"]
        {
            assert!(few.contains(part), "{few}");
        }
        assert!(few.contains("about 8 times as much, 112 tokens, by --eval-data"), "{few}");
        let one = said(&cut(0.0, 0.0, 1), &cut(0.5, 0.0, 1));
        assert!(
            one.contains("one stretch of text") && one.contains("at least 16 windows"),
            "{one}"
        );
        // The standard error is 0.05 · √(20/19) / √20, of which 1.96 have to be less than 0.019.
        let noisy = said(&measurement(0.0, 0.0), &measurement(0.001, 0.05));
        assert!(noisy.contains("about 2 times as much, 280 tokens"), "{noisy}");
        assert!(!noisy.contains("fewer than"), "{noisy}");
    }

    #[test]
    fn what_finds_fewer_passkeys_is_not_recommended_for_its_cost() {
        let (good, equal, bad) =
            (measurement(0.0, 0.0), measurement(0.001, 0.02), measurement(0.5, 0.01));
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
