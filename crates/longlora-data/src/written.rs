//! A conversation as a model's chat template writes it, and where in it the answers are.

use std::ops::Range;

use crate::chat::ASSISTANT;
use crate::{ChatTemplate, DataError, Document, EncodingProblem, Message};

/// A conversation as text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) text: String,
    /// Bytes of what the assistant says, to the end of its turn: ascending.
    pub(crate) answers: Vec<Range<usize>>,
}

impl Written {
    /// Finds each answer between what the template writes before it, where it asks for it, and what it writes when
    /// nothing follows. `document` is where the messages come from, for errors.
    ///
    /// # Errors
    /// A template that refuses the messages, and one for which a part of a conversation is not its beginning.
    pub(crate) fn by(
        template: &ChatTemplate,
        messages: &[Message],
        document: &Document,
    ) -> Result<Self, DataError> {
        let write = |messages: &[Message], asks: bool| {
            template.render_undated(messages, asks).map_err(|source| DataError::NotWritten {
                place: document.place(),
                source: Box::new(source),
            })
        };
        let text = write(messages, false)?;
        let mut answers: Vec<Range<usize>> = vec![];
        for (index, message) in messages.iter().enumerate() {
            if message.role != ASSISTANT {
                continue;
            }
            let before = write(&messages[..index], true)?;
            let until = write(&messages[..=index], false)?;
            let answer = answers.len() + 1;
            let problem = if !until.starts_with(&before) {
                Some(EncodingProblem::AskedOtherwise { answer })
            } else if !text.starts_with(&until) || until.len() == before.len() {
                Some(EncodingProblem::AnswerElsewhere { answer })
            } else {
                None
            };
            if let Some(problem) = problem {
                return Err(DataError::NotEncoded { place: document.place(), problem });
            }
            answers.push(before.len()..until.len());
        }
        Ok(Self { text, answers })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::{Content, Position};

    fn golden(name: &str) -> ChatTemplate {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/chat_templates");
        let path = Path::new(folder).join(format!("{name}.jinja"));
        let source = fs::read_to_string(&path).unwrap();
        let tokens = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned()));
        ChatTemplate::new(path, &source, tokens.to_vec()).unwrap()
    }

    fn written(template: &ChatTemplate, said: &[(&str, &str)]) -> Result<Written, DataError> {
        let messages: Vec<Message> =
            said.iter().map(|(role, text)| Message::new(*role, *text)).collect();
        let document = Document {
            source: "a.jsonl".into(),
            position: Some(Position::Line(3)),
            content: Content::Conversation(messages.clone()),
        };
        Written::by(template, &messages, &document)
    }

    /// Of two questions, by the templates of published models; what they are was computed by Jinja 3.1.6, in Python.
    #[test]
    fn answers_are_found_with_the_end_of_their_turns() {
        let said = [("user", "Hi"), ("assistant", "Yo"), ("user", "So"), ("assistant", "No")];
        let check = |name: &str, expected: [&str; 2]| {
            let Written { text, answers } = written(&golden(name), &said).unwrap();
            let found: Vec<&str> = answers.into_iter().map(|answer| &text[answer]).collect();
            assert_eq!(found, expected, "{name}");
        };
        for name in ["chatml", "qwen2.5-instruct", "smollm2-instruct"] {
            check(name, ["Yo<|im_end|>\n", "No<|im_end|>\n"]);
        }
        check("gemma-2-it", ["Yo<end_of_turn>\n", "No<end_of_turn>\n"]);
        check("llama-2-chat", [" Yo </s>", " No </s>"]);
        for name in ["llama-3-instruct", "llama-3.1-instruct"] {
            check(name, ["Yo<|eot_id|>", "No<|eot_id|>"]);
        }
        for name in ["mistral-7b-instruct-v0.2", "mistral-nemo-instruct"] {
            check(name, ["Yo</s>", "No</s>"]);
        }
        check("zephyr", ["Yo</s>\n", "No</s>\n"]);
    }

    /// Qwen3 leaves the thinking out of all answers but the last.
    #[test]
    fn an_answer_that_is_written_otherwise_once_more_follows_is_refused() {
        let qwen3 = golden("qwen3");
        let once = [("user", "Hi"), ("assistant", "Yo")];
        let Written { text, answers } = written(&qwen3, &once).unwrap();
        assert_eq!(answers.len(), 1);
        assert_eq!(&text[answers[0].clone()], "<think>\n\n</think>\n\nYo<|im_end|>\n");

        let twice = [once, [("user", "So"), ("assistant", "No")]].concat();
        let error = written(&qwen3, &twice).unwrap_err().to_string();
        for part in
            ["`a.jsonl` line `3` has an answer, `1`,", "thinking", "one question and one answer"]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_answer_that_the_template_leaves_out_is_not_passed_over() {
        let tokens = vec![];
        let mute =
            ChatTemplate::new("a.jinja".into(), "{{ messages[0].content }}", tokens).unwrap();
        let error = written(&mute, &[("user", "Hi"), ("assistant", "Yo")]).unwrap_err();
        let DataError::NotEncoded { problem, .. } = error else { panic!("{error:?}") };
        assert_eq!(problem, EncodingProblem::AnswerElsewhere { answer: 1 });
    }

    /// It writes the system message only before the last question of all.
    #[test]
    fn a_template_that_leaves_a_system_message_out_is_told() {
        let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo")];
        let error = written(&golden("mistral-nemo-instruct"), &turns).unwrap_err();
        let DataError::NotEncoded { problem, .. } = error else { panic!("{error:?}") };
        assert_eq!(problem, EncodingProblem::AskedOtherwise { answer: 1 });
    }

    #[test]
    fn what_the_template_refuses_is_told_with_the_line() {
        let turns = [("user", "Hi"), ("user", "Hi?"), ("assistant", "Yo")];
        let error = written(&golden("llama-2-chat"), &turns).unwrap_err();
        assert!(error.to_string().contains("`a.jsonl` line `3`"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("must alternate"), "{cause}");
    }
}
