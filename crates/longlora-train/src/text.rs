//! The text of a run: what is learned from, and what is held out.

use std::path::Path;

use longlora_data::{
    ChatTemplate, Corpus, Document, Encoded, Encoder, PackedLessons, SourceFile, Tokenizer, Windows,
};
use longlora_llama::LlamaConfig;

use crate::config::{FinetuneConfig, HeldOut};
use crate::document_counts::DocumentCounts;
use crate::error::TrainError;
use crate::run_folder::RunFolder;

/// What is learned from.
pub(crate) struct Text {
    /// Without those that are held out.
    pub(crate) windows: Windows,
    /// What they were made of.
    pub(crate) documents: DocumentCounts,
}

impl Text {
    /// The windows to learn from, of which one at least is whole if they are of text.
    pub(crate) fn read(
        config: &FinetuneConfig,
        corpus: &Corpus,
        vocab_size: usize,
    ) -> Result<Self, TrainError> {
        let Parts { training: windows, documents, .. } = Parts::of(config, corpus)?;
        windows.check_vocabulary(vocab_size)?;
        let (tokens, length) = (windows.tokens(), config.context.window());
        if documents.conversations == 0 && tokens < length {
            return Err(TrainError::ShortText { path: config.data.path.clone(), tokens, length });
        }
        Ok(Self { windows, documents })
    }
}

/// What the table of a run is measured on.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOutText {
    /// As token ids; none, if nothing was held out.
    pub documents: Vec<Vec<u32>>,
    /// Whether there are conversations among them. They are read as texts: what is asked counts as what is answered.
    pub has_conversations: bool,
}

/// The text that the table of a run is measured on.
///
/// # Errors
/// [`TrainError`], if the text cannot be read, or has a token that the model does not know.
pub fn held_out_documents(config: &FinetuneConfig) -> Result<HeldOutText, TrainError> {
    let vocab_size = LlamaConfig::read(&config.model.path)?.vocab_size;
    let Some(path) = config.eval_data() else {
        let corpus = Corpus::read(&config.data.path)?;
        let held_out = Parts::of(config, &corpus)?.held_out;
        let documents = held_out.documents();
        for tokens in &documents {
            check_vocabulary(tokens, vocab_size, &config.data.path)?;
        }
        let documents = documents.into_iter().map(<[u32]>::to_vec).collect();
        return Ok(HeldOutText { documents, has_conversations: corpus.has_conversations() });
    };
    let corpus = Corpus::read(path)?;
    let Encoded { texts, lessons } = encode(config, &corpus)?;
    let lessons = lessons.into_iter().map(|lesson| lesson.tokens);
    let documents: Vec<_> = texts.into_iter().chain(lessons).collect();
    let of_conversations = |document: &&Document| document.content.is_conversation();
    let (conversations, texts): (Vec<_>, Vec<_>) =
        corpus.documents.iter().partition(of_conversations);
    for (document, tokens) in texts.into_iter().chain(conversations).zip(&documents) {
        check_vocabulary(tokens, vocab_size, &document.source)?;
    }
    Ok(HeldOutText { documents, has_conversations: corpus.has_conversations() })
}

fn check_vocabulary(tokens: &[u32], vocab_size: usize, path: &Path) -> Result<(), TrainError> {
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(&token) => Err(TrainError::UnknownToken { path: path.to_owned(), token, vocab_size }),
    }
}

/// Notes in the manifest of a run what its table is measured on from now on, as `config` has it:
/// [`resume`](crate::resume) takes it for what the run began with.
///
/// # Errors
/// [`TrainError`], if the text cannot be read, or the disk refuses.
pub fn note_held_out(config: &FinetuneConfig, run: &RunFolder) -> Result<(), TrainError> {
    run.note_held_out(&held_out_files(config)?)
}

/// Those of a table that is wanted, and whose text is not a share of the training text.
pub(crate) fn held_out_files(config: &FinetuneConfig) -> Result<Vec<SourceFile>, TrainError> {
    match config.eval_data() {
        Some(path) if config.evaluation.enabled => Ok(Corpus::read(path)?.files),
        _ => Ok(vec![]),
    }
}

/// A corpus in windows.
struct Parts {
    training: Windows,
    held_out: Windows,
    documents: DocumentCounts,
}

impl Parts {
    /// Of texts and of conversations the same share is held out; texts come first.
    fn of(config: &FinetuneConfig, corpus: &Corpus) -> Result<Self, TrainError> {
        let Encoded { texts, lessons } = encode(config, corpus)?;
        let length = config.context.window();
        let fraction = match config.data.held_out {
            HeldOut::Fraction(fraction) => fraction,
            HeldOut::Path(_) => 0.0,
        };
        let mut documents = DocumentCounts {
            texts: texts.len(),
            conversations: lessons.len(),
            ..DocumentCounts::default()
        };
        if lessons.is_empty() {
            let (training, held_out) = Windows::pack(texts, length)?.split_validation(fraction);
            return Ok(Self { training, held_out, documents });
        }
        let PackedLessons { windows, cut, left_out } = Windows::pack_lessons(lessons, length)?;
        documents.cut = cut;
        documents.left_out = left_out;
        let (training, held_out) = windows.split_validation(fraction);
        if texts.is_empty() {
            return Ok(Self { training, held_out, documents });
        }
        let of_texts = Windows::pack(texts, length)?.split_validation(fraction);
        let (training, held_out) = (of_texts.0.and(training), of_texts.1.and(held_out));
        Ok(Self { training, held_out, documents })
    }
}

/// Token ids need no tokenizer, text does; and conversations alone need what writes them.
fn encode(config: &FinetuneConfig, corpus: &Corpus) -> Result<Encoded, TrainError> {
    if !corpus.has_text() {
        return Ok(corpus.encode(None)?);
    }
    let model = &config.model.path;
    let tokenizer = Tokenizer::read(model)?;
    let template = match corpus.has_conversations() {
        true => ChatTemplate::read(model, &tokenizer)?,
        false => None,
    };
    let encoder = Encoder { tokenizer, template, append_eos: config.data.append_eos };
    Ok(corpus.encode(Some(&encoder))?)
}
