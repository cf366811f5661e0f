//! A number about a model, with what is needed to judge it.

use serde::{Deserialize, Serialize};

use crate::bootstrap::{self, Interval, bootstrap};
use crate::pieces::{Part, Pieces};
use crate::{EvalError, PositionBin};

/// Of the bootstrap: the same measurements have the same interval.
const SEED: u64 = 0;

/// Perplexity of a model over some windows of text, as sums: they can be added, means cannot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Tokens per window: the context length that was measured.
    pub length: usize,
    /// Windows read.
    pub windows: usize,
    /// Predictions scored. Where windows overlap and score all they read, a token counts once per window.
    pub tokens: usize,
    /// Sum of the negative log-likelihoods of the scored tokens, in nats.
    pub nll_sum: f64,
    /// Standard error of [`nll`](Self::nll), in nats per token; `None` with fewer than two [pieces](Self::pieces).
    ///
    /// ```text
    /// SE = 1/N · √( K/(K-1) · Σ_k (s_k - n_k · nll)² )
    /// ```
    ///
    /// for `K` pieces of `n_k` scored tokens with a sum of `s_k`, and `N = Σ n_k`: clustered standard errors
    /// (arXiv:2411.00640) with the correction for few clusters. Pieces of one size give the textbook `deviation / √K` of
    /// their means.
    pub nll_standard_error: Option<f64>,
    /// SHA-256 of the windows: their order, lengths, tokens, and which of these count.
    pub windows_sha256: String,
    /// The scored tokens by where they stand, in the order of the text.
    pub stretches: Vec<Stretch>,
    /// The scored tokens by how many stand before them in their window.
    #[serde(default)]
    pub positions: Vec<PositionBin>,
}

/// The scored tokens of one stretch of text: one piece of evidence, but for what [`Pieces`] says.
///
/// Neighbouring tokens share a topic and a context, so their likelihoods are no independent draws, and taking them for
/// that makes errors far too small. The pieces are as long as a window, and no token is in two of them: windows side by
/// side are a stretch each, and the tokens of windows that overlap count where they stand, not where they were read.
/// What neighbouring stretches of one document still have in common is not accounted for: the standard error is about
/// more text like this, not about text of other authors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Index of the document.
    pub document: usize,
    /// Where the stretch begins in it, in tokens.
    pub start: usize,
    /// Predictions scored in it.
    pub tokens: usize,
    /// Sum of their negative log-likelihoods, in nats.
    pub nll_sum: f64,
}

/// How much two models differ on the same text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean negative log-likelihood of the first less that of the second, in nats per token: positive if the second is
    /// the better one. Its exponential is the ratio of their perplexities.
    pub nll: f64,
    /// Standard error of `nll` over the pieces; `None` with fewer than two.
    pub standard_error: Option<f64>,
    /// 95 % interval of `nll` by the paired bootstrap over the pieces, by Student's t with fewer than 16; `None` with fewer
    /// than two.
    pub interval: Option<Interval>,
    /// What both are over.
    pub pieces: Pieces,
}

impl Difference {
    /// `stretches` have differences as their sums; they were read in windows of `length` tokens.
    pub(crate) fn of(length: usize, stretches: &[Part]) -> Self {
        let tokens: usize = stretches.iter().map(|(_, (tokens, _))| tokens).sum();
        let sum: f64 = stretches.iter().map(|(_, (_, sum))| sum).sum();
        let (pieces, sums) = Pieces::of(length, stretches);
        Self {
            nll: sum / tokens as f64,
            standard_error: bootstrap::standard_error(&sums),
            interval: bootstrap(&sums, SEED),
            pieces,
        }
    }
}

