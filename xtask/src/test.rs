//! Running tests, on the processor or on a GPU.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use xshell::Shell;

use crate::build::Build;
use crate::device::Device;
use crate::program;
use crate::workspace::Workspace;

/// The crates with kernels, whose library tests hold those against their references, the one whose inputs leave the device,
/// and the one with the integration tests.
const PACKAGES: [&str; 8] = [
    "-p",
    "longlora-attention",
    "-p",
    "longlora-kernels",
    "-p",
    "longlora-train",
    "-p",
    "longlora",
];
/// Kernels that only CUDA runs, as C++ on the processor: for machines without it.
const EMULATED: [&str; 2] = ["--features", "longlora-attention/emulated"];
/// Integration tests that take the device at hand: logits, losses and gradients of PyTorch, causality, inputs that leave it,
/// and the program on that device. The others would take long on a software renderer.
const ON_A_DEVICE: [&str; 5] =
    ["golden_tiny::", "golden_families::", "causality::", "offloading::", "devices::"];
/// burn's name for the device that [`Device::default`] is.
const DEFAULT_DEVICE: &str = "BURN_DEVICE";

/// Every test, on the processor.
pub(crate) fn run(cargo_args: &[OsString], test_args: &[OsString]) -> anyhow::Result<ExitCode> {
    let mut command = Command::new("cargo");
    command.args(["test", "--release", "--workspace"]).args(cargo_args);
    if !test_args.is_empty() {
        command.arg("--").args(test_args);
    }
    program::hand_over(&mut command)
}

/// The tests of what runs on a GPU, there.
pub(crate) fn run_on(device: Device) -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    let build = Build::new(&sh, &workspace, device)?;
    sh.change_dir(&workspace.root);
    let emulated: &[&str] = if device.feature == Some("cuda") { &[] } else { &EMULATED };
    let test = |target: &[&str], filters: &[&str]| {
        let selection = [&PACKAGES, emulated, target].concat();
        let command = build.cargo(&sh, "test", &selection).env(DEFAULT_DEVICE, device.name);
        command.arg("--").args(filters).run()
    };
    test(&["--lib"], &[])?;
    test(&["--test", "it"], &ON_A_DEVICE)?;
    Ok(ExitCode::SUCCESS)
}
