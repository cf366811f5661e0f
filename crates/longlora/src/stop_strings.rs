//! Ending a text at given strings, wherever the borders of tokens are.

/// Passes text on as it comes, up to the first stop string; what may be the beginning of one is held back.
#[derive(Debug)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
    found: bool,
}

impl StopStrings {
    /// # Panics
    /// If a stop string is empty.
    pub(crate) fn new(stops: &[String]) -> Self {
        assert!(stops.iter().all(|stop| !stop.is_empty()), "needs stop strings that are not empty");
        Self { stops: stops.to_vec(), held: String::new(), found: false }
    }

    /// Whether one has come: the text is over.
    pub(crate) fn found(&self) -> bool {
        self.found
    }

    /// Takes more of the text, and returns what belongs to it for sure.
    pub(crate) fn push(&mut self, text: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held += text;
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        let end = match first {
            Some(stop) => {
                self.found = true;
                stop
            }
            None => self.held.len() - self.longest_beginning(),
        };
        let passed = self.held[..end].to_owned();
        self.held.drain(..end);
        passed
    }

    /// The rest, when no more text comes.
    pub(crate) fn finish(self) -> String {
        if self.found { String::new() } else { self.held }
    }

    /// Bytes at the end of the held text that begin a stop string.
    fn longest_beginning(&self) -> usize {
        let begins =
            |start: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..]));
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let starts = self.held.char_indices().map(|(start, _)| start);
        let mut starts = starts.filter(|start| self.held.len() - start < longest);
        starts.find(|&start| begins(start)).map_or(0, |start| self.held.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is passed on of each piece, and at the end.
    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], found: bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut filter = StopStrings::new(&stops);
        let mut passed: Vec<String> = pieces.iter().map(|piece| filter.push(piece)).collect();
        assert_eq!(filter.found(), found);
        passed.push(filter.finish());
        assert_eq!(passed, expected);
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_not_passed_on() {
        check(&["\nUser:"], &["Yes.\n", "Us", "er: no"], &["Yes.", "", "", ""], true);
        check(&["\nUser:"], &["Yes.\n", "Us", "e it"], &["Yes.", "", "\nUse it", ""], false);
        check(&["END"], &["EN", "EN", "D"], &["", "EN", "", ""], true);
        check(&["aab"], &["aaa", "ab"], &["a", "a", ""], true);
        check(&[], &["all", " of it"], &["all", " of it", ""], false);
    }

    #[test]
    fn what_is_held_back_comes_out_when_the_text_ends() {
        check(&["stop"], &["don't sto"], &["don't ", "sto"], false);
    }

    #[test]
    fn the_first_of_several_stop_strings_counts() {
        check(&["two", "one"], &["zero one two"], &["zero ", ""], true);
        check(&["abcd", "c"], &["ab", "c"], &["", "ab", ""], true);
    }

    #[test]
    fn characters_of_many_bytes_are_never_cut() {
        check(&["é!"], &["caf", "é", " ünï", "é!"], &["caf", "", "é ünï", "", ""], true);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_cut_of_a_text_passes_on_what_stands_before_the_first_stop(
            text in "[ab\u{e9}]{0,24}",
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..3),
        ) {
            let mut filter = StopStrings::new(&stops);
            let mut passed = String::new();
            for character in text.chars() {
                passed += &filter.push(&character.to_string());
            }
            let found = filter.found();
            passed += &filter.finish();
            let first_end = stops.iter().filter_map(|stop| text.find(stop).map(|at| at + stop.len())).min();
            prop_assert_eq!(found, first_end.is_some());
            match first_end {
                None => prop_assert_eq!(passed, text),
                Some(end) => {
                    let ending = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
                    let longest = ending.map(String::len).max().unwrap_or(0);
                    prop_assert_eq!(passed, &text[..end - longest]);
                }
            }
        }
    }
}
