use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::object::{Placed, is_list_of_objects, parse_lines, parse_objects};
use crate::token_file::parse_tokens;
use crate::{DataError, EncodingProblem, Instruction, Message, Place, Position, Tokenizer};

/// One text that belongs together: a book, a chat, a line of a JSONL file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file it comes from.
    pub source: PathBuf,
    /// Where in it, if it is one of several.
    pub position: Option<Position>,
    /// What it says.
    pub content: Content,
}

/// What a document says, before or after a tokenizer saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text as it was written.
    Text(String),
    /// Token ids, used as they are: no special token is added.
    Tokens(Vec<u32>),
    /// What was said in turn, with an answer of the assistant and a question before it.
    Conversation(Vec<Message>),
    /// A task and its answer.
    Instruction(Instruction),
}

/// All documents of a run, in the order of their paths.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The documents that are not empty.
    pub documents: Vec<Document>,
    /// The files they come from, for the run's manifest.
    pub files: Vec<SourceFile>,
}

/// What identifies a file that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFile {
    /// Where it was.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

impl Corpus {
    /// Reads one file, or every readable file below a folder.
    ///
    /// | extension | documents |
    /// | --- | --- |
    /// | `.txt`, `.md` | one |
    /// | `.jsonl` | one per line, an object as below; blank lines are skipped |
    /// | `.jsonl.gz` | the same, compressed, as proof-pile comes |
    /// | `.json` | one per object of a list; or token ids: one in `[..]` or `{"ids": [..]}`, several in `[[..], ..]` |
    /// | `.bin` | token ids: one, of 2 bytes each, as LongLoRA's files; of 4 bytes in `.uint32.bin` |
    ///
    /// | field of an object | document |
    /// | --- | --- |
    /// | `text` | a text |
    /// | `messages` | a conversation: `[{"role": "user", "content": ".."}, ..]` |
    /// | `conversations` | the same as ShareGPT has it: `[{"from": "human", "value": ".."}, ..]` |
    /// | `instruction`, `output` and maybe `input` | a task and its answer, as Alpaca and LongAlpaca have them |
    ///
    /// An object has one of these, whatever the others in its file have; fields of other names are ignored.
    ///
    /// Other files in a folder are ignored, empty documents are skipped. Symbolic links are
    /// followed, and what can be reached twice is read once.
    ///
    /// # Errors
    /// A path that does not exist, a folder with nothing to read, a file of another format or
    /// encoding, and a corpus without any text.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let mut corpus = Self { documents: Vec::new(), files: Vec::new() };
        for (path, format) in readable_files(path)? {
            let bytes =
                fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
            corpus.files.push(SourceFile::of(&path, &bytes));
            let contents = format.parse(&path, bytes)?;
            let documents = contents.into_iter().filter(|(_, content)| !content.is_blank());
            corpus.documents.extend(documents.map(|(position, content)| Document {
                source: path.clone(),
                position,
                content,
            }));
        }
        if corpus.documents.is_empty() {
            return Err(DataError::NoText { path: path.into() });
        }
        Ok(corpus)
    }

    /// Whether anything is written in words, so that it takes a tokenizer.
    pub fn has_text(&self) -> bool {
        self.documents.iter().any(|document| !matches!(document.content, Content::Tokens(_)))
    }

    /// Whether any document is a conversation or an instruction, of which the answers alone are learned.
    pub fn has_conversations(&self) -> bool {
        self.documents.iter().any(|document| document.content.is_conversation())
    }

    /// The token ids of every document, in order; `tokenizer` may be absent if there is no text. Conversations have no
    /// meaning as token ids alone: [`encode`](Self::encode) is for them.
    ///
    /// # Errors
    /// Text without a tokenizer, what the tokenizer refuses, and conversations.
    pub fn tokenize(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<Vec<u32>>, DataError> {
        self.documents.par_iter().map(|document| document.tokenize(tokenizer)).collect()
    }
}

impl Document {
    pub(crate) fn place(&self) -> Place {
        Place { path: self.source.clone(), position: self.position }
    }

