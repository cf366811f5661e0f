/// Why a document cannot be made token ids to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodingProblem {
    /// A conversation where all that is read counts as text.
    #[error("is a conversation, from which only fine-tuning learns; give text or token ids here")]
    ConversationAsText,
    /// A conversation, and a model that was not made for any.
    #[error(
        "is a conversation, and the model has no chat template to write it by; take a model that was made for chats, put its \
         maker's chat_template.jinja beside its tokenizer.json, or write `instruction` and `output`, which need none"
    )]
    NoChatTemplate,
    /// A chat template that asks for an answer in other words than it writes before it.
    #[error(
        "has an answer, `{answer}`, that does not stand where the chat template asks for it; some templates leave a system \
         message out once an answer follows: put it into the first question, or take another template"
    )]
    AskedOtherwise {
        /// Which one, counted from 1.
        answer: usize,
    },
    /// A chat template by which an answer cannot be found again.
    #[error(
        "has an answer, `{answer}`, that the chat template leaves out, or writes otherwise once more follows, as templates do \
         that drop earlier thinking; give conversations of one question and one answer, or another template"
    )]
    AnswerElsewhere {
        /// Which one, counted from 1.
        answer: usize,
    },
    /// A text that is to end in a token that there is not.
    #[error(
        "is to end in the tokenizer's end-of-text token, and the tokenizer names none; name it as `eos_token` in \
         tokenizer_config.json"
    )]
    NoEndOfText,
}
