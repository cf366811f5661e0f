//! `longlora eval prepare`

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use longlora_data::{Corpus, TokenWidth, Tokenizer, write_token_file};

use crate::model::model_folder;
use crate::say;

/// Make a file of token ids of documents, as LongLoRA's `pg19/validation.bin`: numbers of 2 bytes, nothing else.
///
/// PG-19's folders of books and proof-pile's .jsonl.gz are read as they come. `finetune`, `compare`, `eval
/// perplexity` and `eval retention` take such a file as their --data, and so do LongLoRA's own scripts.
#[derive(clap::Args)]
pub(crate) struct Prepare {
    /// Whose tokenizer: a Hugging Face model folder or GGUF file, or the name of a model that `longlora fetch` has
    /// fetched
    #[arg(long, value_name = "PATH|OWNER/NAME")]
    model: PathBuf,
    /// Text: a .txt, .md, .jsonl or .jsonl.gz (field `text`) file, or a folder of them
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// The file, a .bin, or a .uint32.bin with 4 bytes per token for vocabularies beyond 65,536; must not exist yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Leave documents with fewer tokens out; LongLoRA's proof-pile has those of at least 32,768
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    min_tokens: usize,
}

impl Prepare {
    pub(crate) fn run(self) -> Result<()> {
        let out = &self.out;
        ensure!(!out.exists(), "`{}` exists; name another file with --out", out.display());
        ensure!(
            out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("bin")),
            "`{}` is no .bin file; call it .bin, or .uint32.bin for 4 bytes per token",
            out.display()
        );
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            bail!(
                "`{}` cannot be written: there is no folder `{}`; create it first, or name another file with --out",
                out.display(),
                folder.display()
            );
        }
        let tokenizer = Tokenizer::read(&model_folder(&self.model)?)?;
        let corpus = Corpus::read(&self.data)?;
        let mut documents = corpus.tokenize(Some(&tokenizer))?;
        let (largest, known) = (documents.iter().flatten().max(), tokenizer.vocab_size());
        if let Some(&token) = largest.filter(|&&token| token as usize >= known) {
            bail!(
                "`{}` has token `{token}`, and the vocabulary of `{}` ends before `{known}`; they do not belong together",
                self.data.display(),
                self.model.display()
            );
        }
        let all = documents.len();
        documents.retain(|tokens| tokens.len() >= self.min_tokens);
        ensure!(
            !documents.is_empty(),
            "none of `{all}` documents has `{}` tokens; lower --min-tokens",
            self.min_tokens
        );
        write_token_file(out, &documents)?;
        let tokens: usize = documents.iter().map(Vec::len).sum();
        let bytes = if TokenWidth::of(out) == TokenWidth::Uint16 { 2 } else { 4 };
        let kept = documents.len();
        say(&format!(
            "{tokens} tokens of {bytes} bytes from {kept} of {all} documents are in {}",
            out.display()
        ));
        Ok(())
    }
}
