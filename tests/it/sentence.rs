//! What an error has to be.

use std::error::Error;
use std::iter::successors;

/// One sentence, with its causes, that holds all of `parts`.
#[track_caller]
pub(crate) fn check(error: &(dyn Error + 'static), parts: &[&str]) {
    let text = with_causes(error);
    assert!(!text.contains('\n') && !text.ends_with('.'), "not one sentence: {text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

/// As the program says it.
#[track_caller]
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let chain: Vec<_> = successors(Some(error), |&error| error.source()).collect();
    for (error, cause) in chain.iter().zip(&chain[1..]) {
        let (said, cause) = (error.to_string(), cause.to_string());
        assert!(!said.contains(&cause), "its cause is said twice: {said}");
    }
    chain.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
