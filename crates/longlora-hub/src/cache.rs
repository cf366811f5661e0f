use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo};

use crate::HubError;
use crate::checksum::Checksum;
use crate::name::ModelName;

/// The folder of a model that lies in the cache already, at the commit that `main` was when it was last fetched; `None`
/// if there is none, or if `name` is no name on the hub. Asks nobody but the disk.
pub fn cached(name: &str, cache: &Path) -> Option<PathBuf> {
    let repo = ModelName::new(name).ok()?.at("main").ok()?;
    let folder = RepoFolder::new(cache, repo);
    let commit = fs::read_to_string(folder.reference()).ok()?;
    let commit = commit.trim();
    let snapshot = is_commit(commit).then(|| folder.snapshot(commit))?;
    snapshot.is_dir().then_some(snapshot)
}

/// Git's name for a commit, and therefore safe as a part of a path.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// One model's folder in the cache:
///
/// ```text
/// models--OWNER--NAME/
///   blobs/<checksum>             contents, one per checksum; `.part` while they are on their way
///   snapshots/<commit>/<file>    links to blobs
///   refs/<branch>                the commit that a branch was
/// .locks/models--OWNER--NAME/<checksum>.lock
/// ```
pub(crate) struct RepoFolder {
    cache: PathBuf,
    repo: Repo,
    layout: CacheRepo,
}

impl RepoFolder {
    pub(crate) fn new(cache: &Path, repo: Repo) -> Self {
        let layout = Cache::new(cache.to_owned()).repo(repo.clone());
        Self { cache: cache.to_owned(), repo, layout }
    }

    pub(crate) fn blob(&self, sum: &Checksum) -> PathBuf {
        self.layout.blob_path(sum.as_str())
    }

    pub(crate) fn part(&self, sum: &Checksum) -> PathBuf {
        self.blob(sum).with_extension("part")
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout.pointer_path(commit)
    }

    fn reference(&self) -> PathBuf {
        let folder = self.cache.join(self.repo.folder_name());
        folder.join("refs").join(self.repo.revision())
    }

    /// Waits until no other process, ours or Python's, fetches this blob. `waiting` is called if it has to. The lock
    /// ends with the file.
    pub(crate) fn lock(&self, sum: &Checksum, waiting: impl FnOnce()) -> Result<File, HubError> {
        let path = self.cache.join(".locks").join(self.repo.folder_name());
        let path = path.join(format!("{}.lock", sum.as_str()));
        make_parent(&path)?;
        let open = File::options().create(true).write(true).truncate(false).open(&path);
        let file = open.map_err(HubError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(error)) => return Err(HubError::file("lock", &path)(error)),
        }
        file.lock().map_err(HubError::file("lock", &path))?;
        Ok(file)
    }

    /// Puts a blob into a snapshot under its name.
    pub(crate) fn link(
        &self,
        commit: &str,
        file: &str,
        sum: &Checksum,
    ) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(file);
        make_parent(&path)?;
        let up = "../".repeat(file.split('/').count() + 1);
        let target = format!("{up}blobs/{}", sum.as_str());
        if fs::read_link(&path).is_ok_and(|there| there == Path::new(&target)) {
            return Ok(path);
        }
        replace_with_link(&self.blob(sum), Path::new(&target), &path)
            .map_err(HubError::file("link", &path))?;
        Ok(path)
    }

    /// Notes what the branch is. A commit is its own name and needs no note.
    pub(crate) fn refer(&self, commit: &str) -> Result<(), HubError> {
        if self.repo.revision() == commit {
            return Ok(());
        }
        let path = self.reference();
        let folder = make_parent(&path)?;
        let write = || {
            let mut builder = tempfile::Builder::new();
            // Temporary files are their owner's alone; this one becomes an ordinary file, within the umask.
            #[cfg(unix)]
            builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(
                0o666,
            ));
            let mut file = builder.tempfile_in(folder)?;
            file.write_all(commit.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            // The rename itself must survive a power cut, too.
            fs::File::open(folder)?.sync_all()
        };
        write().map_err(HubError::file("write", &path))
    }
}

/// Makes the folder that a file is to lie in.
fn make_parent(path: &Path) -> Result<&Path, HubError> {
    let folder = path.parent().expect("a file of the cache lies in a folder");
    fs::create_dir_all(folder).map_err(HubError::file("make the folder", folder))?;
    Ok(folder)
}

#[cfg(unix)]
fn replace_with_link(_blob: &Path, target: &Path, path: &Path) -> std::io::Result<()> {
    let folder = path.parent().expect("a file of the cache lies in a folder");
    let temporary =
        tempfile::Builder::new().make_in(folder, |at| std::os::unix::fs::symlink(target, at))?;
    temporary.persist(path).map_err(|error| error.error)
}

/// Symbolic links are a privilege on Windows; a hard link is the same to a reader.
#[cfg(not(unix))]
fn replace_with_link(blob: &Path, _target: &Path, path: &Path) -> std::io::Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_that_is_no_commit_leads_nowhere() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--a--b");
        fs::create_dir_all(folder.join("refs")).unwrap();
        let commit = "0123456789".repeat(4);
        fs::create_dir_all(folder.join("snapshots").join(&commit)).unwrap();

        fs::write(folder.join("refs/main"), "../../..").unwrap();
        assert_eq!(cached("a/b", cache.path()), None);
        fs::write(folder.join("refs/main"), "f".repeat(40)).unwrap();
        assert_eq!(cached("a/b", cache.path()), None);
        fs::write(folder.join("refs/main"), &commit).unwrap();
        assert_eq!(cached("a/b", cache.path()), Some(folder.join("snapshots").join(&commit)));
        assert_eq!(cached("a/c", cache.path()), None);
        assert_eq!(cached("../b", cache.path()), None);
    }
}
