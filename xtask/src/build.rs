//! How cargo is called for a device.

use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use xshell::{Cmd, Shell, cmd};

use crate::device::Device;
use crate::without_llvm;
use crate::workspace::Workspace;

/// The feature, the target directory and the environment of what is built for a device.
///
/// Each feature has a directory of its own, so that another device does not build burn anew. The processor's is cargo's
/// own.
pub(crate) struct Build {
    feature: Option<&'static str>,
    target_directory: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Build {
    pub(crate) fn new(sh: &Shell, workspace: &Workspace, device: Device) -> anyhow::Result<Self> {
        let target_directory = match device.feature {
            None => workspace.target_directory.clone(),
            Some(feature) => workspace.target_directory.join(feature),
        };
        let environment = match device.feature {
            Some("cuda") => without_llvm::environment(sh, workspace, &target_directory)?,
            _ => vec![],
        };
        Ok(Self { feature: device.feature, target_directory, environment })
    }

    /// `cargo VERB` in release mode, of the packages and targets in `selection`.
    pub(crate) fn cargo<'a>(&self, sh: &'a Shell, verb: &str, selection: &[&str]) -> Cmd<'a> {
        let mut options = vec![];
        if let Some(feature) = self.feature {
            let directory = self.target_directory.display().to_string();
            options.extend(["--features".to_owned(), format!("longlora/{feature}")]);
            options.extend(["--target-dir".to_owned(), directory]);
        }
        let command = cmd!(sh, "cargo {verb} --release {selection...} {options...}");
        command.envs(self.environment.iter().cloned())
    }

    /// Builds the program; where it lies.
    pub(crate) fn program(&self, sh: &Shell, workspace: &Workspace) -> anyhow::Result<PathBuf> {
        let _root = sh.push_dir(&workspace.root);
        // The whole workspace is selected, so that burn has the same features as for the tests and is built once.
        self.cargo(sh, "build", &["--workspace", "--bin", "longlora"]).quiet().run()?;
        Ok(self.target_directory.join("release").join(format!("longlora{EXE_SUFFIX}")))
    }
}

/// `cargo xtask build`: the program for a device, and its path on standard output.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the result, and what is done for it"
)]
pub(crate) fn run(device: Device) -> anyhow::Result<ExitCode> {
    if device.feature == Some("cuda") {
        eprintln!(
            "building for CUDA without LLVM: kernels are compiled by NVRTC when the program runs, so cubecl's other compiler \
             is left out, and the linker is given stand-ins for it; nothing is fetched but crates"
        );
    }
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    let program = Build::new(&sh, &workspace, device)?.program(&sh, &workspace)?;
    println!("{}", program.display());
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask check`: the code for a device, as clippy sees it. The device need not be there.
pub(crate) fn check(device: Device) -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    let build = Build::new(&sh, &workspace, device)?;
    sh.change_dir(&workspace.root);
    build.cargo(&sh, "clippy", &["--workspace"]).args(["--", "-D", "warnings"]).run()?;
    Ok(ExitCode::SUCCESS)
}
