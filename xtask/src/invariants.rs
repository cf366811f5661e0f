//! What this workspace is not: absences that no compiler checks, each named in words.

use anyhow::ensure;

use crate::rust_source::{code_of, has_word, imports};
use crate::workspace::{SourceFile, Workspace};

/// Who may import whom, of our own crates: the rooms below, never one beside or above.
///
/// A member that is not listed (the program, examples, tests) may import all of them.
const ROOMS: [(&str, &[&str]); 10] = [
    ("longlora-kernels", &[]),
    ("longlora-attention", &["longlora-kernels"]),
    ("longlora-adapters", &["longlora-kernels"]),
    ("longlora-gguf", &[]),
    ("longlora-hub", &[]),
    ("longlora-data", &["longlora-gguf"]),
    (
        "longlora-llama",
        &["longlora-kernels", "longlora-attention", "longlora-adapters", "longlora-gguf"],
    ),
    ("longlora-train", BELOW_THE_RECIPES),
    ("longlora-eval", BELOW_THE_RECIPES),
    ("xtask", &[]),
];
const BELOW_THE_RECIPES: &[&str] =
    &["longlora-attention", "longlora-adapters", "longlora-data", "longlora-llama"];

/// The places for unsafe code and a backend parameter: the two rooms that compute.
const COMPUTING: &[&str] = &["crates/longlora-attention/src/", "crates/longlora-kernels/src/"];
/// The only place for burn's learner.
const LEARNER: &str = "crates/longlora-train/";
/// They see every crate, and drive burn's learner to compare it with ours.
const TESTS: &str = "tests/it/";

/// A rule and what breaks it, one line per violation.
struct Invariant {
    rule: &'static str,
    violations: fn(&Workspace, &[SourceFile]) -> Vec<String>,
}

const INVARIANTS: [Invariant; 9] = [
    Invariant {
        rule: "imports point downwards: kernels, gguf and hub know no other longlora crate, \
               data and llama never meet, nor do attention and adapters",
        violations: |workspace, _| upward_imports(workspace),
    },
    Invariant {
        rule: "only longlora-hub depends on HTTP, and only the program on longlora-hub",
        violations: |workspace, _| {
            dependencies(workspace, |package, name| match name {
                "ureq" | "hf-hub" => package != "longlora-hub",
                "longlora-hub" => package != "longlora",
                _ => false,
            })
        },
    },
    Invariant {
        rule: "xtask knows no burn",
        violations: |workspace, _| {
            dependencies(workspace, |package, name| {
                package == "xtask" && (name == "burn" || name.starts_with("burn-"))
            })
        },
    },
    Invariant {
        rule: "only longlora-train depends on burn-train",
        violations: |workspace, _| {
            dependencies(workspace, |package, name| {
                package != "longlora-train" && name == "burn-train"
            })
        },
    },
    Invariant {
        rule: "only longlora-train and its tests use burn's learner, `burn::train`",
        violations: |_, files| {
            let mut found = files_outside(LEARNER, files, |code| imports(code, "burn", "train"));
            found.retain(|violation| !violation.starts_with(&format!("`{TESTS}")));
            found
        },
    },
    Invariant {
        rule: "a backend parameter, `B: Backend`, occurs only in the source of longlora-attention and longlora-kernels",
        violations: |_, files| lines_outside(COMPUTING, files, &["B: Backend"]),
    },
    Invariant {
        rule: "unsafe code occurs only in the source of longlora-attention and longlora-kernels",
        violations: |_, files| lines_outside(COMPUTING, files, &["unsafe"]),
    },
    Invariant {
        rule: "nothing is left to do: no `todo!`, no `unimplemented!`",
        violations: |_, files| lines_outside(&[], files, &["todo!(", "unimplemented!("]),
    },
    Invariant {
        rule: "no test is ignored",
        violations: |_, files| lines_outside(&[], files, &["#[ignore"]),
    },
];

/// Checks every rule and reports all that is broken at once.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let files = workspace.source_files()?;
    let mut report = String::new();
    for Invariant { rule, violations } in &INVARIANTS {
        for violation in violations(workspace, &files) {
            report.push_str(&format!("\n  {violation}, but {rule}"));
        }
    }
    ensure!(report.is_empty(), "broken invariants:{report}");
    Ok(())
}

