//! One process at a time in a folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::TrainError;

/// Keeps other processes of this program out of a folder, until it is dropped or the process ends, however it ends. It leaves
/// no file.
#[derive(Debug)]
pub struct FolderLock {
    _folder: File,
}

impl FolderLock {
    /// Locks a folder that exists. Where the file system has no locks, nothing is kept out.
    ///
    /// # Errors
    /// [`TrainError::InUse`], if another process holds it; [`TrainError::File`], if it cannot be opened.
    pub fn take(path: &Path) -> Result<Self, TrainError> {
        let folder = File::open(path).map_err(TrainError::file("open", path))?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => Err(TrainError::InUse { path: path.to_owned() }),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { _folder: folder }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_at_a_time_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let error = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        drop(lock);
        FolderLock::take(folder.path()).unwrap();
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let error = FolderLock::take(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
