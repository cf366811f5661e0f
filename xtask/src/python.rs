//! Python programs to compare with, in virtual environments of their own.

use std::fs;
use std::path::{Path, PathBuf};

use xshell::{Shell, cmd};

/// The Python of a virtual environment with what `requirements` names, made once, and again when that changes.
pub(crate) fn environment(sh: &Shell, requirements: &Path, venv: &Path) -> anyhow::Result<PathBuf> {
    let python = venv.join("bin/python");
    let done = venv.join("requirements.txt");
    let wanted = fs::read_to_string(requirements)?;
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    cmd!(sh, "python3 -m venv {venv}").run()?;
    cmd!(sh, "{python} -m pip install --disable-pip-version-check -r {requirements}").run()?;
    fs::write(done, wanted)?;
    Ok(python)
}
