//! What a longer context is worth.

use crate::{Difference, EvalError, Measurement, Stretch};

/// How many nats per token a model is better with the windows of `long` than with those of `short`, over the stretches of
/// text that both read: as long as the long windows, which are cut into whole short ones.
///
/// Both are of one model on the same documents, in windows side by side. The standard errors of the two say nothing about
/// it: what is hard with a long context is hard with a short one, too, and cancels here. A short window does not score its
/// first token, which the long one does, so the means are compared, not the sums.
///
/// # Errors
/// [`EvalError::NotNested`], unless each window of `long` holds whole ones of `short` and nothing else.
pub fn context_gain(short: &Measurement, long: &Measurement) -> Result<Difference, EvalError> {
    let not_nested = || EvalError::NotNested { short: short.length, long: long.length };
    if short.length >= long.length || !long.length.is_multiple_of(short.length) {
        return Err(not_nested());
    }
    let parts = long.length / short.length;
    let mut common = vec![];
    for whole in &long.stretches {
        let inside = |one: &&Stretch| {
            let is_there = whole.start..whole.start + long.length;
            one.document == whole.document && is_there.contains(&one.start)
        };
        let inside: Vec<&Stretch> = short.stretches.iter().filter(inside).collect();
        let tokens: usize = inside.iter().map(|one| one.tokens).sum();
        let is_nested = inside.len() == parts
            && tokens + parts == long.length
            && whole.tokens + 1 == long.length;
        if !is_nested {
            return Err(not_nested());
        }
        let of_short = inside.iter().map(|one| one.nll_sum).sum::<f64>() / tokens as f64;
        let weight = whole.tokens as f64;
        common.push((whole.document, (whole.tokens, weight * of_short - whole.nll_sum)));
    }
    Ok(Difference::of(long.length, &common))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pieces;

    /// Windows side by side, with so many nats per token: those of each document in a row.
    fn side_by_side(length: usize, documents: &[&[f64]]) -> Measurement {
        let mut stretches = vec![];
        for (document, nlls) in documents.iter().enumerate() {
            for (index, nll) in nlls.iter().enumerate() {
                let (start, tokens) = (index * length, length - 1);
                stretches.push(Stretch { document, start, tokens, nll_sum: nll * tokens as f64 });
            }
        }
        Measurement::new(length, stretches.len(), String::new(), stretches)
    }

    #[test]
    fn it_is_the_mean_of_what_each_stretch_gains() {
        // The first document has half a long window more, which only the short ones read.
        let short = side_by_side(4, &[&[3.0, 2.0, 5.0, 5.0, 9.0], &[4.0, 1.0]]);
        let long = side_by_side(8, &[&[2.25, 4.75], &[2.0]]);

        let gain = context_gain(&short, &long).unwrap();

        // 2.5 - 2.25, 5 - 4.75 and 2.5 - 2; their deviation is that of 1, 1 and 2 quarters.
        let [mean, error] = [1.0 / 3.0, 0.25 * (1.0f64 / 3.0).sqrt() / 3.0f64.sqrt()];
        assert!((gain.nll - mean).abs() < 1e-12, "{gain:?}");
        assert!((gain.standard_error.unwrap() - error).abs() < 1e-12, "{gain:?}");
        assert_eq!(gain.pieces, Pieces::Stretches(3));
        let interval = gain.interval.unwrap();
        assert!((interval.high - mean - 4.303 * error).abs() < 1e-12, "{gain:?}");
    }

    #[test]
    fn windows_that_do_not_nest_are_not_compared() {
        let long = side_by_side(8, &[&[2.0, 4.0]]);
        let check = |short: &Measurement, long: &Measurement| {
            let error = context_gain(short, long).unwrap_err().to_string();
            let windows =
                format!("`{}` tokens do not fill those of `{}`", short.length, long.length);
            for part in [windows.as_str(), "side by side", "multiple"] {
                assert!(error.contains(part), "{error}");
            }
        };
        check(&side_by_side(3, &[&[2.0; 5]]), &long);
        check(&long, &long);
        check(&long, &side_by_side(4, &[&[2.0; 4]]));
        // Text that the short windows did not read.
        check(&side_by_side(4, &[&[2.0; 3]]), &long);
        check(&side_by_side(4, &[&[2.0; 2], &[2.0; 2]]), &long);
        // Windows that overlap, of which a stretch has more tokens than one window.
        let mut twice = side_by_side(4, &[&[2.0; 4]]);
        twice.stretches[1].tokens += 2;
        check(&twice, &long);
    }
}
