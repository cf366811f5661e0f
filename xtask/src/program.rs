//! Building `longlora` and becoming it.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use xshell::{Shell, cmd};

use crate::device;
use crate::workspace::Workspace;

/// Builds the program for the device that its arguments name, then hands over to it, arguments
/// unchanged.
///
/// Cargo runs in the root of the workspace, the program where the caller is: relative paths mean
/// what they say.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let program = build(&sh, &Workspace::read(&sh)?, words)?;
    hand_over(Command::new(program).args(words))
}

/// Builds the program for the device that `words` name; where it lies.
pub(crate) fn build(
    sh: &Shell,
    workspace: &Workspace,
    words: &[OsString],
) -> anyhow::Result<PathBuf> {
    let features = match device::cargo_feature(words)? {
        Some(feature) => vec!["--features".to_owned(), format!("longlora/{feature}")],
        None => vec![],
    };
    let _root = sh.push_dir(&workspace.root);
    // The whole workspace is selected, so that burn has the same features as for the tests and is built once.
    cmd!(sh, "cargo build --release --workspace --bin longlora {features...}").quiet().run()?;
    Ok(workspace.target_directory.join("release").join(format!("longlora{EXE_SUFFIX}")))
}

/// Becomes `command`: one process, so its exit code is ours and Ctrl-C reaches it alone.
#[cfg(unix)]
pub(crate) fn hand_over(command: &mut Command) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    let error = command.exec();
    Err(error).with_context(|| format!("starting `{}`", command.get_program().display()))
}

/// Runs `command` and passes its exit code on.
#[cfg(not(unix))]
pub(crate) fn hand_over(command: &mut Command) -> anyhow::Result<ExitCode> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("starting `{}`", program.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
