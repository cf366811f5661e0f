//! What the folder of a comparison holds.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longlora_llama::write_atomically;
use serde::{Deserialize, Serialize};

/// Of which settings the numbers of a folder are, and for which methods and seeds there are some: those of all commands
/// that were given for it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    #[serde(skip)]
    path: PathBuf,
    /// What every number depends on.
    settings: BTreeMap<String, String>,
    /// By name.
    methods: Vec<String>,
    seeds: Vec<u64>,
    /// Rows of the last report.
    reported: usize,
}

impl Ledger {
    /// Adds methods and seeds to those of the folder, which keeps them once they are [saved](Self::save).
    ///
    /// # Errors
    /// If the folder is that of a comparison with other settings.
    pub(super) fn open(
        folder: &Path,
        settings: BTreeMap<String, String>,
        methods: impl IntoIterator<Item = String>,
        seeds: &[u64],
    ) -> Result<Self> {
        let path = folder.join("comparison.json");
        let mut ledger = match read(&path)? {
            Some(ledger) => ledger,
            None => Self {
                path,
                settings: settings.clone(),
                methods: vec![],
                seeds: vec![],
                reported: 0,
            },
        };
        for (key, now) in &settings {
            let then = ledger.settings.get(key).map_or("none", String::as_str);
            if then != now {
                bail!(
                    "`{}` holds a comparison whose {key} is `{then}`, and now it is `{now}`{}; choose another folder with --out",
                    folder.display(),
                    why(key)
                );
            }
        }
        for method in methods {
            if !ledger.methods.contains(&method) {
                ledger.methods.push(method);
            }
        }
        ledger.seeds.extend(seeds);
        ledger.seeds.sort_unstable();
        ledger.seeds.dedup();
        Ok(ledger)
    }

    /// Whether a method was named, here or before.
    pub(super) fn wants(&self, method: &str) -> bool {
        self.methods.iter().any(|name| name == method)
    }

    /// Ascending.
    pub(super) fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    /// Whether a report of so many rows has no fewer than the last one, which it would replace.
    pub(super) fn may_replace(&self, rows: usize) -> bool {
        rows >= self.reported
    }

    pub(super) fn has_reported(&mut self, rows: usize) -> Result<()> {
        self.reported = rows;
        self.save()
    }

    pub(super) fn save(&self) -> Result<()> {
        Ok(write_atomically(&self.path, &serde_json::to_vec_pretty(self)?)?)
    }
}

/// `None`, if there is none.
fn read(path: &Path) -> Result<Option<Ledger>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("cannot read `{}`", path.display()))?,
    };
    let ledger: Ledger = serde_json::from_slice(&text).with_context(|| {
        format!("`{}` is torn or none of ours; choose another folder with --out", path.display())
    })?;
    Ok(Some(Ledger { path: path.to_owned(), ..ledger }))
}

/// What may have changed besides what a user sees.
fn why(key: &str) -> &'static str {
    match key {
        "text to measure on" => {
            " (if neither the text nor --eval-tokens is another, an earlier version shared the tokens among all documents, also \
             those that are too short)"
        }
        "base model" => " (if the model is no other, --weights is)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path, steps: &str, method: &str, seeds: &[u64]) -> Result<Ledger> {
        let settings = BTreeMap::from([("number of steps".to_owned(), steps.to_owned())]);
        Ledger::open(folder, settings, [method.to_owned()], seeds)
    }

    #[test]
    fn methods_and_seeds_are_added_and_other_settings_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = open(folder.path(), "10", "yarn", &[0, 0]).unwrap();
        assert!(first.wants("yarn") && !first.wants("linear"));
        assert_eq!(first.seeds(), [0]);
        first.has_reported(3).unwrap();

        // What was refused before it was saved is forgotten.
        open(folder.path(), "10", "ntk", &[9]).unwrap();
        let second = open(folder.path(), "10", "linear", &[2, 1]).unwrap();
        assert!(second.wants("yarn") && second.wants("linear") && !second.wants("ntk"));
        assert_eq!(second.seeds(), [0, 1, 2]);
        assert!(second.may_replace(3) && !second.may_replace(2));

        let error = open(folder.path(), "20", "yarn", &[0]).unwrap_err().to_string();
        for part in ["number of steps", "`10`", "`20`", "--out"] {
            assert!(error.contains(part), "{error}");
        }
        std::fs::write(folder.path().join("comparison.json"), "{").unwrap();
        let error = open(folder.path(), "10", "yarn", &[0]).unwrap_err().to_string();
        assert!(error.contains("comparison.json"), "{error}");
    }
}
