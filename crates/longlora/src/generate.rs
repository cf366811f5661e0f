//! `longlora generate`

use anyhow::Result;

use crate::model::ModelArgs;
use crate::print;

/// Continue a text by the likeliest tokens.
///
/// Each token runs the whole text anew, so this is for short tries.
#[derive(clap::Args)]
pub(crate) struct Generate {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to continue
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Tokens to add at most
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    max_new_tokens: usize,
}

impl Generate {
    pub(crate) fn run(self) -> Result<()> {
        let tokenizer = self.model.tokenizer()?;
        let prompt = tokenizer.encode(&self.prompt)?;
        anyhow::ensure!(!prompt.is_empty(), "the prompt has no tokens; give some text");
        let llama = self.model.load(None)?;
        let options = longlora_llama::GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            ..Default::default()
        };
        let next = llama.generate(&prompt, &options, |_| std::ops::ControlFlow::Continue(())).ids;
        print(&tokenizer.decode(&[prompt, next].concat())?);
        Ok(())
    }
}
