//! Documents as text.

use std::path::Path;

use anyhow::{Result, ensure};
use longlora_data::{Content, Corpus};

/// The texts of a corpus; token ids are none.
pub(crate) fn texts(corpus: &Corpus, path: &Path) -> Result<Vec<String>> {
    ensure!(
        !corpus.has_conversations(),
        "`{}` holds conversations, from which only fine-tuning learns; give text: .txt, .md, .jsonl or .jsonl.gz",
        path.display()
    );
    let text = |content: &Content| match content {
        Content::Text(text) => Some(text.clone()),
        Content::Tokens(_) | Content::Conversation(_) | Content::Instruction(_) => None,
    };
    let texts: Vec<String> =
        corpus.documents.iter().filter_map(|document| text(&document.content)).collect();
    ensure!(
        !texts.is_empty(),
        "`{}` holds token ids alone; give text: .txt, .md, .jsonl or .jsonl.gz",
        path.display()
    );
    Ok(texts)
}
