//! What can be wrong with a request to measure.

use std::io;
use std::path::PathBuf;

use longlora_attention::PatternError;
use longlora_data::DataError;

/// Why a model cannot be measured, or two measurements not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A window in which nothing can be predicted.
    #[error("windows of `{length}` tokens predict nothing; use a length of at least 2")]
    ShortLength {
        /// Tokens per window.
        length: usize,
    },
    /// Windows that never advance.
    #[error("a stride of `0` tokens never advances; use at least 1")]
    ZeroStride,
    /// Tokens that no window could score.
    #[error(
        "a stride of `{stride}` tokens leaves tokens unscored between windows of `{length}`; use at most `{}`",
        length - 1
    )]
    LongStride {
        /// Tokens between the starts of two windows.
        stride: usize,
        /// Tokens per window.
        length: usize,
    },
    /// A limit that allows no window.
    #[error("`max_tokens` `{max_tokens}` is less than one window of `{length}` tokens; raise it")]
    FewTokens {
        /// The limit.
        max_tokens: usize,
        /// Tokens per window.
        length: usize,
    },
    /// The attention pattern does not suit the length.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// No document is as long as the context to be measured.
    #[error(
        "no document fills a window of `{length}` tokens, the longest has `{longest}`; \
         give longer documents, or measure a shorter length"
    )]
    ShortDocuments {
        /// Tokens of the longest document, after `max_tokens` was applied.
        longest: usize,
        /// Tokens per window.
        length: usize,
    },
    /// A token that the model does not know.
    #[error(
        "document `{document}` has token `{token}`, but the model's vocabulary ends before `{vocab_size}`; \
         use the tokenizer that belongs to the model"
    )]
    UnknownToken {
        /// Index of the document.
        document: usize,
        /// The token's id.
        token: u32,
        /// Entries of the model's vocabulary.
        vocab_size: usize,
    },
    /// The model computed no number.
    #[error(
        "the negative log-likelihood of tokens `{start}..{end}` of document `{document}` is `{nll}`; \
         check the model's weights and its RoPE scaling"
    )]
    NotFinite {
        /// Index of the document.
        document: usize,
        /// Where the window begins in it, in tokens.
        start: usize,
        /// Where the window ends in it, in tokens.
        end: usize,
        /// What came out.
        nll: f32,
    },
    /// Measurements that cannot be paired.
    #[error(
        "the measurements are not of the same windows (`{a}` and `{b}`); \
         measure both on the same tokens with the same length and protocol"
    )]
    OtherWindows {
        /// SHA-256 of the windows of the first.
        a: String,
        /// SHA-256 of the windows of the second.
        b: String,
    },
    /// Lengths whose windows do not read the same stretches of text.
    #[error(
        "windows of `{short}` tokens do not fill those of `{long}`; measure both side by side on the same documents, at \
         lengths of which one is a multiple of the other"
    )]
    NotNested {
        /// Tokens of the windows that should lie in the others.
        short: usize,
        /// Tokens of those.
        long: usize,
    },
    /// A question cannot be turned into tokens, or an answer into text.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A question that the model cannot read as a whole.
    #[error(
        "question `{id}` of {task} has `{tokens}` tokens with its answer, and the model reaches `{room}`; \
         ask for shorter lengths, or stretch the model by a RoPE scaling"
    )]
    LongQuestion {
        /// The task.
        task: String,
        /// The question.
        id: String,
        /// Tokens of question and answer.
        tokens: usize,
        /// Tokens that the model reaches.
        room: usize,
    },
    /// A chat template that does not say what a user says.
    #[error(
        "the chat template makes `{rendered}` bytes of a question that has `{text}`; it leaves out what the user says: use \
         another, or ask without a chat"
    )]
    SilentTemplate {
        /// Bytes of the question.
        text: usize,
        /// Bytes of the conversation.
        rendered: usize,
    },
    /// A model whose scores are no numbers.
    #[error(
        "{model} computes NaN or infinity at question `{id}` of {task}; is there a damaged weight, or a number in its \
         config.json or adapter that makes no sense?"
    )]
    NotANumber {
        /// What results files call the model.
        model: String,
        /// The task.
        task: String,
        /// The question.
        id: String,
    },
    /// A token that the model does not know.
    #[error(
        "question `{id}` of {task} has token `{token}`, but the model's vocabulary ends before `{vocab_size}`; \
         use the tokenizer that belongs to the model"
    )]
    UnknownTokenInQuestion {
        /// The task.
        task: String,
        /// The question.
        id: String,
        /// The token's id.
        token: u32,
        /// Entries of the model's vocabulary.
        vocab_size: usize,
    },
    /// A file of answers cannot be read or written.
    #[error("`{path}` cannot be read or written; check its folder, or name another file")]
    ResultsFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of answers that is something else.
    #[error("`{path}` line `{line}` is no answer ({problem}); name another file")]
    BadResults {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        problem: String,
    },
    /// A context in which there is no room for the question.
    #[error("`{length}` tokens have no room for a question of {task}; ask for longer ones")]
    ShortContext {
        /// The task.
        task: String,
        /// The context length.
        length: usize,
    },
    /// Documents that do not fill the context.
    #[error(
        "with all of the documents a question of {task} has `{tokens}` tokens, not `{length}`; \
         give longer documents, or ask for shorter lengths"
    )]
    ShortHaystack {
        /// The task.
        task: String,
        /// Tokens of the question with everything that there is.
        tokens: usize,
        /// The context length.
        length: usize,
    },
    /// A depth outside the text.
    #[error("a depth of `{depth}` is nowhere in a text; use numbers from 0 to 1")]
    BadDepth {
        /// The depth.
        depth: f64,
    },
    /// A task that hides needles in texts, and no text.
    #[error("{task} hides its needles in texts, and these have no words; give others")]
    NoEssays {
        /// The task.
        task: String,
    },
    /// A task that takes its questions from a file, and no question.
    #[error(
        "{task} takes its questions and documents from a file, and there are none; \
         give one (SQuAD, HotpotQA or JSONL), or leave {task} out"
    )]
    NoQaItems {
        /// The task.
        task: String,
    },
    /// A file of questions that cannot be read.
    #[error("`{path}` cannot be read; check the path, or name another file")]
    QaFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file of questions that is something else.
    #[error(
        "`{path}` line `{line}` is no question; give SQuAD's or HotpotQA's JSON, \
         or lines with `question`, `answers` and `context`"
    )]
    BadQaFile {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A file of questions, none of which can be judged.
    #[error("`{path}` has no question with an answer; name another file")]
    EmptyQaFile {
        /// The file.
        path: PathBuf,
    },
    /// A dataset that is not there.
    #[error("`{path}` does not exist; check the path")]
    NoDataset {
        /// The path.
        path: PathBuf,
    },
    /// A folder that is not NarrativeQA's.
    #[error(
        "`{path}` is not NarrativeQA's folder: it has no `qaps.csv`; give that folder, or a file of LongBench or QASPER"
    )]
    NotNarrativeQa {
        /// The folder.
        path: PathBuf,
    },
    /// A file of a dataset cannot be read.
    #[error("`{path}` cannot be read; check its permissions and that it is in UTF-8")]
    DatasetFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that is not as its dataset's are.
    #[error(
        "`{path}` line `{line}` is not of {dataset} ({problem}); use the dataset's public files as they are"
    )]
    BadDataset {
        /// The dataset.
        dataset: &'static str,
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A task that LongBench does not have.
    #[error(
        "`{path}` line `{line}` is of `{task}`, which is no task of LongBench; use the public files of its first \
         version"
    )]
    UnknownLongBenchTask {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the file calls it.
        task: String,
    },
    /// A story of NarrativeQA that was not fetched.
    #[error(
        "the story `{path}` is missing or empty; run NarrativeQA's download_stories.sh, \
         or leave the story's questions out of `qaps.csv`"
    )]
    NoStory {
        /// Where it should be.
        path: PathBuf,
    },
    /// A set of NarrativeQA without questions.
    #[error("`{path}` has no questions of the set `{set}`; ask for `train`, `valid` or `test`")]
    EmptySet {
        /// The file of questions.
        path: PathBuf,
        /// The set.
        set: String,
    },
}
