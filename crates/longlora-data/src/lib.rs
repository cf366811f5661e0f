//! Text on disk in, batches of token ids out.
//!
//! ```text
//! files ─► Document ─► tokens ─► Window ─────────────────► TokenBatch
//!
//! a.txt ─► ▒▒▒▒▒▒▒▒ ─► 3 1 4 1 5 ┐   ┌ 3 1 4 1 │ 5 9 2 6 ┐  inputs   3  1  4  1
//! b.txt ─► ▒▒▒▒▒▒   ─► 9 2 6 5   ├─► │ starts  │ starts  ├─► targets  1  4  1  ·
//! c.txt ─► ▒▒▒▒     ─► 3 5 8     ┘   └ 0       │ 0 1     ┘           ───────────
//!                                                            inputs   5  9  2  6
//!                                                            targets  ·  2  6  ·
//! ```
//!
//! Documents are laid end to end and cut where a window is full, so no token is lost and none is
//! padding. Each window remembers where its documents begin; the model uses that to keep attention
//! inside a document, and [`TokenBatch`] to leave out (`·`) every target that would cross into the
//! next one.
//!
//! Of conversations only the answers are learned. The chat template writes one as text, the [`Encoder`] finds the
//! answers in it, and a [`Lesson`] says which of its tokens are read and never predicted:
//!
//! ```text
//! chats.jsonl ─► Message, Message, .. ─► <user> Hi <end> <assistant> Yo <end> ─► Lesson ─► Window ─► TokenBatch
//!                                        ·      ·  ·     ·           Yo <end>    learned
//! ```
//!
//! Windows of conversations hold whole ones, as many as fit one after the other; what is longer than a window loses its end.
//!
//! Which windows step `n` of a run sees follows from the [`Order`] and `n` alone. A resumed run
//! therefore continues exactly where it stopped, without any state of its own.
//!
//! The way back is a [`DecodeStream`], which hands out text as ids come, and what a chat model reads
//! is written by its [`ChatTemplate`].
//!
//! ```text
//!                      ChatTemplate          Tokenizer               DecodeStream
//! Message, Message, .. ───────────► <s>[INST] .. ─────► 1 733 16289 .. ─────────► "Once" " upon" ..
//!                      render                encode_rendered          push
//!
//! tokenizer.json,            Companions
//! tokenizer_config.json,     ◄──────────────────   tokenizer.ggml.*, tokenizer.chat_template
//! chat_template.jinja        ──────────────────►   of a GGUF file
//!                            gguf_metadata
//! ```
//!
//! A tokenizer is read from a Hugging Face folder or from a GGUF file, and written from the one to
//! the other. One that would encode differently on the other side is refused. [`Companions`] are all
//! that goes with the weights into a new folder.
//!
//! Nothing here knows a model, and nothing here touches the network.
//!
//! ```
//! use longlora_data::{BatchStream, Order, Windows, train_byte_level_bpe};
//!
//! # fn main() -> Result<(), longlora_data::DataError> {
//! let texts = ["the cat and the hat", "the hat and the cat"];
//! let tokenizer = train_byte_level_bpe(texts.into_iter(), 270)?;
//! let documents = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<_, _>>()?;
//!
//! let windows = Windows::pack(documents, 4)?;
//! windows.check_vocabulary(tokenizer.vocab_size())?;
//! let stream = BatchStream::new(windows, Order::Shuffled { seed: 42 }, 2, 1);
//!
//! let micro_batches = stream.step(1000);
//! assert_eq!(micro_batches.len(), 1);
//! assert_eq!(micro_batches[0].batch, 2);
//! # Ok(())
//! # }
//! ```

mod error;
mod position; // where in a file a document stands
mod object_problem;
mod encoding_problem;
mod document;
mod object; // what an object of a JSON file is
mod instruction;
mod token_file;
mod tokenizer;
mod tokenizer_config;
mod decode_stream;
mod bpe;
mod chat;
mod chat_json; // Python's json.dumps, for templates
mod strftime; // the date, for templates
mod gguf_keys;
mod pre_tokenizer; // names of GGUF for how words are cut
mod gguf_vocabulary; // what a file says, checked
mod gguf_tokenizer; // from GGUF
mod gguf_metadata; // to GGUF
mod written; // a conversation as text, and where its answers are
mod lesson; // a conversation as token ids, and which of them are learned
mod encoder;
mod window;
mod order;
mod batch;
mod stream;
mod atomic;
mod companions;

pub use batch::{IGNORED_TARGET, TokenBatch};
pub use bpe::train_byte_level_bpe;
pub use chat::{ChatTemplate, Message};
pub use companions::Companions;
pub use decode_stream::DecodeStream;
pub use document::{Content, Corpus, Document, SourceFile};
pub use encoder::{Encoded, Encoder};
pub use encoding_problem::EncodingProblem;
pub use error::{DataError, NotForGguf, VocabularyProblem};
pub use gguf_metadata::{gguf_metadata, split_otherwise_in_gguf};
pub use instruction::Instruction;
pub use lesson::Lesson;
pub use object_problem::ObjectProblem;
pub use order::Order;
pub use position::{Place, Position};
pub use stream::BatchStream;
pub use token_file::{TokenWidth, write_token_file};
pub use tokenizer::{SpecialToken, SpecialTokens, Tokenizer};
pub use window::{PackedLessons, Window, Windows};
