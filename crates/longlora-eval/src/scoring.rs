//! How an answer is judged.

use serde::{Deserialize, Serialize};

use crate::metrics;

/// How an answer is judged, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// It is the right one, but for space around it. LongLoRA's passkey, which compares tokens.
    Exact,
    /// Its first number is the right one. Landmark's passkey.
    FirstNumber,
    /// The share of the right words that it has somewhere, in whatever case. RULER's `string_match_all`.
    AllOf,
    /// It has one of the right words somewhere, in whatever case. RULER's `string_match_part`.
    AnyOf,
    /// F1 of its words, without case, punctuation and articles: SQuAD's, LongBench's `qa_f1_score`.
    TokenF1,
    /// F1 of its words in Chinese, LongBench's `qa_f1_zh_score`.
    TokenF1Zh,
    /// ROUGE-L's F-measure, LongBench's `rouge_score`.
    RougeL,
    /// The same of its words in Chinese, LongBench's `rouge_zh_score`.
    RougeLZh,
    /// It names the right one of these classes, and no other. LongBench's `classification_score`.
    Class(Vec<String>),
    /// The share of its numbers that are the right paragraph's. LongBench's `retrieval_score`.
    Paragraph,
    /// The same for an answer in Chinese. LongBench's `retrieval_zh_score`.
    ParagraphZh,
    /// The share of its numbers that are the right one. LongBench's `count_score`.
    Count,
    /// How alike its first line of code and the right one are. LongBench's `code_sim_score`.
    CodeLine,
    /// As another one, its first line alone.
    FirstLine(Box<Scoring>),
}

impl Scoring {
    /// The score of `output`, from 0 to 1. With several right answers it is the best one that counts, but for
    /// [`AllOf`](Self::AllOf).
    pub fn score(&self, output: &str, answers: &[String]) -> f64 {
        let best = |score: &dyn Fn(&str) -> f64| {
            answers.iter().map(|answer| score(answer)).fold(0.0, f64::max)
        };
        let holds = |condition: bool| f64::from(u8::from(condition));
        match self {
            Self::Exact => best(&|answer| holds(output.trim() == answer.trim())),
            Self::FirstNumber => {
                let number = metrics::numbers(output).next();
                best(&|answer| holds(number.is_some_and(|number| same_number(number, answer))))
            }
            Self::AllOf => {
                let found = answers.iter().filter(|answer| metrics::contains(output, answer));
                found.count() as f64 / answers.len().max(1) as f64
            }
            Self::AnyOf => best(&|answer| holds(metrics::contains(output, answer))),
            Self::TokenF1 => best(&|answer| metrics::token_f1(output, answer)),
            Self::TokenF1Zh => best(&|answer| metrics::f1_zh(output, answer)),
            Self::RougeL => best(&|answer| metrics::rouge_l(output, answer)),
            Self::RougeLZh => best(&|answer| metrics::rouge_zh(output, answer)),
            Self::Class(classes) => best(&|answer| metrics::class(output, answer, classes)),
            Self::Paragraph => best(&|answer| metrics::paragraph(output, answer)),
            Self::ParagraphZh => best(&|answer| metrics::paragraph_zh(output, answer)),
            Self::Count => best(&|answer| metrics::count(output, answer)),
            Self::CodeLine => best(&|answer| metrics::code_line(output, answer)),
            Self::FirstLine(scoring) => {
                let line = output.trim_start_matches('\n').split('\n').next().unwrap_or_default();
                scoring.score(line, answers)
            }
        }
    }
}

/// Whether both are the same number, leading zeros aside.
fn same_number(number: &str, answer: &str) -> bool {
    let bare = |digits: &str| digits.trim().trim_start_matches('0').to_owned();
    bare(number) == bare(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scoring: &Scoring, answers: &[&str], cases: &[(&str, f64)]) {
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        for &(output, expected) in cases {
            assert_eq!(scoring.score(output, &answers), expected, "{scoring:?} of `{output}`");
        }
    }

    #[test]
    fn an_exact_answer_is_one_of_the_right_ones_and_nothing_else() {
        let cases = [(" 12\n", 1.0), ("34", 1.0), ("123", 0.0), ("is 12", 0.0), ("012", 0.0)];
        check(&Scoring::Exact, &["12", " 34"], &cases);
        check(&Scoring::Exact, &["Oslo"], &[("Oslo", 1.0), ("oslo", 0.0)]);
    }

    #[test]
    fn a_first_number_is_found_whatever_follows_it() {
        let cases = [
            (" 12. And 7", 1.0),
            ("the 012", 1.0),
            ("34", 1.0),
            ("7, not 12", 0.0),
            ("123", 0.0),
            ("twelve", 0.0),
        ];
        check(&Scoring::FirstNumber, &["12", "34"], &cases);
    }

    #[test]
    fn all_of_the_words_or_any_of_them_are_asked_for() {
        let words = ["apple", "Pear"];
        let output = ["no fruit", "an APPLE", "pears and apples"];
        let shares: [f64; 3] = [0.0, 0.5, 1.0];
        check(&Scoring::AllOf, &words, &[0, 1, 2].map(|n| (output[n], shares[n])));
        check(&Scoring::AnyOf, &words, &[0, 1, 2].map(|n| (output[n], shares[n].ceil())));
        for scoring in [Scoring::AllOf, Scoring::AnyOf] {
            check(&scoring, &[], &[("an apple", 0.0)]);
        }
    }

    #[test]
    fn of_a_first_line_the_rest_does_not_count() {
        let scoring = Scoring::FirstLine(Box::new(Scoring::AnyOf));
        check(&scoring, &["apple"], &[("\nan apple\na pear", 1.0), ("a pear\nan apple", 0.0)]);
    }
}
