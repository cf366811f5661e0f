use hf_hub::Repo;

use crate::HubError;

/// Longest name that the hub allows.
const LONGEST: usize = 96;

/// A name that the hub could have given: `OWNER/NAME`, and therefore safe as a part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelName(String);

impl ModelName {
    pub(crate) fn new(name: &str) -> Result<Self, HubError> {
        let refused = || HubError::Name { name: name.to_owned() };
        let (owner, model) = name.split_once('/').ok_or_else(refused)?;
        let whole = name.len() <= LONGEST && !name.contains("--") && !name.contains("..");
        if whole && is_word(owner) && is_word(model) && !model.ends_with(".git") {
            Ok(Self(name.to_owned()))
        } else {
            Err(refused())
        }
    }

    /// This model at a branch, a tag or a commit.
    pub(crate) fn at(&self, revision: &str) -> Result<Repo, HubError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+@=".contains(c);
        let part = |part: &str| !part.is_empty() && !part.starts_with('.');
        if revision.chars().all(plain) && revision.split('/').all(part) {
            Ok(Repo::with_revision(self.0.clone(), hf_hub::RepoType::Model, revision.to_owned()))
        } else {
            Err(HubError::Revision { revision: revision.to_owned() })
        }
    }
}

/// Whether something could be the name of a model on the hub, `OWNER/NAME`.
pub fn is_model_name(name: &str) -> bool {
    ModelName::new(name).is_ok()
}

fn is_word(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.chars().all(inner) && outer(text.chars().next()) && outer(text.chars().last())
}

/// Whether a path inside a repository stays inside any folder that it is put into.
pub(crate) fn stays_inside(file: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':', '\0']);
    file.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_taken() {
        for name in ["a/b", "HuggingFaceTB/SmolLM2-135M", "TinyLlama/TinyLlama_v1.1", "_x/_y_"] {
            assert_eq!(ModelName::new(name).unwrap().0, name);
        }
    }

    #[test]
    fn what_is_no_owner_and_name_is_refused_with_an_example() {
        let long = format!("a/{}", "b".repeat(95));
        for name in
            ["", "gpt2", "/a", "a/", "a/b/c", "a--b/c", "../b", "a/..b", "a b/c", &long, "a/b.git"]
        {
            let said = ModelName::new(name).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")) && said.contains("OWNER/NAME"), "{said}");
        }
    }

    #[test]
    fn a_revision_cannot_leave_its_folder() {
        let name = ModelName::new("a/b").unwrap();
        for revision in ["main", "refs/pr/1", "v1.0+x", "0123456789"] {
            name.at(revision).unwrap();
        }
        for revision in ["", "../x", "a/../b", "/etc", "a//b", "a/", ".hidden", "a b", "a?b", "a#b"]
        {
            let said = name.at(revision).unwrap_err().to_string();
            assert!(said.contains(&format!("`{revision}`")), "{said}");
        }
    }

    #[test]
    fn a_file_cannot_leave_its_folder() {
        assert!(stays_inside("a.json") && stays_inside("onnx/model v2.onnx"));
        for file in ["", "/etc/passwd", "../a", "a/../b", "a//b", "./a", "a\\b", "C:a"] {
            assert!(!stays_inside(file), "{file}");
        }
    }
}
