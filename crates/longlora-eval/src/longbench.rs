//! LongBench: questions about long texts, summaries of them, and code (arXiv:2308.14508).
//!
//! All of its 21 tasks: 14 in English, five in Chinese, and two of code. The templates and the rules are those of its
//! first version (THUDM/LongBench, commit 2e00731), which is under the MIT licence: Copyright (c) 2023 THU-KEG & Zhipu
//! AI.

mod task;
mod items; // its own files
mod qasper; // the files of QASPER
mod narrativeqa; // the files of NarrativeQA

use std::sync::Arc;

use crate::{EvalError, Prompter, Question};

pub use items::read_longbench;
pub use narrativeqa::read_narrativeqa;
pub use qasper::read_qasper;
pub use task::{LongBenchKind, LongBenchTask};

/// One item of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongBenchItem {
    /// What is to be done with it.
    pub task: &'static LongBenchTask,
    /// Which of the task's items it is.
    pub id: String,
    /// The question or instruction; empty where the task says it all.
    pub input: String,
    /// The long text, which several questions may share.
    pub context: Arc<str>,
    /// What is right; the best one counts.
    pub answers: Vec<String>,
    /// The classes to choose from, if the task is to choose.
    pub all_classes: Vec<String>,
    /// Of LongBench-E alone, which scores by length: how long the text is.
    pub length: Option<LengthClass>,
}

/// The lengths that LongBench-E tells apart, in words, or in characters of Chinese.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LengthClass {
    /// Below 4,000.
    Short,
    /// Below 8,000.
    Middle,
    /// From 8,000 on.
    Long,
}

impl LengthClass {
    /// Of so many words.
    pub fn of(words: usize) -> Self {
        match words {
            0..4000 => Self::Short,
            4000..8000 => Self::Middle,
            _ => Self::Long,
        }
    }

    /// LongBench's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "0-4k",
            Self::Middle => "4-8k",
            Self::Long => "8k+",
        }
    }
}

/// Asks about items, in prompts that leave room for the answer within `context_length` tokens.
///
/// A prompt that is too long loses its middle, as in LongBench's `pred.py`: as many tokens from its beginning and from
/// its end as there is room for are turned back into text and put together, as the instructions stand at both ends. The
/// length of a question is 0, for its text is as long as it is, and may be the same in several context lengths.
///
/// `prompter` is the caller's choice; where [`wants_chat`](LongBenchTask::wants_chat) says no, LongBench's is one of
/// text.
///
/// Differs from it: what a chat adds counts, and a prompt that takes more tokens once it is put together is cut again,
/// so that it always fits; an answer to `samsum` may begin with a new line, and goes on after the next one, but no more
/// than its first line counts.
///
/// # Errors
/// [`EvalError::ShortContext`], if there is no room for a prompt, and those of the prompter.
pub fn longbench_questions(
    items: &[LongBenchItem],
    prompter: &Prompter,
    context_length: usize,
) -> Result<Vec<Question>, EvalError> {
    items.iter().map(|item| question(item, prompter, context_length)).collect()
}

fn question(
    item: &LongBenchItem,
    prompter: &Prompter,
    context_length: usize,
) -> Result<Question, EvalError> {
    let task = item.task;
    let room = context_length.saturating_sub(task.max_new_tokens);
    let text = without_middle(task.prompt(&item.context, &item.input), prompter, room)?;
    let short = || EvalError::ShortContext { task: task.name.to_owned(), length: context_length };
    Ok(Question {
        task: task.name.to_owned(),
        id: item.id.clone(),
        text: text.ok_or_else(short)?,
        opening: String::new(),
        answers: item.answers.clone(),
        scoring: task.scoring(&item.all_classes),
        length: 0,
        depth: None,
        max_new_tokens: task.max_new_tokens,
    })
}