    pub(crate) fn tokenize(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, DataError> {
        match (&self.content, tokenizer) {
            (Content::Tokens(ids), _) => Ok(ids.clone()),
            (Content::Conversation(_) | Content::Instruction(_), _) => {
                let problem = EncodingProblem::ConversationAsText;
                Err(DataError::NotEncoded { place: self.place(), problem })
            }
            (Content::Text(_), None) => {
                Err(DataError::TokenizerNeeded { path: self.source.clone() })
            }
            (Content::Text(text), Some(tokenizer)) => tokenizer.encode(text).map_err(|error| {
                DataError::Tokenize { path: self.source.clone(), source: Box::new(error) }
            }),
        }
    }
}

impl Content {
    /// Whether it is one of which the answers alone are learned.
    pub fn is_conversation(&self) -> bool {
        matches!(self, Self::Conversation(_) | Self::Instruction(_))
    }

    fn is_blank(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::Tokens(ids) => ids.is_empty(),
            // They were looked at as they were read.
            Self::Conversation(_) | Self::Instruction(_) => false,
        }
    }
}

impl SourceFile {
    /// Reads a file piece by piece, whatever its size.
    ///
    /// # Errors
    /// [`DataError::Read`]
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE]);
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&piece[..count]);
                    bytes += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Self { path: path.into(), bytes, sha256: hexadecimal(&hash.finalize()) })
    }

    fn of(path: &Path, content: &[u8]) -> Self {
        let (bytes, digest) = (content.len() as u64, Sha256::digest(content));
        Self { path: path.into(), bytes, sha256: hexadecimal(&digest) }
    }
}

/// Bytes that are hashed at a time.
const PIECE: usize = 1 << 20;

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone, Copy)]
enum Format {
    Text,
    JsonLines,
    CompressedJsonLines,
    Json,
    TokenFile,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        if name.ends_with(".jsonl.gz") {
            return Some(Self::CompressedJsonLines);
        }
        match Path::new(&name).extension()?.to_str()? {
            "txt" | "md" => Some(Self::Text),
            "jsonl" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            "bin" => Some(Self::TokenFile),
            _ => None,
        }
    }

    fn parse(self, path: &Path, bytes: Vec<u8>) -> Result<Vec<Placed>, DataError> {
        match self {
            Self::Text => Ok(vec![(None, Content::Text(utf8(path, bytes)?))]),
            Self::JsonLines => parse_lines(path, &utf8(path, bytes)?),
            Self::CompressedJsonLines => parse_lines(path, &utf8(path, decompress(path, &bytes)?)?),
            Self::Json => parse_json(path, &utf8(path, bytes)?),
            Self::TokenFile => Ok(vec![(None, Content::Tokens(parse_tokens(path, &bytes)?))]),
        }
    }
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, DataError> {
    let mut text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        path: path.into(),
        offset: error.utf8_error().valid_up_to(),
    })?;
    // Windows editors begin a file with a byte order mark; it is no part of the text.
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

fn decompress(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, DataError> {
    let mut text = Vec::new();
    let read = MultiGzDecoder::new(bytes).read_to_end(&mut text);
    read.map_err(|source| DataError::BadGzip { path: path.into(), source })?;
    Ok(text)
}

fn parse_json(path: &Path, text: &str) -> Result<Vec<Placed>, DataError> {
    if is_list_of_objects(text) {
        return parse_objects(path, text);
    }
    let documents = parse_token_ids(text)
        .map_err(|source| DataError::BadTokenIds { path: path.into(), source })?;
    Ok(documents.into_iter().map(|ids| (None, Content::Tokens(ids))).collect())
}

/// The shape is read off the first two brackets, so that the parser can say what is wrong inside.
fn parse_token_ids(text: &str) -> Result<Vec<Vec<u32>>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Ids {
        ids: Vec<u32>,
    }
    let mut brackets = text.chars().filter(|c| !c.is_whitespace());
    match (brackets.next(), brackets.next()) {
        (Some('{'), _) => Ok(vec![serde_json::from_str::<Ids>(text)?.ids]),
        (Some('['), Some('[')) => serde_json::from_str(text),
        _ => Ok(vec![serde_json::from_str(text)?]),
    }
}

