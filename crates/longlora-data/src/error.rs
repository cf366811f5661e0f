use std::error::Error;
use std::io;
use std::path::PathBuf;

use longlora_gguf::{GgufError, shown_within};

use crate::{EncodingProblem, ObjectProblem, Place};

/// Most characters of a file's token that an error shows.
const NAME: usize = 80;
/// Most characters of a reason that holds words of a file.
const REASON: usize = 500;

/// What the `tokenizers` crate calls an error: it has no type of its own.
type TokenizersError = Box<dyn Error + Send + Sync>;

/// Why data cannot be read, tokenized or packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The path names nothing.
    #[error("`{path}` does not exist; check its spelling and the folder it is relative to")]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The operating system refused to read.
    #[error("`{path}` cannot be read; check its permissions")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused to write.
    #[error("`{path}` cannot be written; check that its folder exists and has room")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file whose extension says nothing about its content.
    #[error(
        "`{path}` is of no known format; give a .txt, .md, .jsonl, .jsonl.gz, .json or .bin file, or a folder"
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// A folder without a single file of a known format.
    #[error(
        "`{path}` holds no .txt, .md, .jsonl, .jsonl.gz, .json or .bin file; put the documents below it"
    )]
    NothingReadable {
        /// The folder.
        path: PathBuf,
    },
    /// A text in another encoding.
    #[error("`{path}` is not UTF-8 at byte `{offset}`; convert it to UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// How many bytes from the start were valid.
        offset: usize,
    },
    /// A name below a folder that no list of files could hold.
    #[error("the name of `{path}` is not UTF-8, so that nothing could be noted of it; rename it")]
    NameNotUtf8 {
        /// The file or folder.
        path: PathBuf,
    },
    /// A line of a JSONL file that is no object.
    #[error(
        "`{path}` line `{line}` is no JSON object; write one per line, such as {{\"text\": \"..\"}}"
    )]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1, blank lines included.
        line: usize,
        /// What the parser said about this line.
        source: serde_json::Error,
    },
    /// A JSON file that begins as a list of objects and does not go on so.
    #[error(
        "`{path}` is no list of JSON objects; write [{{..}}, ..], each as a line of a .jsonl file would be"
    )]
    BadObjects {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// An object that is no document.
    #[error("{place} {problem}")]
    BadObject {
        /// The file and where in it.
        place: Place,
        /// What is wrong.
        problem: ObjectProblem,
    },
    /// A document that cannot be made token ids to learn from.
    #[error("{place} {problem}")]
    NotEncoded {
        /// The file and where in it.
        place: Place,
        /// Why not.
        problem: EncodingProblem,
    },
    /// A conversation that the chat template does not write.
    #[error("{place} is a conversation that the model's chat template does not write")]
    NotWritten {
        /// The file and where in it.
        place: Place,
        /// Why not.
        source: Box<DataError>,
    },
    /// Conversations that are all longer than what is read of them.
    #[error(
        "none of `{conversations}` conversations has anything of an answer within its first `{context_length}` tokens; ask for \
         a longer context, or give shorter ones"
    )]
    NothingToLearn {
        /// How many there are.
        conversations: usize,
        /// Tokens of a window.
        context_length: usize,
    },
    /// A JSON file that is neither a list of objects nor token ids.
    #[error(
        "`{path}` holds no token ids; write [..], [[..], ..] or {{\"ids\": [..]}}, or a list of objects, [{{..}}, ..]"
    )]
    BadTokenIds {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A compressed file that cannot be unpacked.
    #[error("`{path}` cannot be unpacked; it may be cut short, fetch it again")]
    BadGzip {
        /// The file.
        path: PathBuf,
        /// What the decompressor said.
        source: io::Error,
    },
    /// A token file that ends inside a token.
    #[error(
        "`{path}` has `{bytes}` bytes, which are no tokens of `{token_bytes}` bytes; it may be cut short or of \
         another width, which its name says: .bin has 2 bytes, .uint32.bin 4"
    )]
    TornTokenFile {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// Of each token.
        token_bytes: usize,
    },
    /// A token that 2 bytes cannot hold.
    #[error("`{path}` has 2 bytes per token, too few for token `{token}`; name it .uint32.bin")]
    WideToken {
        /// The file.
        path: PathBuf,
        /// The token's id.
        token: u32,
    },
    /// Every document is empty.
    #[error("`{path}` holds no text, only blanks; give documents with text in them")]
    NoText {
        /// The file or folder the corpus was read from.
        path: PathBuf,
    },
    /// A folder without a tokenizer.
    #[error("`{path}` has no tokenizer.json; let transformers save one as a fast tokenizer")]
    NoTokenizer {
        /// The folder.
        path: PathBuf,
    },
    /// A tokenizer file that the `tokenizers` crate does not accept.
    #[error("`{path}` is no tokenizer.json that can be used; save it anew with transformers")]
    BadTokenizer {
        /// The file.
        path: PathBuf,
        /// What the `tokenizers` crate said.
        source: TokenizersError,
    },
    /// A tokenizer configuration that is no such thing.
    #[error("`{path}` is no tokenizer configuration; save it anew with transformers or remove it")]
    BadTokenizerConfig {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A special token that the vocabulary lacks.
    #[error("`{path}` names `{token}`, which is not in tokenizer.json; take both from one model")]
    UnknownSpecialToken {
        /// The tokenizer configuration.
        path: PathBuf,
        /// The token's text.
        token: String,
    },
    /// A chat template that is not in Jinja's language, or does what no template can do.
    #[error("`{path}` has a chat template that cannot be rendered; take that of the model's maker")]
    BadChatTemplate {
        /// The file that the template is in.
        path: PathBuf,
        /// What the template engine said, with the line.
        source: minijinja::Error,
    },
    /// A chat template too long to be one.
    #[error(
        "`{path}` has a chat template of `{bytes}` bytes, and no model has one longer than \
         `{most}`; take that of the model's maker"
    )]
    LongChatTemplate {
        /// The file that the template is in.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        most: usize,
    },
    /// A chat template without an end.
    #[error("`{path}` has a chat template that does not come to an end; render a chat without it")]
    EndlessChatTemplate {
        /// The file that the template is in.
        path: PathBuf,
    },
    /// No thread to render a chat template in.
    #[error(
        "the chat template of `{path}` needs a thread, and there is none; close other programs"
    )]
    NoThread {
        /// The file that the template is in.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Messages that the chat template refuses.
    #[error(
        "the chat template of `{path}` refuses the messages: {}",
        shown_within(.message, REASON)
    )]
    ChatRefused {
        /// The file that the template is in.
        path: PathBuf,
        /// The template's own words.
        message: String,
    },
    /// Chat templates by name, none of which is the one to take.
    #[error("`{path}` has a `chat_template` that is no text and names no `default`; name one so")]
    NoDefaultChatTemplate {
        /// The tokenizer configuration.
        path: PathBuf,
    },
    /// A GGUF file that cannot be read, or a key of another type than it should have.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A GGUF file whose tokenizer contradicts itself or is of a kind that is not known.
    #[error("`{path}` has a tokenizer that cannot be used: `{key}` {problem}")]
    BadGgufTokenizer {
        /// The file.
        path: PathBuf,
        /// The key of its metadata.
        key: &'static str,
        /// What is wrong with its value.
        problem: VocabularyProblem,
    },
    /// A tokenizer for which GGUF has no words.
    #[error("the tokenizer of `{path}` cannot be written to GGUF: {reason}")]
    NotForGguf {
        /// The model's folder.
        path: PathBuf,
        /// Which part of it has no counterpart.
        reason: NotForGguf,
    },
    /// Text, and nothing to turn it into tokens.
    #[error("`{path}` is text, and there is no tokenizer; give one or a .json file of token ids")]
    TokenizerNeeded {
        /// The file.
        path: PathBuf,
    },
    /// A document the tokenizer cannot encode.
    #[error("`{path}` cannot be tokenized; check that the tokenizer fits the text")]
    Tokenize {
        /// The file the document comes from.
        path: PathBuf,
        /// Why not.
        source: Box<DataError>,
    },
    /// A text the tokenizer cannot encode.
    #[error("a text of `{bytes}` bytes cannot be encoded; check that the tokenizer fits the text")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// What the `tokenizers` crate said.
        source: TokenizersError,
    },
    /// Ids the tokenizer cannot decode.
    #[error("`{tokens}` tokens cannot be decoded; check that they come from this tokenizer")]
    Decode {
        /// How many ids were given.
        tokens: usize,
        /// What the `tokenizers` crate said.
        source: TokenizersError,
    },
    /// Room for tokens is taken before there are any.
    #[error("a vocabulary of `{vocab_size}` tokens is larger than any; ask for {largest} at most")]
    VocabularyTooLarge {
        /// What was asked for.
        vocab_size: usize,
        /// What is possible.
        largest: usize,
    },
    /// A vocabulary without room for all bytes.
    #[error("a vocabulary of `{vocab_size}` has no room for every byte; ask for `{smallest}`")]
    VocabularyTooSmall {
        /// The size asked for.
        vocab_size: usize,
        /// The smallest size there is: every byte and the special tokens.
        smallest: usize,
    },
    /// A tokenizer that could not be built from its parts or turned into JSON.
    #[error("a tokenizer of `{vocab_size}` tokens cannot be put together; ask for another size")]
    BuildTokenizer {
        /// Tokens in its vocabulary.
        vocab_size: usize,
        /// What the `tokenizers` crate said.
        source: TokenizersError,
    },
    /// Windows in which nothing can be predicted.
    #[error("a context length of `{context_length}` predicts nothing; ask for at least 2 tokens")]
    ShortContext {
        /// The length asked for.
        context_length: usize,
    },
    /// Documents that do not fill the smallest window.
    #[error("`{tokens}` tokens are too few to train on; give at least 2")]
    TooFewTokens {
        /// Tokens in all documents together.
        tokens: usize,
    },
    /// Tokens of another model.
    #[error(
        "token id `{token}` is outside a vocabulary of `{vocab_size}`: tokenizer and model do not \
         belong together; take the tokenizer from the model's own folder"
    )]
    TokenOutsideVocabulary {
        /// The largest id.
        token: u32,
        /// How many tokens the model knows.
        vocab_size: usize,
    },
}