impl Measurement {
    pub(crate) fn new(
        length: usize,
        windows: usize,
        windows_sha256: String,
        stretches: Vec<Stretch>,
    ) -> Self {
        let tokens = stretches.iter().map(|stretch| stretch.tokens).sum();
        let nll_sum = stretches.iter().map(|stretch| stretch.nll_sum).sum();
        let (_, sums) = Pieces::of(length, &parts(&stretches));
        let nll_standard_error = bootstrap::standard_error(&sums);
        let positions = vec![];
        Self {
            length,
            windows,
            tokens,
            nll_sum,
            nll_standard_error,
            windows_sha256,
            stretches,
            positions,
        }
    }

    /// The mean over models that were measured on the same windows, as those of several seeds: each stretch has the mean of
    /// their sums. Its standard error is that of the text; how far the models are apart it does not say.
    ///
    /// # Errors
    /// [`EvalError::OtherWindows`], unless all measured the same tokens in the same windows.
    ///
    /// # Panics
    /// If there is no measurement.
    pub fn average(measurements: &[Self]) -> Result<Self, EvalError> {
        let first = measurements.first().expect("needs at least one measurement");
        for other in measurements {
            paired_difference(first, other)?;
        }
        let count = measurements.len() as f64;
        let mean = |sums: &dyn Fn(&Self) -> f64| measurements.iter().map(sums).sum::<f64>() / count;
        let mut stretches = first.stretches.clone();
        for (index, stretch) in stretches.iter_mut().enumerate() {
            stretch.nll_sum = mean(&|one| one.stretches[index].nll_sum);
        }
        let mut positions = first.positions.clone();
        for (index, bin) in positions.iter_mut().enumerate() {
            bin.nll_sum = mean(&|one| one.positions.get(index).map_or(f64::NAN, |bin| bin.nll_sum));
            // That of the first one would not be the mean's.
            bin.nll_standard_error = bin.nll_standard_error.filter(|_| measurements.len() == 1);
        }
        let windows_sha256 = first.windows_sha256.clone();
        let average = Self::new(first.length, first.windows, windows_sha256, stretches);
        Ok(Self { positions, ..average })
    }

    /// What its standard error is over.
    pub fn pieces(&self) -> Pieces {
        Pieces::of(self.length, &parts(&self.stretches)).0
    }

    /// Mean negative log-likelihood, in nats per scored token.
    pub fn nll(&self) -> f64 {
        self.nll_sum / self.tokens as f64
    }

    /// `exp(nll)`
    pub fn perplexity(&self) -> f64 {
        self.nll().exp()
    }

    /// Standard error of the perplexity by the delta method: `perplexity · SE(nll)`.
    pub fn perplexity_standard_error(&self) -> Option<f64> {
        self.nll_standard_error.map(|error| self.perplexity() * error)
    }
}

/// Compares two models, or two attention patterns of one, stretch by stretch.
///
/// Most of the spread of a perplexity is that some text is easier, for every model alike. Here it cancels, so far
/// smaller differences can be told from none than the standard errors of both would suggest (arXiv:2411.00640).
///
/// # Errors
/// [`EvalError::OtherWindows`], unless both measured the same tokens in the same windows.
pub fn paired_difference(a: &Measurement, b: &Measurement) -> Result<Difference, EvalError> {
    if a.windows_sha256 != b.windows_sha256 {
        let (a, b) = (a.windows_sha256.clone(), b.windows_sha256.clone());
        return Err(EvalError::OtherWindows { a, b });
    }
    let pairs = a.stretches.iter().zip(&b.stretches);
    let differences: Vec<Part> =
        pairs.map(|(a, b)| (a.document, (a.tokens, a.nll_sum - b.nll_sum))).collect();
    Ok(Difference::of(a.length, &differences))
}

fn parts(stretches: &[Stretch]) -> Vec<Part> {
    stretches.iter().map(|one| (one.document, (one.tokens, one.nll_sum))).collect()
}

