//! Where results may go.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result, ensure};

/// Results within the data would be data of the next command.
///
/// # Errors
/// If `out` lies in the folder `data`.
pub(crate) fn refuse_within(out: &Path, data: &Path) -> Result<()> {
    let whole =
        |path: &Path| real(path).with_context(|| format!("cannot find `{}`", path.display()));
    ensure!(
        !data.is_dir() || !whole(out)?.starts_with(whole(data)?),
        "`{}` would lie among the data in `{}`, and be read as text by the next command; choose another place with --out",
        out.display(),
        data.display()
    );
    Ok(())
}

/// Without links and `..`, as far as the path exists.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    let path = absolute(path)?;
    for there in path.ancestors() {
        if let Ok(real) = there.canonicalize() {
            return Ok(real.join(path.strip_prefix(there).unwrap_or(Path::new(""))));
        }
    }
    Ok(path)
}

/// A path as it can be typed into a shell, behind an option.
pub(crate) fn typed(path: &Path) -> String {
    let shown = path.display().to_string();
    let shown = if shown.starts_with('-') { format!("./{shown}") } else { shown };
    let plain = |c: char| c.is_alphanumeric() || "-_./+,:@=".contains(c);
    if shown.chars().all(plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

/// A command of this program as it can be typed: by the name that the program was called by.
pub(crate) fn command(words: &str) -> String {
    let program = std::env::args_os().next().unwrap_or_else(|| "longlora".into());
    format!("{} {words}", typed(Path::new(&program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_can_be_typed() {
        let check = |path: &str, expected| assert_eq!(typed(Path::new(path)), expected);
        check("runs/1", "runs/1");
        check("my run", "'my run'");
        check("it's", r"'it'\''s'");
        check("-x", "./-x");
    }

    #[cfg(unix)]
    #[test]
    fn links_and_dots_lead_to_no_place_among_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("books");
        std::fs::create_dir_all(data.join("old")).unwrap();
        std::os::unix::fs::symlink(data.join("old"), folder.path().join("link")).unwrap();
        refuse_within(&folder.path().join("link/run"), &data).unwrap_err();
        refuse_within(&data.join("old/run"), &data.join("old/..")).unwrap_err();
    }

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