/// The text, or its first and last tokens, so that the model reads no more than `room` of them. `None` if there is no
/// room for any.
fn without_middle(
    text: String,
    prompter: &Prompter,
    room: usize,
) -> Result<Option<String>, EvalError> {
    let whole = prompter.prompt(&text, "")?.len();
    if whole <= room {
        return Ok(Some(text));
    }
    let tokenizer = prompter.tokenizer();
    let ids = tokenizer.encode(&text)?;
    let of_the_chat = whole.saturating_sub(ids.len());
    let mut kept = room.saturating_sub(of_the_chat);
    while kept >= 2 {
        let half = kept / 2;
        let [head, tail] = [&ids[..half], &ids[ids.len() - half..]];
        let text = tokenizer.decode(head)? + &tokenizer.decode(tail)?;
        let tokens = prompter.prompt(&text, "")?.len();
        if tokens <= room {
            return Ok(Some(text));
        }
        kept = kept.saturating_sub(tokens - room);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::slice;

    use longlora_data::{ChatTemplate, Tokenizer, train_byte_level_bpe};

    use super::*;

    /// One token for each byte, and one that begins every text.
    fn bytes() -> Tokenizer {
        train_byte_level_bpe(["no pair is merged"].into_iter(), 258).unwrap()
    }

    fn item(name: &str, context: &str) -> LongBenchItem {
        LongBenchItem {
            task: LongBenchTask::named(name).unwrap(),
            id: "7".to_owned(),
            input: "Who?".to_owned(),
            context: context.into(),
            answers: vec!["He".to_owned()],
            all_classes: vec![],
            length: None,
        }
    }

    #[track_caller]
    fn ask(item: &LongBenchItem, prompter: &Prompter, context_length: usize) -> Question {
        let questions = longbench_questions(slice::from_ref(item), prompter, context_length);
        let question = questions.unwrap().remove(0);
        assert!(prompter.tokens(&question).unwrap() <= context_length);
        question
    }

    #[test]
    fn a_prompt_that_fits_stays_as_it_is() {
        let item = item("hotpotqa", "He did it.");
        let prompt = item.task.prompt(&item.context, "Who?");
        let fits = 1 + prompt.len() + 32;
        let question = ask(&item, &Prompter::text(bytes()), fits);
        assert_eq!(question.text, prompt);
        assert_eq!((question.task.as_str(), question.id.as_str()), ("hotpotqa", "7"));
        assert_eq!((question.length, question.max_new_tokens), (0, 32));
        assert_eq!(question.scoring.score("he", &question.answers), 1.0);
        assert_ne!(ask(&item, &Prompter::text(bytes()), fits - 1).text, prompt);
    }

    #[test]
    fn a_long_prompt_loses_its_middle() {
        let item = item("hotpotqa", &"He did it. ".repeat(100));
        let prompt = item.task.prompt(&item.context, "Who?");
        let prompter = Prompter::text(bytes());
        for room in [600, 601] {
            // The first token begins the text and is none of it.
            let expected = [&prompt[..299], &prompt[prompt.len() - 300..]].concat();
            assert_eq!(ask(&item, &prompter, 32 + room).text, expected);
        }
    }

    #[test]
    fn what_a_chat_adds_finds_room() {
        let folder = tempfile::tempdir().unwrap();
        let template = "<s>[A long beginning] {{ messages[0].content }} [/and end]";
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let template = ChatTemplate::read(folder.path(), &bytes()).unwrap().unwrap();
        let prompter = Prompter::chat(bytes(), template);
        let item = item("qmsum", &"They said so. ".repeat(100));
        let question = ask(&item, &prompter, 512 + 600);
        let read = prompter.tokens(&question).unwrap() - 512;
        assert!((597..=600).contains(&read), "{read}");
        assert!(question.text.ends_with("\n\nQuery: Who?\nAnswer:"));
    }

    /// The parts of a character that was cut come back as signs for what cannot be read, which may take more tokens.
    #[test]
    fn a_cut_within_a_character_still_fits() {
        let item = item("hotpotqa", &"日本の首都は東京です。".repeat(100));
        for room in 600..608 {
            ask(&item, &Prompter::text(bytes()), 32 + room);
        }
    }

    #[test]
    fn a_context_without_room_is_an_error() {
        let item = item("gov_report", "A report.");
        for context_length in [0, 512, 513] {
            let prompter = Prompter::text(bytes());
            let questions = longbench_questions(slice::from_ref(&item), &prompter, context_length);
            let error = questions.unwrap_err().to_string();
            for part in ["gov_report", &format!("`{context_length}`")] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