fn upward_imports(workspace: &Workspace) -> Vec<String> {
    dependencies(workspace, |package, name| {
        let room = ROOMS.into_iter().find(|(room, _)| *room == package);
        room.is_some_and(|(_, below)| name.starts_with("longlora") && !below.contains(&name))
    })
}

fn dependencies(workspace: &Workspace, broken: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut found = vec![];
    for package in &workspace.packages {
        for name in package.dependencies.iter().filter(|name| broken(&package.name, name)) {
            found.push(format!("`{}` depends on `{name}`", package.name));
        }
    }
    found
}

fn files_outside(home: &str, files: &[SourceFile], broken: impl Fn(&str) -> bool) -> Vec<String> {
    let strangers = files.iter().filter(|file| !file.path.starts_with(home));
    strangers
        .filter(|file| broken(&code_of(&file.text)))
        .map(|file| format!("`{}` does", file.path))
        .collect()
}

fn lines_outside(homes: &[&str], files: &[SourceFile], words: &[&str]) -> Vec<String> {
    let mut found = vec![];
    let outside = |file: &&SourceFile| !homes.iter().any(|home| file.path.starts_with(home));
    for file in files.iter().filter(outside) {
        for (line, code) in code_of(&file.text).lines().enumerate() {
            if let Some(word) = words.iter().find(|word| has_word(code, word)) {
                found.push(format!("`{}:{}` has `{word}`", file.path, line + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    /// One Rust file and one package, as cargo would describe them; the report has to hold
    /// `expected`.
    #[track_caller]
    fn check_report(path: &str, text: &str, package: (&str, &str), expected: &[&str]) {
        let workspace = Workspace {
            root: "/".into(),
            target_directory: "/target".into(),
            packages: vec![Package {
                name: package.0.to_owned(),
                folder: "/".into(),
                dependencies: vec![package.1.to_owned()],
                examples: vec![],
            }],
        };
        let files = [SourceFile { path: path.to_owned(), text: text.to_owned() }];
        let ours: Vec<String> = INVARIANTS
            .iter()
            .flat_map(|invariant| (invariant.violations)(&workspace, &files))
            .collect();
        assert_eq!(ours, expected);
    }

    #[test]
    fn imports_point_downwards() {
        let check = |package, expected| check_report("a.rs", "", package, expected);
        check(("longlora-train", "longlora-llama"), &[]);
        check(("longlora", "longlora-train"), &[]);
        check(
            ("longlora-llama", "longlora-data"),
            &["`longlora-llama` depends on `longlora-data`"],
        );
        check(
            ("longlora-adapters", "longlora-attention"),
            &["`longlora-adapters` depends on `longlora-attention`"],
        );
        check(("xtask", "burn"), &["`xtask` depends on `burn`"]);
        check(("longlora", "longlora-hub"), &[]);
        check(("longlora-hub", "ureq"), &[]);
        check(("longlora-examples", "ureq"), &["`longlora-examples` depends on `ureq`"]);
    }

    #[test]
    fn words_have_their_places() {
        let package = ("longlora", "anyhow");
        let code = "fn f<B: Backend>() {\n    unsafe {}\n}\n";
        check_report("crates/longlora-attention/src/flex.rs", code, package, &[]);
        check_report(
            "crates/longlora-llama/src/lib.rs",
            code,
            package,
            &[
                "`crates/longlora-llama/src/lib.rs:1` has `B: Backend`",
                "`crates/longlora-llama/src/lib.rs:2` has `unsafe`",
            ],
        );
        let learner = "use burn::{tensor::Tensor, train::Learner};";
        check_report("crates/longlora-train/src/step.rs", learner, package, &[]);
        check_report("tests/it/exactness.rs", learner, package, &[]);
        check_report("examples/a.rs", learner, package, &["`examples/a.rs` does"]);
        check_report(
            "crates/longlora-attention/src/lib.rs",
            "// todo!()\n#[ignore = \"slow\"]\nfn f() { todo!(\"soon\") }",
            package,
            &[
                "`crates/longlora-attention/src/lib.rs:3` has `todo!(`",
                "`crates/longlora-attention/src/lib.rs:2` has `#[ignore`",
            ],
        );
    }
}
