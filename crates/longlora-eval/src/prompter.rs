//! From a question to the tokens that a model reads.

use longlora_data::{ChatTemplate, Message, Tokenizer};

use crate::{EvalError, Question};

/// Turns questions into tokens, as a text to continue or as a chat.
#[derive(Debug, Clone)]
pub struct Prompter {
    tokenizer: Tokenizer,
    /// `None` for a model that continues texts.
    chat: Option<ChatTemplate>,
}

impl Prompter {
    /// For questions as plain text: what a base model is asked with.
    pub fn text(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, chat: None }
    }

    /// For questions as a user's turn.
    pub fn chat(tokenizer: Tokenizer, template: ChatTemplate) -> Self {
        Self { tokenizer, chat: Some(template) }
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What ends an answer, by the tokenizer.
    pub(crate) fn ends(&self) -> impl Iterator<Item = u32> {
        self.tokenizer.special_tokens().eos.iter().map(|eos| eos.id)
    }

    /// What the model reads: the text, and how its answer begins.
    ///
    /// # Errors
    /// Those of the tokenizer and of the chat template, and [`EvalError::SilentTemplate`].
    pub fn prompt(&self, text: &str, opening: &str) -> Result<Vec<u32>, EvalError> {
        Ok(match &self.chat {
            None => self.tokenizer.encode(&format!("{text}{opening}"))?,
            Some(template) => {
                let turn = template.render(&[Message::new("user", text)], true)?;
                let (length, rendered) = (text.trim().len(), turn.len());
                if rendered < length {
                    return Err(EvalError::SilentTemplate { text: length, rendered });
                }
                self.tokenizer.encode_rendered(&with_opening(template, turn, text, opening)?)?
            }
        })
    }

    /// Tokens that the question takes, with room for its answer.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn tokens(&self, question: &Question) -> Result<usize, EvalError> {
        let read = self.prompt(&question.text, &question.opening)?.len();
        Ok(read + question.max_new_tokens)
    }
}

/// The turn with the first words of an answer, as the template writes an answer. One that does not show them as they are
/// has them right behind the turn: it ends where an answer begins, so that a space in between would be one too many.
fn with_opening(
    template: &ChatTemplate,
    turn: String,
    text: &str,
    opening: &str,
) -> Result<String, EvalError> {
    let opening = opening.trim_start();
    if opening.is_empty() {
        return Ok(turn);
    }
    let messages = [Message::new("user", text), Message::new("assistant", opening)];
    Ok(template.render_unfinished(&messages)?.unwrap_or_else(|| turn + opening))
}
