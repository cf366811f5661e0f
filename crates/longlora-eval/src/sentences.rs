//! Where sentences end.

/// The sentences of a text, without the space between them; a paragraph ends one, too.
///
/// A sentence ends behind `.`, `!` or `?`, with the quotes and brackets that follow, before a space; not behind an
/// initial (`J. Smith`) or a common abbreviation. That is wrong now and then, which does no harm: it is only where
/// something is put in.
pub(crate) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").flat_map(in_paragraph)
}

const ABBREVIATIONS: [&str; 14] =
    ["Mr", "Mrs", "Ms", "Dr", "Prof", "St", "No", "vs", "cf", "Fig", "Sec", "Art", "e.g", "i.e"];

fn in_paragraph(paragraph: &str) -> Vec<&str> {
    let mut sentences = vec![];
    let mut begin = 0;
    let mut characters = paragraph.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if !matches!(character, '.' | '!' | '?') {
            continue;
        }
        let mut end = at + character.len_utf8();
        while let Some(&(_, next)) = characters.peek()
            && matches!(next, '.' | '!' | '?' | '"' | '\'' | ')' | ']' | '”' | '’')
        {
            end += next.len_utf8();
            characters.next();
        }
        let before_space = characters.peek().is_some_and(|(_, next)| next.is_whitespace());
        if before_space && !(character == '.' && is_abbreviated(&paragraph[begin..at])) {
            sentences.push(&paragraph[begin..end]);
            begin = end;
        }
    }
    sentences.push(&paragraph[begin..]);
    sentences.into_iter().map(str::trim).filter(|sentence| !sentence.is_empty()).collect()
}

fn is_abbreviated(sentence: &str) -> bool {
    let word = sentence.rsplit(char::is_whitespace).next().unwrap_or_default();
    let word = word.trim_start_matches(['(', '[', '"', '“']);
    let mut characters = word.chars();
    let initial = characters.next().is_some_and(char::is_uppercase) && characters.next().is_none();
    initial || ABBREVIATIONS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        assert_eq!(sentences(text).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sentences_end_where_a_reader_would_say() {
        check("He came. She went!\nWhy?", &["He came.", "She went!", "Why?"]);
        check(
            "“Go on!” said he. Mr. J. Smith did.",
            &["“Go on!”", "said he.", "Mr. J. Smith did."],
        );
        check(
            "See e.g. Fig. 3 (p. 4). It costs 3.50 now...",
            &["See e.g. Fig. 3 (p.", "4).", "It costs 3.50 now..."],
        );
    }

    #[test]
    fn paragraphs_end_sentences_and_nothing_is_lost() {
        check("a title\n\nA text\nof lines\n\n\n", &["a title", "A text\nof lines"]);
        check("", &[]);
    }
}
