//! `longlora generate`

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};

use crate::count::new_tokens;
use crate::model::ModelArgs;
use crate::say;
use crate::writing::{Writer, WritingArgs};

/// Continue a text.
///
/// The text and its continuation go to standard output as they become final, the speed to standard error. Ctrl-C ends
/// the text.
#[derive(clap::Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: Prompt,
    /// Tokens to add at most
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = new_tokens())]
    max_new_tokens: usize,
    #[command(flatten)]
    writing: WritingArgs,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Continue what comes from standard input
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
    standard_input: Option<String>,
}

impl Prompt {
    fn read(self) -> Result<String> {
        match (self.prompt, self.prompt_file) {
            (Some(text), _) => Ok(text),
            (None, Some(path)) => fs::read_to_string(&path).map_err(|error| {
                let advice = advice(&error);
                anyhow!("cannot read the prompt `{}`: {error}; {advice}", path.display())
            }),
            (None, None) => io::read_to_string(io::stdin())
                .context("cannot read the prompt from standard input"),
        }
    }
}

/// What to do about a file that cannot be read.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::IsADirectory => "give a file",
        ErrorKind::InvalidData => "give a text in UTF-8",
        ErrorKind::PermissionDenied => "check its permissions",
        _ => "check the path",
    }
}

impl Generate {
    pub(crate) fn run(self) -> Result<()> {
        let text = self.prompt.read()?;
        let writer = Writer::load(&self.model, &self.writing, self.max_new_tokens)?;
        let prompt = writer.tokenizer.encode(&text)?;
        ensure!(!prompt.is_empty(), "the prompt has no tokens; give some text");
        writer.check_vocabulary(&prompt)?;
        let reach = writer.llama.config.rope.max_position_embeddings;
        let length = prompt.len().saturating_add(self.max_new_tokens);
        if length > reach && writer.options.streaming.is_none() {
            say(&format!(
                "the text may have `{length}` tokens in the end, and the model reaches `{reach}`; beyond that it may \
                 lose the thread (--window keeps it within)"
            ));
        }
        let kind = writer.options.cache_kind(prompt.len());
        let mut cache = writer.llama.cache(kind);
        writer.write(&prompt, &prompt, &mut cache, &writer.options)?;
        Ok(())
    }
}
