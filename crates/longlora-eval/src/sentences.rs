//! Where sentences end.

/// The sentences of a text, without the space between them; a paragraph ends one, too.
///
/// A sentence ends behind `.`, `!` or `?`, with the quotes and brackets that follow, before a space; not behind an
/// initial (`J. Smith`) or a common abbreviation. That is wrong now and then, which does no harm: it is only where
/// something is put in.
///
/// In Chinese and Japanese no space follows. What goes on for 400 characters, as code and tables do, is parted there, at a
/// space if there is one.
pub(crate) fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").flat_map(in_paragraph).flat_map(|sentence| parts(sentence, LONGEST))
}

/// In characters.
const LONGEST: usize = 400;

/// Parts of at most so many characters.
pub(crate) fn parts(text: &str, most: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(most).map_or(rest.len(), |(end, _)| end);
        let at_space =
            rest[..end].rfind(char::is_whitespace).filter(|&at| at > 0 && end < rest.len());
        let (part, behind) = rest.split_at(at_space.unwrap_or(end));
        rest = behind.trim_start();
        (!part.is_empty()).then_some(part)
    })
}

const ABBREVIATIONS: [&str; 14] =
    ["Mr", "Mrs", "Ms", "Dr", "Prof", "St", "No", "vs", "cf", "Fig", "Sec", "Art", "e.g", "i.e"];

fn in_paragraph(paragraph: &str) -> Vec<&str> {
    let mut sentences = vec![];
    let mut begin = 0;
    let mut characters = paragraph.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if matches!(character, '。' | '！' | '？') {
            let end = at + character.len_utf8();
            sentences.push(&paragraph[begin..end]);
            begin = end;
            continue;
        }
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

    #[test]
    fn no_sentence_is_endless() {
        check("猫が来た。犬は？来ない", &["猫が来た。", "犬は？", "来ない"]);
        let code = "let x = 1; ".repeat(100);
        let parts: Vec<&str> = sentences(&code).collect();
        assert!(parts.len() == 3 && parts.iter().all(|part| part.chars().count() <= LONGEST));
        assert_eq!(parts.join(" "), code.trim());
        assert_eq!(sentences(&"あ".repeat(1000)).count(), 3);
    }
}
