//! What needles are hidden in.

use crate::sentences::sentences;

/// RULER's noise; Landmark's passkey has the same.
pub(super) const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// What needles are hidden in, RULER's `type_haystack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haystack {
    /// One line, again and again.
    Noise,
    /// The user's texts.
    Essay,
    /// Needles that are not asked for.
    Needles,
}

/// So many words, which begin anew where there are no more, with needles between their sentences. Each has its percent of
/// the sentences before it; these ascend.
///
/// The last sentence is cut off where the words end.
pub(super) fn hide_in_essay(
    words: &[&str],
    count: usize,
    needles: &[String],
    percents: &[usize],
) -> String {
    let text = words.iter().copied().cycle().take(count).collect::<Vec<_>>().join(" ");
    let sentences: Vec<&str> = sentences(&text).collect();
    let mut parts: Vec<&str> = vec![];
    let mut begin = 0;
    for (needle, percent) in needles.iter().zip(percents) {
        let end = sentences.len() * percent / 100;
        parts.extend(&sentences[begin..end]);
        parts.push(needle.as_str());
        begin = end;
    }
    parts.extend(&sentences[begin..]);
    parts.join(" ")
}

/// Lines with needles between them, each before the line of its place; places ascend.
pub(super) fn hide_in_lines<'a>(
    mut lines: Vec<&'a str>,
    needles: &'a [String],
    places: &[usize],
) -> String {
    // From the end, so that no needle moves another one.
    for (needle, place) in needles.iter().zip(places).rev() {
        lines.insert(*place, needle);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles() -> Vec<String> {
        ["Needle 1.", "Needle 2.", "Needle 3."].map(str::to_owned).to_vec()
    }

    #[test]
    fn needles_stand_between_sentences() {
        let words: Vec<&str> = "I came. I saw! I won.".split(' ').collect();
        let check = |count, percents: [usize; 3], expected: &str| {
            assert_eq!(hide_in_essay(&words, count, &needles(), &percents), expected);
        };
        check(6, [0, 50, 100], "Needle 1. I came. Needle 2. I saw! I won. Needle 3.");
        check(5, [33, 34, 67], "Needle 1. I came. Needle 2. I saw! Needle 3. I");
        check(9, [0, 26, 51], "Needle 1. I came. Needle 2. I saw! Needle 3. I won. I came. I");
        check(0, [0, 50, 100], "Needle 1. Needle 2. Needle 3.");
    }

    #[test]
    fn needles_stand_before_lines() {
        let lines = hide_in_lines(vec!["a", "b", "c", "d"], &needles(), &[0, 1, 3]);
        assert_eq!(lines, "Needle 1.\na\nNeedle 2.\nb\nc\nNeedle 3.\nd");
    }
}
