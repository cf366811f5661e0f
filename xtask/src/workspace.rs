//! What cargo knows of this workspace, and the Rust files in it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::Context;
use serde_json::Value;
use xshell::{Shell, cmd};

/// The workspace as `cargo metadata` describes it.
pub(crate) struct Workspace {
    /// Folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo builds, `CARGO_TARGET_DIR` considered.
    pub(crate) target_directory: PathBuf,
    /// The members.
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
pub(crate) struct Package {
    /// Its name in `Cargo.toml`.
    pub(crate) name: String,
    /// Folder of its `Cargo.toml`.
    pub(crate) folder: PathBuf,
    /// Names of the packages it depends on directly, for its build and its tests too.
    pub(crate) dependencies: Vec<String>,
    /// Names of its examples.
    pub(crate) examples: Vec<String>,
}

/// A Rust file of the workspace.
pub(crate) struct SourceFile {
    /// Relative to the root, with `/` between the parts.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) text: String,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn read(sh: &Shell) -> anyhow::Result<Self> {
        // Of the workspace that cargo was called in: with a shared target directory this program may come from another copy.
        let ours =
            env::var_os("CARGO_MANIFEST_DIR").context("call this program as `cargo xtask`")?;
        let manifest = Path::new(&ours).with_file_name("Cargo.toml");
        let arguments = ["--no-deps", "--format-version", "1", "--manifest-path"];
        let metadata = cmd!(sh, "cargo metadata {arguments...} {manifest}").quiet().read()?;
        let metadata: Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
        Ok(Self {
            root: path(&metadata["workspace_root"])?,
            target_directory: path(&metadata["target_directory"])?,
            packages: list(&metadata["packages"]).map(Package::of).collect::<Result<_, _>>()?,
        })
    }

    /// Every Rust file of every member and of the integration tests, sorted by path.
    pub(crate) fn source_files(&self) -> anyhow::Result<Vec<SourceFile>> {
        let mut paths = vec![];
        // The integration tests are beside the packages, not in one.
        let tests = self.root.join("tests");
        for folder in self.packages.iter().map(|package| &package.folder).chain([&tests]) {
            collect_rust_files(folder, &mut paths)
                .with_context(|| format!("listing `{}`", folder.display()))?;
        }
        paths.sort();
        paths.dedup();
        paths.iter().map(|path| self.source_file(path)).collect()
    }

    fn source_file(&self, path: &Path) -> anyhow::Result<SourceFile> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        Ok(SourceFile { path: relative.to_string_lossy().replace('\\', "/"), text })
    }
}

impl Package {
    fn of(metadata: &Value) -> anyhow::Result<Self> {
        let named = |value: &Value| text(&value["name"]).map(str::to_owned);
        let is_example = |target: &&Value| list(&target["kind"]).any(|kind| kind == "example");
        let mut folder = path(&metadata["manifest_path"])?;
        folder.pop();
        Ok(Self {
            name: named(metadata)?,
            folder,
            dependencies: list(&metadata["dependencies"]).map(named).collect::<Result<_, _>>()?,
            examples: list(&metadata["targets"])
                .filter(is_example)
                .map(named)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().with_context(|| format!("cargo metadata has `{value}` where text belongs"))
}

fn path(value: &Value) -> anyhow::Result<PathBuf> {
    text(value).map(PathBuf::from)
}

/// Every `.rs` below `folder`, but for what cargo builds.
pub(crate) fn collect_rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && entry.file_name() != "target" {
            collect_rust_files(&path, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}
