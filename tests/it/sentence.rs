//! What an error has to be.

use std::fmt::Display;

/// One sentence that holds all of `parts`.
#[track_caller]
pub(crate) fn check(error: &dyn Display, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.ends_with('.'), "not one sentence: {text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}
