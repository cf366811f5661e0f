use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::DataError;

/// Writes a whole file or leaves what was there: a temporary file beside it, then a rename.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), DataError> {
    replace(path, content).map_err(|source| DataError::Write { path: path.into(), source })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."), // a bare file name
    };
    let mut builder = tempfile::Builder::new();
    // Temporary files are their owner's alone; this one becomes an ordinary file, within the umask.
    #[cfg(unix)]
    builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The rename itself must survive a power cut, too.
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");

        write(&path, b"old").unwrap();
        write(&path, b"new").unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("absent").join("a.json");

        let error = write(&path, b"").unwrap_err().to_string();

        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
