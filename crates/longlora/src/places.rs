//! Where results may go.

use std::path::{Path, absolute};

use anyhow::{Context, Result, ensure};

/// Results within the data would be data of the next command.
///
/// # Errors
/// If `out` lies in the folder `data`.
pub(crate) fn refuse_within(out: &Path, data: &Path) -> Result<()> {
    let whole =
        |path: &Path| absolute(path).with_context(|| format!("cannot find `{}`", path.display()));
    ensure!(
        !data.is_dir() || !whole(out)?.starts_with(whole(data)?),
        "`{}` would lie among the data in `{}`, and be read as text by the next command; choose another place with --out",
        out.display(),
        data.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_among_the_data_is_refused_and_one_beside_them_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("books");
        std::fs::create_dir(&data).unwrap();
        refuse_within(&folder.path().join("books-run"), &data).unwrap();
        refuse_within(&folder.path().join("run"), &folder.path().join("book.txt")).unwrap();
        for inside in [data.join("runs/1"), data.clone()] {
            let error = refuse_within(&inside, &data).unwrap_err().to_string();
            assert!(error.contains("books") && error.contains("--out"), "{error}");
        }
    }
}