/// Standard error of the mean per token over clusters of `(tokens, sum)`; see [`Measurement::nll_standard_error`].
pub(crate) fn standard_error(clusters: &[(usize, f64)]) -> Option<f64> {
    let clusters: Vec<_> = clusters.iter().map(|&(tokens, sum)| (tokens as f64, sum)).collect();
    bootstrap::standard_error(&clusters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(windows_sha256: &str, sums: &[(usize, f64)]) -> Measurement {
        let stretch = |(index, &(tokens, nll_sum))| Stretch {
            document: 0,
            start: 10 * index,
            tokens,
            nll_sum,
        };
        let stretches = sums.iter().enumerate().map(stretch).collect();
        let length = sums.iter().map(|(tokens, _)| tokens + 1).max().unwrap();
        Measurement::new(length, sums.len(), windows_sha256.to_owned(), stretches)
    }

    #[track_caller]
    fn assert_close(ours: f64, expected: f64) {
        assert!((ours - expected).abs() <= 1e-12 * expected.abs(), "{ours} instead of {expected}");
    }

    #[test]
    fn tokens_weigh_the_same_whatever_window_they_are_in() {
        let unequal = measurement("", &[(9, 9.0), (1, 3.0)]);
        assert_eq!((unequal.tokens, unequal.windows), (10, 2));
        assert_close(unequal.nll(), 1.2);
        assert_close(unequal.perplexity(), 1.2f64.exp());
        let mean_of_means = (1.0 + 3.0) / 2.0;
        assert!((unequal.nll() - mean_of_means).abs() > 0.5);
        // Residuals are 9 - 9 · 1.2 and 3 - 1.2.
        let expected = (2.0f64 * (1.8 * 1.8 + 1.8 * 1.8)).sqrt() / 10.0;
        assert_close(standard_error(&[(9, 9.0), (1, 3.0)]).unwrap(), expected);
    }

    #[test]
    fn what_is_left_at_the_end_is_no_piece_of_its_own() {
        let one = measurement("", &[(9, 9.0), (1, 3.0)]);
        assert_eq!((one.nll_standard_error, one.pieces()), (None, Pieces::Stretches(1)));
        let two = measurement("", &[(9, 9.0), (9, 27.0), (1, 3.0)]);
        let merged = standard_error(&[(9, 9.0), (10, 30.0)]);
        assert_eq!((two.nll_standard_error, two.pieces()), (merged, Pieces::Stretches(2)));
        let zero = measurement("", &[(9, 0.0), (9, 0.0), (1, 0.0)]);
        let difference = paired_difference(&two, &zero).unwrap();
        assert_eq!((difference.standard_error, difference.pieces), (merged, two.pieces()));
    }

    #[test]
    fn equal_stretches_give_the_deviation_of_means_over_the_root_of_their_number() {
        let equal = measurement("", &[(4, 4.0), (4, 8.0), (4, 12.0), (4, 16.0)]);
        let means = [1.0, 2.0, 3.0, 4.0f64];
        let variance = means.iter().map(|mean| (mean - 2.5).powi(2)).sum::<f64>() / 3.0;
        let error = equal.nll_standard_error.unwrap();
        assert_close(error, (variance / 4.0).sqrt());
        assert_close(equal.perplexity_standard_error().unwrap(), 2.5f64.exp() * error);
    }

    #[test]
    fn one_stretch_has_no_standard_error() {
        let single = measurement("", &[(4, 4.0)]);
        assert_eq!(single.nll_standard_error, None);
        assert_eq!(single.perplexity_standard_error(), None);
        assert_eq!(paired_difference(&single, &single).unwrap().standard_error, None);
    }

    #[test]
    fn what_is_hard_for_both_cancels_in_pairs() {
        let a = measurement("same", &[(4, 5.0), (4, 20.0), (2, 8.5)]);
        let b = measurement("same", &[(4, 4.0), (4, 19.0), (2, 8.0)]);

        let Difference { nll, standard_error, .. } = paired_difference(&a, &b).unwrap();
        assert_close(nll, 0.25);
        assert!(standard_error.unwrap() < 1e-12);
        assert!(a.nll_standard_error.unwrap() > 0.5);
        let turned = paired_difference(&b, &a).unwrap();
        assert_close(turned.nll, -0.25);
        assert_close((a.perplexity() / b.perplexity()).ln(), nll);
    }

    #[test]
    fn several_models_are_averaged_stretch_by_stretch() {
        let (a, b) = (
            measurement("same", &[(4, 4.0), (2, 3.0)]),
            measurement("same", &[(4, 8.0), (2, 3.5)]),
        );
        let average = Measurement::average(&[a.clone(), b]).unwrap();
        assert_eq!(average, measurement("same", &[(4, 6.0), (2, 3.25)]));
        assert_eq!(Measurement::average(std::slice::from_ref(&a)).unwrap(), a);
        assert!(Measurement::average(&[a, measurement("other", &[(4, 4.0)])]).is_err());
    }

    #[test]
    fn positions_are_averaged_and_the_mean_has_no_standard_error() {
        let with = |nll_sum| {
            let error = Some(0.5);
            let bin =
                PositionBin { start: 1, end: 2, tokens: 3, nll_sum, nll_standard_error: error };
            Measurement { positions: vec![bin], ..measurement("same", &[(4, 4.0)]) }
        };
        let average = Measurement::average(&[with(2.0), with(5.0)]).unwrap();
        let [bin] = average.positions.as_slice() else { panic!("{average:?}") };
        assert_eq!((bin.start, bin.tokens, bin.nll_sum), (1, 3, 3.5));
        assert_eq!(bin.nll_standard_error, None);
        assert_eq!(Measurement::average(&[with(2.0)]).unwrap(), with(2.0));
        let without = Measurement { positions: vec![], ..with(0.0) };
        let unknown = Measurement::average(&[with(2.0), without]).unwrap();
        assert!(unknown.positions[0].nll_sum.is_nan());
    }

    /// Two stretches of each document, with 0, 1, 2, … nats.
    fn two_stretches_each(documents: usize) -> Measurement {
        let stretch = |n: usize| Stretch {
            document: n / 2,
            start: 10 * (n % 2),
            tokens: 9,
            nll_sum: n as f64,
        };
        let stretches = (0..2 * documents).map(stretch).collect();
        Measurement::new(10, 2 * documents, "same".to_owned(), stretches)
    }

    #[test]
    fn ten_documents_are_the_pieces_of_evidence_and_of_nine_it_is_their_stretches() {
        let check = |documents: usize, pieces: Pieces, expected: &[(f64, f64)]| {
            let measured = two_stretches_each(documents);
            let mut nothing = measured.clone();
            nothing.stretches.iter_mut().for_each(|stretch| stretch.nll_sum = 0.0);
            let difference = paired_difference(&measured, &nothing).unwrap();
            let error = bootstrap::standard_error(expected);
            assert_eq!(difference.interval, bootstrap(expected, SEED));
            assert_eq!((difference.standard_error, difference.pieces), (error, pieces));
            assert_eq!((measured.nll_standard_error, measured.pieces()), (error, pieces));
        };
        let documents: Vec<_> = (0..10).map(|n| (18.0, f64::from(4 * n + 1))).collect();
        check(10, Pieces::Documents(10), &documents);
        let stretches: Vec<_> = (0..18).map(|n| (9.0, f64::from(n))).collect();
        check(9, Pieces::Stretches(18), &stretches);
    }

    #[test]
    fn other_windows_are_not_compared() {
        let (a, b) = (measurement("a1", &[(4, 5.0)]), measurement("b2", &[(4, 5.0)]));
        let error = paired_difference(&a, &b).unwrap_err().to_string();
        for part in ["`a1` and `b2`", "measure both on the same tokens"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_measurement_survives_json() {
        let one = measurement("c3", &[(4, 4.0)]);
        let two = measurement("c3", &[(4, 4.0), (4, 8.0)]);
        for measurement in [one, two] {
            let json = serde_json::to_string(&measurement).unwrap();
            assert_eq!(serde_json::from_str::<Measurement>(&json).unwrap(), measurement);
        }
    }
}
