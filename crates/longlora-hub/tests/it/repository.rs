//! A hub with one model, `a/b`, that behaves as Hugging Face's does: large files are on another host.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use longlora_hub::{Hub, HubError, Wanted};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::server::{Answer, Request, Server};

pub(crate) const NAME: &str = "a/b";

/// What the hub holds, and what is wrong with it today.
pub(crate) struct Repository {
    pub(crate) commit: String,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Every answer has this status, and this code.
    pub(crate) refuses: Option<(u16, &'static str)>,
    /// The next content breaks off after so many bytes.
    pub(crate) cut: Option<usize>,
    /// So many contents to come have a wrong first byte.
    pub(crate) damaged: usize,
    /// Ranges are not known here.
    pub(crate) ignores_range: bool,
    /// The path under which the model is known now.
    pub(crate) moved_to: Option<&'static str>,
}

/// The repository behind a server, with a cache to fetch it into.
pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) cache: TempDir,
    repository: Arc<Mutex<Repository>>,
}

impl Fixture {
    /// Names with `safetensors`, `bin` or `gguf` are large files.
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec()));
        let repository = Arc::new(Mutex::new(Repository {
            commit: "1".repeat(40),
            files: files.collect(),
            refuses: None,
            cut: None,
            damaged: 0,
            ignores_range: false,
            moved_to: None,
        }));
        let behind = Arc::clone(&repository);
        let server = Server::start(move |request| behind.lock().expect("no panic").answer(request));
        Self { server, cache: TempDir::new().expect("a temporary folder"), repository }
    }

    pub(crate) fn repository(&self) -> MutexGuard<'_, Repository> {
        self.repository.lock().expect("no handler panicked")
    }

    pub(crate) fn hub(&self) -> Hub {
        let hub = Hub::new(self.cache.path().to_owned());
        hub.with_endpoint(&self.server.address()).expect("an address")
    }

    pub(crate) fn fetch(&self) -> Result<PathBuf, HubError> {
        self.hub().fetch(&wanted(&[]), &mut ())
    }

    /// What is said when it fails.
    #[track_caller]
    pub(crate) fn fails(&self) -> String {
        self.fetch().expect_err("it cannot be fetched").to_string()
    }

    /// `METHOD path` of the requests since the last call, without the host.
    pub(crate) fn asked(&self) -> Vec<String> {
        let seen = self.server.seen().into_iter();
        seen.map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// A folder of the model in the cache.
    pub(crate) fn folder(&self, below: &str) -> PathBuf {
        self.cache.path().join("models--a--b").join(below)
    }
}

pub(crate) fn wanted(files: &[&str]) -> Wanted {
    let files = files.iter().map(|file| (*file).to_owned()).collect();
    Wanted { name: NAME.to_owned(), revision: "main".to_owned(), files }
}

/// Content that differs from byte to byte.
pub(crate) fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| seed.wrapping_add((i * 31 % 251) as u8)).collect()
}

/// The checksum by which the hub names a file.
pub(crate) fn sum(file: &str, content: &[u8]) -> String {
    let digest = if is_large(file) {
        Sha256::digest(content).to_vec()
    } else {
        let mut sum = Sha1::new();
        sum.update(format!("blob {}\0", content.len()));
        sum.update(content);
        sum.finalize().to_vec()
    };
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("UTF-8")
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

fn is_large(file: &str) -> bool {
    [".safetensors", ".bin", ".gguf"].iter().any(|extension| file.ends_with(extension))
}

impl Repository {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path.as_str();
        if let Some((status, code)) = self.refuses {
            return Answer::new(status, "").with("X-Error-Code", code);
        }
        if let Some(revision) = path.strip_prefix("/api/models/a/b/revision/") {
            let known = ["main", "refs%2Fpr%2F1", &self.commit].contains(&revision);
            let unknown = || Answer::new(404, "").with("X-Error-Code", "RevisionNotFound");
            return if known { Answer::new(200, self.listing()) } else { unknown() };
        }
        if let Some(file) = path.strip_prefix(&format!("/a/b/resolve/{}/", self.commit)) {
            return match self.moved_to {
                Some(name) => {
                    let there = format!("/{name}/resolve/{}/{file}", self.commit);
                    Answer::new(307, "").with("Location", there)
                }
                None => self.resolve(file, request),
            };
        }
        let moved = format!("/{}/resolve/{}/", self.moved_to.unwrap_or_default(), self.commit);
        if let Some(file) = path.strip_prefix(&moved) {
            return self.resolve(file, request);
        }
        match path.strip_prefix("/elsewhere/") {
            Some(file) => self.send(file, request),
            None => Answer::new(404, "").with("X-Error-Code", "RepoNotFound"),
        }
    }

    fn listing(&self) -> String {
        let files: Vec<_> =
            self.files.iter().map(|(name, _)| format!("{{\"rfilename\":{name:?}}}")).collect();
        format!(
            "{{\"sha\":{:?},\"siblings\":[{}],\"private\":false}}",
            self.commit,
            files.join(",")
        )
    }

    fn content(&self, file: &str) -> Option<&[u8]> {
        let there = self.files.iter().find(|(name, _)| name == file)?;
        Some(&there.1)
    }

    fn resolve(&mut self, file: &str, request: &Request) -> Answer {
        let Some(content) = self.content(file) else {
            return Answer::new(404, "").with("X-Error-Code", "EntryNotFound");
        };
        if !is_large(file) {
            return self.send(file, request);
        }
        let port =
            request.header("host").and_then(|host| host.split(':').nth(1)).unwrap_or_default();
        Answer::new(302, "moved")
            .with("X-Linked-Etag", format!("\"{}\"", sum(file, content)))
            .with("X-Linked-Size", content.len().to_string())
            .with("Etag", "\"of-the-other-host\"")
            .with("Location", format!("http://localhost:{port}/elsewhere/{file}"))
    }

    fn send(&mut self, file: &str, request: &Request) -> Answer {
        let Some(content) = self.content(file) else { return Answer::new(404, "") };
        let whole = content.to_vec();
        let etag = format!("\"{}\"", sum(file, &whole));
        if request.method == "HEAD" {
            return Answer::new(200, whole).with("Etag", etag);
        }
        let range = request.header("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let mut answer = match range {
            Some(from) if !self.ignores_range => Answer::new(206, &whole[from..])
                .with("Content-Range", format!("bytes {from}-{}/{}", whole.len() - 1, whole.len())),
            _ => Answer::new(200, whole),
        };
        if self.damaged > 0 {
            self.damaged -= 1;
            answer.body[0] ^= 1;
        }
        answer.cut = self.cut.take();
        answer.with("Etag", etag)
    }
}
