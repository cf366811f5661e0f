//! `longlora chat`

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context, Result, ensure};
use longlora_data::{ChatTemplate, Message};
use longlora_llama::{CacheKind, KvCache};

use crate::count::new_tokens;
use crate::model::ModelArgs;
use crate::say;
use crate::template_arguments::{TemplateArguments, template_arguments};
use crate::writing::{Writer, WritingArgs};

/// Talk to a model, line by line.
///
/// Lines are read from the terminal, or from a pipe, until there are no more (Ctrl-D). The conversation stays in the
/// cache: of each turn only what is new is read. Ctrl-C ends a reply, and between replies the program.
#[derive(clap::Args)]
pub(crate) struct Chat {
    #[command(flatten)]
    model: ModelArgs,
    /// Words that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Tokens of a reply at most
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = new_tokens())]
    max_new_tokens: usize,
    /// What else the chat template is told, as a JSON object: '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON", value_parser = template_arguments)]
    chat_template_kwargs: Option<TemplateArguments>,
    #[command(flatten)]
    writing: WritingArgs,
}

impl Chat {
    pub(crate) fn run(self) -> Result<()> {
        let tokenizer = self.model.tokenizer()?;
        let folder = self.model.tokenizer_folder()?;
        let template = ChatTemplate::read(&folder, &tokenizer)?.with_context(|| {
            format!(
                "`{}` has no chat template, so the model was not trained to talk; continue a text with `generate`, or \
                 put its `chat_template.jinja` there",
                folder.display()
            )
        })?;
        let template = template.with_arguments(self.chat_template_kwargs.unwrap_or_default());
        let writer = Writer::load(&self.model, &self.writing, self.max_new_tokens)?;
        let mut conversation = Conversation::new(&writer, template);
        conversation.messages.extend(self.system.map(|text| Message::new("system", text)));
        ask()?;
        for line in std::io::stdin().lock().lines() {
            let line = line.context("cannot read from standard input")?;
            if !line.trim().is_empty() {
                conversation.turn(line)?;
            }
            ask()?;
        }
        if std::io::stdin().is_terminal() {
            say("");
        }
        Ok(())
    }
}

/// What was said, and the keys and values of it.
struct Conversation<'a> {
    writer: &'a Writer,
    template: ChatTemplate,
    messages: Vec<Message>,
    cache: KvCache,
    /// Tokens that it may have; `None` for any number.
    reach: Option<usize>,
}

impl<'a> Conversation<'a> {
    fn new(writer: &'a Writer, template: ChatTemplate) -> Self {
        let length = writer.llama.config.rope.max_position_embeddings;
        let (kind, reach) = match writer.options.streaming {
            Some(streaming) => (CacheKind::Streaming(streaming), None),
            None => (CacheKind::Whole { length, window: None }, Some(length)),
        };
        let cache = writer.llama.cache(kind);
        Self { writer, template, messages: vec![], cache, reach }
    }

    /// The reply to one line.
    fn turn(&mut self, line: String) -> Result<()> {
        self.messages.push(Message::new("user", line));
        let rendered = self.template.render(&self.messages, true)?;
        let text = self.writer.tokenizer.encode_rendered(&rendered)?;
        ensure!(!text.is_empty(), "the chat template makes no text of the conversation");
        self.writer.check_vocabulary(&text)?;
        let room = match self.reach {
            None => usize::MAX,
            Some(reach) => reach.saturating_sub(text.len()),
        };
        ensure!(
            room > 0,
            "the conversation has `{}` tokens, and the model reaches `{}`; begin a new one, or keep the last part of it \
             with --window",
            text.len(),
            self.reach.unwrap_or_default()
        );
        let known = self.cache.keep_beginning_of(&text);
        let mut options = self.writer.options.clone();
        options.max_new_tokens = options.max_new_tokens.min(room);
        // Each reply draws anew, and the whole conversation follows from the seed.
        options.sampling.seed = options.sampling.seed.wrapping_add(self.messages.len() as u64);
        let reply = self.writer.write(&[], &text[known..], &mut self.cache, &options)?;
        self.messages.push(Message::new("assistant", reply));
        Ok(())
    }
}

/// Shows a person that it is their turn.
fn ask() -> Result<()> {
    let mut terminal = std::io::stderr();
    if std::io::stdin().is_terminal() {
        terminal
            .write_all(b"> ")
            .and_then(|()| terminal.flush())
            .context("cannot write to the terminal")?;
    }
    Ok(())
}
