//! CUDA without LLVM.
//!
//! cubecl's CUDA runtime holds two compilers. One writes C++ for NVRTC: that is ours, by the feature `cuda-cpp`. The other
//! goes through LLVM, which a build script would fetch, and it is never called. But the linker asks for both. So LLVM is
//! told to stay away, as it does where documentation is built, and every function of its C interface is given to the
//! linker as one that says its name and ends the program.
//!
//! `cargo build --features longlora/cuda`, without xtask, fetches LLVM instead.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use xshell::{Shell, cmd};

use crate::workspace::{Workspace, collect_rust_files};

/// The crates whose sources declare what is missing: LLVM's C interface, and cubecl's additions to it.
const DECLARING: [&str; 2] = ["llvm-sys", "cubecl-llvm"];
/// How the names of missing functions begin.
const PREFIXES: [&str; 2] = ["LLVM", "cubecl_"];
/// Has their build scripts leave LLVM alone.
const NO_LLVM: (&str, &str) = ("DOCS_RS", "1");

/// The environment in which cargo builds without LLVM; writes an object file into `folder`.
pub(crate) fn environment(
    sh: &Shell,
    workspace: &Workspace,
    folder: &Path,
) -> anyhow::Result<Vec<(&'static str, OsString)>> {
    let object = object_file(sh, workspace, folder)?;
    let mut flags = vec![];
    if let Ok(given) = std::env::var("RUSTFLAGS") {
        flags.extend(given.split_whitespace().map(str::to_owned));
    }
    flags.push(format!("-Clink-arg={}", object.display()));
    // Encoded, since a path may hold spaces.
    Ok(vec![(NO_LLVM.0, NO_LLVM.1.into()), ("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f").into())])
}

/// One that is there and is what it would be is left as it is.
fn object_file(sh: &Shell, workspace: &Workspace, folder: &Path) -> anyhow::Result<PathBuf> {
    let (source, object) = (folder.join("without_llvm.c"), folder.join("without_llvm.o"));
    let text = stand_ins(&missing_functions(sh, workspace)?);
    if object.exists() && fs::read_to_string(&source).is_ok_and(|there| there == text) {
        return Ok(object);
    }
    sh.create_dir(folder)?;
    sh.write_file(&source, text)?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    // Position-independent, for the libraries of macros that are linked with it, too.
    cmd!(sh, "{compiler} -c -Os -fPIC -ffunction-sections -o {object} {source}")
        .quiet()
        .run()
        .context("building for CUDA needs a C compiler")?;
    Ok(object)
}

/// Names that begin as the missing functions' do, of all functions in the crates that declare those. Some too many do no
/// harm.
fn missing_functions(sh: &Shell, workspace: &Workspace) -> anyhow::Result<BTreeSet<String>> {
    let _root = sh.push_dir(&workspace.root);
    let host = cmd!(sh, "rustc --print host-tuple").quiet().read()?;
    let arguments = ["--format-version", "1", "--features", "longlora/cuda", "--filter-platform"];
    let metadata = cmd!(sh, "cargo metadata {arguments...} {host}").quiet().read()?;
    let metadata: Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let mut names = BTreeSet::new();
    for package in packages.iter().filter(|package| DECLARING.iter().any(|d| package["name"] == *d))
    {
        let manifest = package["manifest_path"].as_str().context("a package has a manifest")?;
        let mut files = vec![];
        collect_rust_files(&Path::new(manifest).with_file_name("src"), &mut files)?;
        for file in files {
            names.extend(declared(&fs::read_to_string(file)?).map(str::to_owned));
        }
    }
    ensure!(!names.is_empty(), "the sources of {} declare nothing", DECLARING.join(" and "));
    Ok(names)
}

fn declared(source: &str) -> impl Iterator<Item = &str> {
    source.split("fn ").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
        PREFIXES.iter().any(|prefix| rest[..end].starts_with(prefix)).then_some(&rest[..end])
    })
}

fn stand_ins(names: &BTreeSet<String>) -> String {
    let mut source = "\
#include <stdio.h>
#include <stdlib.h>

static void absent(const char *name) {
    fprintf(stderr, \"this program was built without LLVM, and `%s` was called\\n\", name);
    abort();
}

"
    .to_owned();
    for name in names {
        // Writing into a string does not fail.
        let _ = writeln!(source, "void {name}(void) {{ absent(\"{name}\"); }}");
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_read_from_declarations() {
        let source = "extern \"C\" {\n    pub fn LLVMAddCase(a: u8);\n    fn cubecl_free(a: *mut c_char);\n}\n\
                      fn ours() {}\n// a fn LLVM\npub fn LLVMShutdown();";
        let names: Vec<&str> = declared(source).collect();
        assert_eq!(names, ["LLVMAddCase", "cubecl_free", "LLVM", "LLVMShutdown"]);
    }

    #[test]
    fn each_has_a_stand_in() {
        let names = ["LLVMAddCase", "cubecl_free"].map(str::to_owned).into();
        let source = stand_ins(&names);
        assert!(source.contains("void LLVMAddCase(void) { absent(\"LLVMAddCase\"); }\n"));
        assert!(source.ends_with("void cubecl_free(void) { absent(\"cubecl_free\"); }\n"));
    }
}