fn readable_files(path: &Path) -> Result<Vec<(PathBuf, Format)>, DataError> {
    let metadata = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing { path: path.into() },
        _ => DataError::Read { path: path.into(), source },
    })?;
    if !metadata.is_dir() {
        let format =
            Format::of(path).ok_or_else(|| DataError::UnknownFormat { path: path.into() })?;
        return Ok(vec![(path.into(), format)]);
    }
    let mut files = Vec::new();
    collect(path, &mut HashSet::new(), &mut files)?;
    if files.is_empty() {
        return Err(DataError::NothingReadable { path: path.into() });
    }
    Ok(files)
}

/// Walks in path order. `seen` holds real paths: a loop of links ends where it began, and of two
/// names for one file the first counts, on every machine the same.
fn collect(
    folder: &Path,
    seen: &mut HashSet<PathBuf>,
    files: &mut Vec<(PathBuf, Format)>,
) -> Result<(), DataError> {
    let at = |path: &Path, source| DataError::Read { path: path.into(), source };
    if !seen.insert(fs::canonicalize(folder).map_err(|error| at(folder, error))?) {
        return Ok(());
    }
    let entries: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut entries = entries.map_err(|error| at(folder, error))?;
    entries.sort();
    for path in entries {
        if path.file_name().is_some_and(|name| name.to_str().is_none()) {
            return Err(DataError::NameNotUtf8 { path });
        }
        if path.is_dir() {
            collect(&path, seen, files)?;
        } else if let Some(format) = Format::of(&path)
            && seen.insert(fs::canonicalize(&path).map_err(|error| at(&path, error))?)
        {
            files.push((path, format));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn contents(corpus: &Corpus) -> Vec<Content> {
        corpus.documents.iter().map(|document| document.content.clone()).collect()
    }

    fn text(text: &str) -> Content {
        Content::Text(text.into())
    }

    #[track_caller]
    fn check_error(name: &str, content: &[u8], expected: &[&str]) {
        let folder = folder(&[(name, content)]);
        let error = Corpus::read(&folder.path().join(name)).unwrap_err().to_string();
        for part in [name].iter().chain(expected) {
            assert!(error.contains(part), "`{error}` does not say `{part}`");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let folder = folder(&[("a.txt", b"a")]);
        let name = std::ffi::OsStr::from_bytes(b"b\xff");
        if fs::create_dir(folder.path().join(name)).is_err() {
            return; // a file system that has no such names
        }
        let error = Corpus::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not UTF-8") && error.contains("rename"), "{error}");
    }

    #[test]
    fn a_folder_is_read_in_path_order_and_other_files_are_ignored() {
        let folder = folder(&[
            ("b.txt", b"b"),
            ("a/z.md", b"z"),
            ("a/y.JSONL", b"{\"text\": \"y1\", \"id\": 7}\n\n{\"text\": \"y2\"}\n"),
            ("c.json", b"[[1, 2], [3]]"),
            ("d.json", b"[{\"text\": \"d\"}]"),
            ("picture.png", b"\xff"),
            ("README", b"no extension"),
        ]);
        let corpus = Corpus::read(folder.path()).unwrap();

        let expected = [text("y1"), text("y2"), text("z"), text("b")];
        let ids = [Content::Tokens(vec![1, 2]), Content::Tokens(vec![3])];
        let objects = [text("d")];
        assert_eq!(contents(&corpus), [&expected[..], &ids[..], &objects[..]].concat());
        let names: Vec<_> = corpus
            .files
            .iter()
            .map(|file| file.path.strip_prefix(folder.path()).unwrap())
            .collect();
        assert_eq!(names, ["a/y.JSONL", "a/z.md", "b.txt", "c.json", "d.json"].map(Path::new));
    }

    #[test]
    fn files_are_identified_by_size_and_hash() {
        let folder = folder(&[("a.txt", b"abc")]);
        let path = folder.path().join("a.txt");
        let corpus = Corpus::read(&path).unwrap();

        // FIPS 180-2, appendix B.1.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into();
        assert_eq!(corpus.files, [SourceFile { path: path.clone(), bytes: 3, sha256 }]);
        assert_eq!(corpus.files, [SourceFile::read(&path).unwrap()]);
        let content = text("abc");
        assert_eq!(corpus.documents, [Document { source: path, position: None, content }]);
    }

    #[test]
    fn token_ids_come_in_three_shapes() {
        let check = |json: &str, expected: &[&[u32]]| {
            assert_eq!(parse_token_ids(json).unwrap(), expected, "{json}");
        };
        check(r#"{"note": "BOS is 1", "ids": [1, 2]}"#, &[&[1, 2]]);
        check(" [1, 2]", &[&[1, 2]]);
        check("[\n [1], [2, 3]]", &[&[1], &[2, 3]]);
        check("[]", &[&[]]);
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let folder = folder(&[("a.txt", "\u{feff}a".as_bytes())]);
        assert_eq!(contents(&Corpus::read(folder.path()).unwrap()), [text("a")]);
    }

    #[test]
    fn blank_documents_are_skipped_but_not_all_of_them() {
        let folder = folder(&[("a.txt", b" \n"), ("b.txt", b"b"), ("c.json", b"[]")]);
        let corpus = Corpus::read(folder.path()).unwrap();
        assert_eq!(contents(&corpus), [text("b")]);
        assert_eq!(corpus.files.len(), 3);

        check_error("blank.txt", b" \n\t", &["no text"]);
    }

    #[test]
    fn errors_name_the_file_and_the_place() {
        check_error("latin1.txt", b"caf\xe9", &["byte `3`", "UTF-8"]);
        check_error(
            "lines.jsonl",
            b"{\"text\": \"a\"}\n\n{\"txt\": \"b\"}",
            &["line `3`", "`text`"],
        );
        check_error("config.json", b"{\"hidden_size\": 64}", &["token ids", "\"ids\""]);
        check_error("list.json", b"[{\"txt\": \"a\"}]", &["object `1`", "`text`"]);
        check_error("negative.json", b"[1, -2]", &["token ids"]);
        check_error("book.pdf", b"%PDF", &[".txt, .md, .jsonl, .jsonl.gz, .json or .bin"]);

        let empty = folder(&[("a.pdf", b"%PDF")]);
        let error = Corpus::read(empty.path()).unwrap_err().to_string();
        assert!(error.contains(".txt, .md, .jsonl, .jsonl.gz, .json or .bin"), "{error}");
        let absent = empty.path().join("absent");
        assert!(
            matches!(Corpus::read(&absent), Err(DataError::Missing { path }) if path == absent)
        );
    }

    #[test]
    #[cfg(unix)]
    fn a_loop_of_links_ends_and_nothing_is_read_twice() {
        use std::os::unix::fs::symlink;
        let folder = folder(&[("books/a.txt", b"a")]);
        symlink(folder.path(), folder.path().join("books/up")).unwrap();
        symlink("a.txt", folder.path().join("books/b.txt")).unwrap();
        symlink("books", folder.path().join("again")).unwrap();

        let corpus = Corpus::read(folder.path()).unwrap();

        assert_eq!(corpus.files.len(), 1);
    }

    #[test]
    fn ids_need_no_tokenizer_and_text_does() {
        let folder = folder(&[("a.json", b"[3, 1, 4]"), ("b.txt", b"b")]);
        let ids = Corpus::read(&folder.path().join("a.json")).unwrap();
        assert_eq!(ids.tokenize(None).unwrap(), [[3, 1, 4]]);

        let error = Corpus::read(folder.path()).unwrap().tokenize(None).unwrap_err().to_string();
        assert!(error.contains("b.txt"), "{error}");
    }
}
