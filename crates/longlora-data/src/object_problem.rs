use longlora_gguf::shown_within;

/// Most characters of a role that an error shows.
const ROLE: usize = 80;

/// Why an object of a JSON file is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectProblem {
    /// Nothing in it says what it is.
    #[error(
        "has none of the fields that are understood; write `text`, `messages`, `conversations`, or `instruction` with `output`"
    )]
    Unknown,
    /// It would be two documents at once.
    #[error(
        "has more than one of the fields `text`, `messages`, `conversations` and `instruction`; leave the one that is meant"
    )]
    Ambiguous,
    /// What would have to be read with the conversation, and is not.
    #[error("has a `{field}`, which is not read; write it into `messages`, or leave it out")]
    NotSupported {
        /// Its name.
        field: &'static str,
    },
    /// An answer that is to be read and not learned.
    #[error(
        "has an answer of weight 0 in message `{number}`, and all answers are learned; leave the conversation out, or end it \
         before that answer"
    )]
    NotToLearn {
        /// Counted from 1.
        number: usize,
    },
    /// Something else where a text has to be.
    #[error("has a `{field}` that is no text; write a string")]
    NotText {
        /// Its name.
        field: &'static str,
    },
    /// Something else where messages have to be.
    #[error(
        "has a `{field}` that is no list of messages; write [{{\"role\": .., \"content\": ..}}, ..]"
    )]
    NotMessages {
        /// Its name.
        field: &'static str,
    },
    /// A message that lacks its half.
    #[error(
        "has a message `{number}` without a speaker or without a text; write {{\"role\": .., \"content\": ..}} or \
         {{\"from\": .., \"value\": ..}}, all of them strings"
    )]
    NotAMessage {
        /// Counted from 1.
        number: usize,
    },
    /// Somebody who has no part in a conversation here.
    #[error(
        "has a message `{number}` by `{}`; those who speak are `system`, `user` (or `human`) and `assistant` (or `gpt`)",
        shown_within(.role, ROLE)
    )]
    UnknownRole {
        /// Counted from 1.
        number: usize,
        /// Who it says.
        role: String,
    },
    /// Questions alone.
    #[error("has no answer to learn from; add the assistant's, or leave the conversation out")]
    NoAnswer,
    /// An answer to nothing.
    #[error("has an answer before any question; put the user's before it, or leave the answer out")]
    NoQuestion,
    /// An answer of blanks.
    #[error("has an empty answer in message `{number}`; write it, or leave the conversation out")]
    EmptyAnswer {
        /// Counted from 1.
        number: usize,
    },
    /// The same of an instruction.
    #[error("has an empty `output`; write the answer, or leave the instruction out")]
    EmptyOutput,
}
