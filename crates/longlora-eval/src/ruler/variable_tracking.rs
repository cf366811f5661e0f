//! A value that goes from variable to variable.

use rand::RngExt;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::Wording;
use super::haystack::{NOISE, hide_in_lines};
use crate::fit::largest_that_fits;
use crate::{EvalError, Prompter};

/// Assignments from one variable to the next, RULER's `num_hops`; there is one chain of them.
const HOPS: usize = 4;
/// Fewest lines of noise: one for each assignment to stand before.
pub(super) const LEAST: usize = HOPS + 1;
/// Letters of a variable, in the question and in its example.
const LETTERS: usize = 5;
const LETTERS_OF_EXAMPLE: usize = 3;
/// Most tokens of the example, its answer aside, and whatever the context.
const TOKENS_OF_EXAMPLE: usize = 500;

/// Variables that all have one value.
struct Chain {
    variables: Vec<String>,
    value: u32,
}

/// A question behind an example with its answer, for so many lines of noise.
///
/// # Errors
/// Those of the tokenizer.
pub(super) fn variable_tracking(
    prompter: &Prompter,
    mut random: ChaCha8Rng,
) -> Result<impl Fn(usize) -> Wording, EvalError> {
    let chain = Chain::draw(LETTERS, &mut random);
    let example = Chain::draw(LETTERS_OF_EXAMPLE, &mut random).example(prompter, &random)?;
    Ok(move |lines| {
        let (text, opening) = chain.ask(lines, random.clone());
        let answers = chain.variables.clone();
        Wording { text: format!("{example}\n\n{text}"), opening, answers, depth: None }
    })
}

impl Chain {
    fn draw(letters: usize, random: &mut ChaCha8Rng) -> Self {
        let mut variables: Vec<String> = vec![];
        while variables.len() < HOPS + 1 {
            let letter = |_| char::from(random.random_range(b'A'..=b'Z'));
            let variable: String = (0..letters).map(letter).collect();
            if !variables.contains(&variable) {
                variables.push(variable);
            }
        }
        Self { variables, value: random.random_range(10_000..99_999) }
    }

    /// `VAR A = 12345`, `VAR B = VAR A `, with RULER's space at the end.
    fn assignments(&self) -> Vec<String> {
        let first = format!("VAR {} = {}", self.variables[0], self.value);
        let next = |pair: &[String]| format!("VAR {} = VAR {} ", pair[1], pair[0]);
        std::iter::once(first).chain(self.variables.windows(2).map(next)).collect()
    }

    /// Text and opening, with so many lines of noise.
    fn ask(&self, lines: usize, mut random: ChaCha8Rng) -> (String, String) {
        let mut places = index::sample(&mut random, lines, HOPS + 1).into_vec();
        places.sort_unstable();
        let context = hide_in_lines(vec![NOISE; lines], &self.assignments(), &places);
        let (value, count) = (self.value, self.variables.len());
        (
            format!(
                "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n\
                 Question: Find all variables that are assigned the value {value} in the text above."
            ),
            format!(
                " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are \
                 assigned the value {value}, they are: "
            ),
        )
    }

    /// As many lines of noise as an example has room for, and the answer.
    fn example(&self, prompter: &Prompter, random: &ChaCha8Rng) -> Result<String, EvalError> {
        let ask = |lines| {
            let (text, opening) = self.ask(lines, random.clone());
            text + &opening
        };
        let tokens = |lines| Ok::<_, EvalError>(prompter.tokenizer().encode(&ask(lines))?.len());
        let lines = largest_that_fits(LEAST, TOKENS_OF_EXAMPLE, tokens)?.unwrap_or(LEAST);
        Ok(format!("{} {}", ask(lines), self.variables.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::RulerTask;
    use crate::ruler::testing::ask;

    /// Follows the assignments of a text: which variables have which value.
    fn run(text: &str) -> BTreeMap<&str, &str> {
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("VAR ")) {
            let (variable, source) = line[4..].split_once(" = ").unwrap();
            let value = match source.trim_end().strip_prefix("VAR ") {
                Some(other) => values[other],
                None => source,
            };
            assert_eq!(values.insert(variable, value), None);
        }
        values
    }

    #[test]
    fn the_answers_are_the_variables_that_have_the_value() {
        for question in ask(RulerTask::Vt, 2048, 8) {
            let begin = "Memorize and track";
            let [_, example, asked] = question.text.split(begin).collect::<Vec<_>>()[..] else {
                panic!("one example and one question: {}", question.text);
            };
            let value = asked.rsplit("the value ").next().unwrap().split(' ').next().unwrap();
            let mut answers: Vec<_> = question.answers.iter().map(String::as_str).collect();
            answers.sort_unstable();
            let values = run(asked);
            assert_eq!(values.keys().copied().collect::<Vec<_>>(), answers);
            assert!(values.values().all(|found| *found == value), "{values:?} {value}");
            assert!(
                question.opening.contains(&format!("5 variables are assigned the value {value},"))
            );

            // What the example answers is right, too.
            let (text, answer) = example.split_once("they are: ").unwrap();
            let mut variables: Vec<_> = answer.split_whitespace().collect();
            variables.sort_unstable();
            assert_eq!(run(text).into_keys().collect::<Vec<_>>(), variables);
        }
    }

    #[test]
    fn templates_are_rulers() {
        let question = &ask(RulerTask::Vt, 2048, 8)[0];
        let begin = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";
        assert!(question.text.starts_with(begin));
        assert!(question.text.contains(&format!("\n\n{begin}")));
        assert!(question.text.ends_with(" in the text above."));
        assert!(
            question
                .opening
                .starts_with(" Answer: According to the chain(s) of variable assignment")
        );
        assert!(question.opening.ends_with(", they are: "));
    }

    #[test]
    fn a_question_is_the_same_at_every_length() {
        let [short, long] = [2048, 5000].map(|length| ask(RulerTask::Vt, length, 1));
        let answers = |questions: &[crate::Question]| -> Vec<Vec<String>> {
            questions.iter().map(|question| question.answers.clone()).collect()
        };
        assert_eq!(answers(&short), answers(&long));
    }
}
