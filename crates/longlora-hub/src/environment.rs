use std::fs;
use std::path::{Path, PathBuf};

/// Reads the variables that Python's `huggingface_hub` reads. A function, so that tests need not touch the process's.
pub(crate) struct Environment<F: Fn(&str) -> Option<String>>(pub(crate) F);

/// The process's own.
pub(crate) fn process() -> Environment<impl Fn(&str) -> Option<String>> {
    Environment(|name| std::env::var(name).ok())
}

/// The cache that Python's `huggingface_hub` would use: `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE`, or `hub` below
/// `HF_HOME`, or `~/.cache/huggingface/hub`. `None` if there is no home folder.
pub fn default_cache() -> Option<PathBuf> {
    process().cache()
}

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    pub(crate) fn cache(&self) -> Option<PathBuf> {
        let named = self.path("HF_HUB_CACHE").or_else(|| self.path("HUGGINGFACE_HUB_CACHE"));
        named.or_else(|| Some(self.hugging_face()?.join("hub")))
    }

    pub(crate) fn endpoint(&self) -> Option<String> {
        self.text("HF_ENDPOINT")
    }

    pub(crate) fn offline(&self) -> bool {
        let set = self.text("HF_HUB_OFFLINE").or_else(|| self.text("TRANSFORMERS_OFFLINE"));
        set.is_some_and(|value| is_true(&value))
    }

    /// From a variable, or from the file where `hf auth login` leaves it; none of them with `HF_HUB_DISABLE_IMPLICIT_TOKEN`.
    pub(crate) fn token(&self) -> Option<String> {
        if self.text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
            return None;
        }
        let named = self.text("HF_TOKEN").or_else(|| self.text("HUGGING_FACE_HUB_TOKEN"));
        named.or_else(|| {
            let file =
                self.path("HF_TOKEN_PATH").or_else(|| Some(self.hugging_face()?.join("token")))?;
            let token = fs::read_to_string(file).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        })
    }

    fn hugging_face(&self) -> Option<PathBuf> {
        self.path("HF_HOME").or_else(|| {
            let caches =
                self.path("XDG_CACHE_HOME").or_else(|| Some(self.home()?.join(".cache")))?;
            Some(caches.join("huggingface"))
        })
    }

    fn home(&self) -> Option<PathBuf> {
        self.text("HOME").or_else(|| self.text("USERPROFILE")).map(PathBuf::from)
    }

    /// `~/` is the home folder, as in Python.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.text(name)?;
        match value.strip_prefix("~/") {
            Some(below) => Some(self.home()?.join(below)),
            None => Some(Path::new(&value).to_owned()),
        }
    }

    /// An empty variable is as good as none.
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.0)(name)?.trim().to_owned();
        (!value.is_empty()).then_some(value)
    }
}

/// What Python's library takes for true.
fn is_true(value: &str) -> bool {
    matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<'a>(set: &'a [(&str, &str)]) -> Environment<impl Fn(&str) -> Option<String> + 'a> {
        Environment(|name| {
            set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cases = [
            (&[][..], None),
            (&[("HOME", "/h")], Some("/h/.cache/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub")),
            (&[("HOME", "/h"), ("HF_HOME", "/f")], Some("/f/hub")),
            (&[("HOME", "/h"), ("HF_HOME", "~/f")], Some("/h/f/hub")),
            (&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/old")], Some("/old")),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/c")], Some("/c")),
        ];
        for (set, cache) in cases {
            assert_eq!(with(set).cache().as_deref(), cache.map(Path::new), "{set:?}");
        }
    }

    #[test]
    fn the_token_is_the_variable_or_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(with(&[("HF_HOME", home)]).token(), None);

        fs::write(folder.path().join("token"), "hf_file\n").unwrap();

        assert_eq!(with(&[("HF_HOME", home)]).token().as_deref(), Some("hf_file"));
        let both = [("HF_HOME", home), ("HF_TOKEN", " hf_variable ")];
        assert_eq!(with(&both).token().as_deref(), Some("hf_variable"));
        let none = [("HF_TOKEN", "hf_variable"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(with(&none).token(), None);
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        for (value, offline) in
            [("1", true), ("true", true), ("YES", true), ("0", false), ("", false)]
        {
            assert_eq!(with(&[("HF_HUB_OFFLINE", value)]).offline(), offline, "{value}");
        }
    }
}
