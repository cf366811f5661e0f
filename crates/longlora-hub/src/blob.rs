use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::cache::RepoFolder;
use crate::checksum::Summing;
use crate::remote::{Facts, Remote};
use crate::{HubError, Progress};

/// Bytes between two calls of the progress, at most.
const PIECE: usize = 128 << 10;

/// One file of a commit on its way into `blobs`.
pub(crate) struct Blob<'a> {
    pub(crate) remote: &'a Remote<'a>,
    pub(crate) folder: &'a RepoFolder,
    pub(crate) commit: &'a str,
    pub(crate) file: &'a str,
    pub(crate) facts: Facts,
}

/// A file on its way: how far it is, and the checksum so far.
struct Part {
    file: File,
    summing: Summing,
    done: u64,
}

impl Part {
    fn empty(&mut self, facts: &Facts) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.summing = facts.sum.summing(facts.size);
        self.done = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.count(bytes);
        Ok(())
    }

    fn count(&mut self, bytes: &[u8]) {
        self.summing.update(bytes);
        self.done += bytes.len() as u64;
    }
}

/// What a part file has come to.
enum Arrived {
    Whole,
    /// With another checksum, or another size.
    Damaged(String),
}

impl Blob<'_> {
    /// Fetches what is missing. Content with a wrong checksum is thrown away and fetched once more from the start: the
    /// first part may have been spoilt on this disk long ago.
    pub(crate) fn bring(&self, progress: &mut dyn Progress) -> Result<(), HubError> {
        if self.is_there(progress) {
            return Ok(());
        }
        let _lock = self.folder.lock(&self.facts.sum, || progress.waiting(self.file))?;
        if self.is_there(progress) {
            return Ok(()); // another process has just fetched it
        }
        let part = self.folder.part(&self.facts.sum);
        let mut found = String::new();
        for _ in 0..2 {
            match self.receive(&part, progress)? {
                Arrived::Whole => return self.keep(&part),
                Arrived::Damaged(sum) => found = sum,
            }
            fs::remove_file(&part).map_err(HubError::file("remove", &part))?;
        }
        let expected = self.facts.sum.to_string();
        Err(HubError::Damaged { file: self.file.to_owned(), expected, found })
    }

    /// A blob was checked before it got its name; its size is looked at again, for disks forget.
    fn is_there(&self, progress: &mut dyn Progress) -> bool {
        let size = self.facts.size;
        let blob = fs::metadata(self.folder.blob(&self.facts.sum));
        let there = blob.is_ok_and(|blob| blob.is_file() && blob.len() == size);
        if there {
            progress.at(self.file, size, size);
        }
        there
    }

    /// Completes the part file and compares the sum.
    fn receive(&self, path: &Path, progress: &mut dyn Progress) -> Result<Arrived, HubError> {
        let size = self.facts.size;
        let mut part = self.open(path).map_err(|error| self.disk("open", path, error))?;
        progress.at(self.file, part.done, size);
        if part.done < size {
            let (mut content, start) = self.remote.content(self.commit, self.file, part.done)?;
            if start != part.done {
                part.empty(&self.facts).map_err(|error| self.disk("write", path, error))?;
            }
            let mut piece = vec![0; PIECE];
            while let Some(read) = self.next(&mut content, &mut piece, part.done)? {
                if part.done + read as u64 > size {
                    return Ok(Arrived::Damaged(format!("more than `{size}` bytes")));
                }
                part.append(&piece[..read]).map_err(|error| self.disk("write", path, error))?;
                progress.at(self.file, part.done, size);
            }
        }
        let found = part.summing.finish();
        if found != self.facts.sum {
            return Ok(Arrived::Damaged(found.to_string()));
        }
        part.file.sync_all().map_err(|error| self.disk("write", path, error))?;
        Ok(Arrived::Whole)
    }

    /// What is there already, summed. A part file has the checksum in its name, so it is never another file's half; one
    /// that is too long has a wrong sum, and is treated so.
    fn open(&self, path: &Path) -> io::Result<Part> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(path)?;
        let mut part = Part { file, summing: self.facts.sum.summing(self.facts.size), done: 0 };
        let mut piece = vec![0; PIECE];
        loop {
            match part.file.read(&mut piece)? {
                0 => return Ok(part),
                read => part.count(&piece[..read]),
            }
        }
    }

    /// The next piece from the network; `None` when the file is whole.
    fn next(
        &self,
        content: &mut dyn Read,
        piece: &mut [u8],
        done: u64,
    ) -> Result<Option<usize>, HubError> {
        let size = self.facts.size;
        let reason = match content.read(piece) {
            Ok(0) if done == size => return Ok(None),
            Ok(0) => "the other side closed it".to_owned(),
            Ok(read) => return Ok(Some(read)),
            Err(_) if done == size => return Ok(None),
            Err(error) => error.to_string(),
        };
        Err(HubError::Interrupted { file: self.file.to_owned(), done, size, reason })
    }

    fn keep(&self, part: &Path) -> Result<(), HubError> {
        let blob = self.folder.blob(&self.facts.sum);
        fs::rename(part, &blob).map_err(|error| self.disk("write", &blob, error))?;
        let folder = blob.parent().unwrap_or(&blob);
        sync_folder(folder).map_err(|error| self.disk("write", folder, error))
    }

    fn disk(&self, action: &'static str, path: &Path, error: io::Error) -> HubError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HubError::DiskFull {
                file: self.file.to_owned(),
                size: self.facts.size,
                folder: path.parent().unwrap_or(path).to_owned(),
            },
            _ => HubError::file(action, path)(error),
        }
    }
}

/// The rename itself must survive a power cut, too.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::checksum::Checksum;

    #[test]
    fn a_full_disk_is_told_with_the_size_and_the_folder() {
        let repo = hf_hub::Repo::model("a/b".to_owned());
        let folder = RepoFolder::new(Path::new("cache"), repo.clone());
        let agent = ureq::Agent::new_with_defaults();
        let remote = Remote { agent: &agent, endpoint: "http://absent", token: None, repo };
        let sum = Checksum::from_etag(&"a".repeat(40)).unwrap();
        let facts = Facts { sum, size: 7 };
        let blob = Blob { remote: &remote, folder: &folder, commit: "1", file: "x.bin", facts };
        let path = PathBuf::from("cache/blobs/aa.part");

        let full = blob.disk("write", &path, io::ErrorKind::StorageFull.into()).to_string();
        assert!(
            full.contains("the disk is full: `x.bin` needs `7` bytes below `cache/blobs`"),
            "{full}"
        );
        let denied = blob.disk("write", &path, io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(denied.contains("cannot write `cache/blobs/aa.part`"), "{denied}");
    }
}
