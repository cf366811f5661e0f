use std::io;
use std::path::{Path, PathBuf};

/// Why a model cannot be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// What was given is no name on the hub.
    #[error("`{name}` is no name on the hub; give OWNER/NAME, such as HuggingFaceTB/SmolLM2-135M")]
    Name {
        /// What was given.
        name: String,
    },
    /// What was given is no branch, tag or commit.
    #[error("`{revision}` is no revision; give a branch, a tag or a commit, such as main")]
    Revision {
        /// What was given.
        revision: String,
    },
    /// The address of the hub is none.
    #[error("`{endpoint}` is no address of a hub; it has to begin with https:// or http://")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The user forbade the network.
    #[error("HF_HUB_OFFLINE is set, so `{name}` is not fetched; unset it to use the network")]
    Offline {
        /// The model.
        name: String,
    },
    /// There is no place for the cache.
    #[error("there is no home folder for the cache; set HF_HUB_CACHE, or name a folder")]
    NoCache,
    /// No answer at all.
    #[error(
        "`{endpoint}` cannot be reached ({reason}); check the network, or name a mirror in HF_ENDPOINT"
    )]
    Unreachable {
        /// Address of the hub, or of the host that it pointed to.
        endpoint: String,
        /// What the network said.
        reason: String,
    },
    /// The hub wants to know who asks.
    #[error("{}", closed(name, page, *status, *token))]
    Closed {
        /// The model.
        name: String,
        /// Its page, where a licence can be accepted.
        page: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// The hub has no such model.
    #[error("there is no model `{name}` on `{endpoint}`; check its spelling")]
    NoModel {
        /// The model.
        name: String,
        /// Address of the hub.
        endpoint: String,
    },
    /// The model has no such branch, tag or commit.
    #[error("`{name}` has no revision `{revision}`; its branches are on its page under Files")]
    NoRevision {
        /// The model.
        name: String,
        /// What was asked for.
        revision: String,
    },
    /// The model has no such file.
    #[error("`{name}` at `{revision}` has no file `{file}`; it has {}", listed(files))]
    NoFile {
        /// The model.
        name: String,
        /// Branch, tag or commit.
        revision: String,
        /// What was asked for.
        file: String,
        /// What there is.
        files: Vec<String>,
    },
    /// The model has no weights that a whole model could be read from.
    #[error(
        "`{name}` has neither model.safetensors nor pytorch_model.bin; it has {}; name what you want of it",
        listed(files)
    )]
    NoWeights {
        /// The model.
        name: String,
        /// What there is.
        files: Vec<String>,
    },
    /// The hub failed, or has had enough of us.
    #[error("`{url}` answers with status `{status}`; try again later")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that is not the hub's.
    #[error("`{url}` does not answer as the hub would: {reason}; is the endpoint right?")]
    Answer {
        /// What was asked.
        url: String,
        /// What is odd.
        reason: String,
    },
    /// The index of a sharded model names no shards.
    #[error("`{path}` is no index of shards: {reason}")]
    Index {
        /// The index in the cache.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The connection broke; what came is kept.
    #[error(
        "the connection broke at byte `{done}` of `{size}` of `{file}` ({reason}); another try goes on from there"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// Bytes on disk.
        done: u64,
        /// Bytes of the whole.
        size: u64,
        /// What the network said.
        reason: String,
    },
    /// The content is not what the hub lists, twice.
    #[error(
        "`{file}` arrived damaged, twice: the hub lists {expected}, what came has {found}; nothing was kept"
    )]
    Damaged {
        /// The file.
        file: String,
        /// The hub's checksum, with its kind.
        expected: String,
        /// The checksum, or the size, of what came.
        found: String,
    },
    /// There is no room left.
    #[error(
        "the disk is full: `{file}` needs `{size}` bytes below `{folder}`; make room, and another try goes on, or \
         choose another folder for the cache"
    )]
    DiskFull {
        /// The file.
        file: String,
        /// Bytes of the whole.
        size: u64,
        /// Where blobs are kept.
        folder: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl HubError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}

/// The hub answers 401 for a model that does not exist, too, unless it knows who asks.
fn closed(name: &str, page: &str, status: u16, token: bool) -> String {
    if token {
        format!(
            "the hub does not let your token read `{name}` ({status}); accept the licence on {page}, and check that the \
             token may read it"
        )
    } else {
        format!(
            "the hub does not show `{name}` without a token ({status}): if the name is right, accept the licence on \
             {page} and set HF_TOKEN"
        )
    }
}

/// A few names, for an error message.
fn listed(files: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<_> = files.iter().take(SHOWN).map(|file| format!("`{file}`")).collect();
    match files.len() {
        0 => shown.push("none".to_owned()),
        all if all > SHOWN => shown.push(format!("and {} more", all - SHOWN)),
        _ => {}
    }
    shown.join(", ")
}
