//! Building `longlora` and becoming it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Context;
use xshell::Shell;

use crate::build::Build;
use crate::device::Device;
use crate::workspace::Workspace;

/// Builds the program for the device that its arguments name, then hands over to it, arguments
/// unchanged.
///
/// Cargo runs in the root of the workspace, the program where the caller is: relative paths mean
/// what they say.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    let program =
        Build::new(&sh, &workspace, Device::named_in(words)?)?.program(&sh, &workspace)?;
    hand_over(Command::new(program).args(words))
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