/// What is wrong with a key of a GGUF file's tokenizer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyProblem {
    /// A vocabulary of nothing.
    #[error("is empty; take a file that has a vocabulary")]
    Empty,
    /// Lists that belong together and differ in length.
    #[error("has `{found}` entries for `{tokens}` tokens; download the file again")]
    Length {
        /// How long this one is.
        found: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// Two tokens with one spelling.
    #[error(
        "has `{}` twice, as `{first}` and as `{second}`; convert the model again",
        shown_within(.token, NAME)
    )]
    Twice {
        /// The spelling.
        token: String,
        /// The one id.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A token too long to be one.
    #[error("has a token of `{bytes}` bytes, `{id}`; no vocabulary has one longer than `{most}`")]
    TooLong {
        /// Which token.
        id: usize,
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        most: usize,
    },
    /// A special token that is none of the tokens.
    #[error("is `{id}`, and there are only `{tokens}` tokens; convert the model again")]
    IdOutside {
        /// The id.
        id: u64,
        /// How many tokens there are.
        tokens: usize,
    },
    /// A merge that is not written as two tokens with a space between.
    #[error(
        "has `{}` at `{index}`, which is no pair of tokens; convert the model again",
        shown_within(.merge, NAME)
    )]
    NoPair {
        /// What is there instead.
        merge: String,
        /// Where, from 0.
        index: usize,
    },
    /// A merge of or into something that is no token.
    #[error(
        "names `{}` at `{index}`, which is no token; convert the model again",
        shown_within(.token, NAME)
    )]
    NoToken {
        /// What is named.
        token: String,
        /// Where, from 0.
        index: usize,
    },
    /// Tokens and merges that the `tokenizers` crate does not accept.
    #[error("makes no tokenizer: {}; convert the model again", shown_within(.reason, REASON))]
    NotBuilt {
        /// What the `tokenizers` crate said.
        reason: String,
    },
    /// A kind of tokenizer that is not read here.
    #[error("is `{}`; only `gpt2` and `llama` can be read", shown_within(.model, NAME))]
    UnknownModel {
        /// What the file says.
        model: String,
    },
    /// A way to cut a text that is not known here.
    #[error(
        "is `{}`, which is not known here; take the model in Hugging Face's format",
        shown_within(.pre, NAME)
    )]
    UnknownPreTokenizer {
        /// What the file says.
        pre: String,
    },
}

/// Why a tokenizer cannot be written to GGUF.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotForGguf {
    /// Unigram, WordPiece and others.
    #[error("its model is `{model}`; only BPE can be written")]
    Model {
        /// The type in `tokenizer.json`.
        model: String,
    },
    /// A pre-tokenizer or a normalizer without a name.
    #[error("GGUF has no name for how its `pre_tokenizer` and `normalizer` cut a text")]
    PreTokenizer,
    /// What is added to every text is not just the special tokens.
    #[error("what it adds to a text is something else than BOS before and EOS behind")]
    PostProcessor,
    /// Merges that no order of tokens by score gives.
    #[error("it does not merge `{left}` and `{right}` where scores of tokens would")]
    Merges {
        /// The left part of the first such merge.
        left: String,
        /// The right part.
        right: String,
    },
}
