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
    // Built as the tests are: another selection of packages would be another set of burn's features.
    cmd!(sh, "cargo build --release --workspace --examples").run()?;
    for example in workspace.packages.iter().flat_map(|package| &package.examples) {
        let program = workspace.target_directory.join("release/examples").join(example);
        cmd!(sh, "{program}").run()?;
    }
    invariants::check(&workspace)?;
    Ok(ExitCode::SUCCESS)
}
