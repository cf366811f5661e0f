//! The whole CI, in the order in which a mistake is cheapest to find.

use std::process::ExitCode;

use xshell::{Shell, cmd};

use crate::invariants;
use crate::workspace::Workspace;

/// Runs every check; the first that fails ends it.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let sh = Shell::new()?;
    let workspace = Workspace::read(&sh)?;
    sh.change_dir(&workspace.root);

    cmd!(sh, "cargo fmt --all --check").run()?;
    cmd!(sh, "cargo clippy --release --workspace --all-targets -- -D warnings").run()?;
    cmd!(sh, "cargo test --release --workspace").run()?;
    cmd!(sh, "cargo doc --release --workspace --no-deps")
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    for package in &workspace.packages {
        let name = &package.name;
        for example in &package.examples {
            cmd!(sh, "cargo run --release --package {name} --example {example}").run()?;
        }
    }
    invariants::check(&workspace)?;
    Ok(ExitCode::SUCCESS)
}
