//! Just enough of Rust's grammar to ask which words stand in code, not in comments and texts.

/// `text` with every comment, string and character blanked; lines stay where they are.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.chars().next_back().is_some_and(is_word);
        let skipped = match skipped(rest) {
            // `r` and `b` open a string only where they do not end a name, as `for"` would.
            Some(length) if !(after_word && is_word(first)) => length,
            _ => {
                code.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
        };
        code.push(' ');
        code.extend(rest[..skipped].chars().filter(|character| *character == '\n'));
        rest = &rest[skipped..];
    }
    code
}

/// Whether `word` stands in `code` by itself, not as a part of a longer name.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let bounded = |edge: Option<char>, next: Option<char>| {
        !(edge.is_some_and(is_word) && next.is_some_and(is_word))
    };
    code.match_indices(word).any(|(start, _)| {
        bounded(code[..start].chars().next_back(), word.chars().next())
            && bounded(word.chars().next_back(), code[start + word.len()..].chars().next())
    })
}

/// Whether `code` names `module` of `package`, alone (`burn::train`) or in a group
/// (`burn::{.., train}`).
pub(crate) fn imports(code: &str, package: &str, module: &str) -> bool {
    let packed: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let packed = packed.replace(" ::", "::").replace(":: ", "::");
    let opening = format!("{package}::{{");
    let grouped = packed.match_indices(&opening).any(|(start, _)| {
        members(&packed[start + opening.len()..]).iter().any(|member| member == module)
    });
    grouped || has_word(&packed, &format!("{package}::{module}"))
}

/// First names of the members of a `{..}` group, from behind its brace.
fn members(group: &str) -> Vec<String> {
    let (mut names, mut name, mut depth) = (vec![], String::new(), 0);
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut name)),
            _ if depth == 0 => name.push(character),
            _ => {}
        }
    }
    names.push(name);
    let first = |name: &String| -> String {
        name.trim_start().chars().take_while(|character| is_word(*character)).collect()
    };
    names.iter().map(first).collect()
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Length of the comment or literal that `rest` starts with.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let body = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let prefix = rest.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        return raw_string(raw).map(|length| prefix + 1 + length);
    }
    match body.chars().next()? {
        '"' => Some(prefix + quoted(body, '"')),
        '\'' => character(body).map(|length| prefix + length),
        _ => None,
    }
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// From its hashes to the quote that as many hashes follow; `None` for a raw name such as `r#type`.
fn raw_string(raw: &str) -> Option<usize> {
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let text = raw[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = text.find(&closing).map_or(text.len(), |end| end + closing.len());
    Some(hashes + 1 + end)
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `None` for a lifetime, which is a quote and a name without a second quote.
fn character(rest: &str) -> Option<usize> {
    let mut characters = rest.char_indices().skip(1);
    let (_, first) = characters.next()?;
    let (at, second) = characters.next()?;
    match (first, second) {
        ('\\', _) => Some(quoted(rest, '\'')),
        (_, '\'') => Some(at + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(code_of(text), expected);
    }

    #[test]
    fn comments_and_texts_are_blanked() {
        check("a // b\nc", "a  \nc");
        check("a /* b /* c */\n d */ e", "a  \n e");
        check(r#"f("b \" c", d)"#, "f( , d)");
        check(r##"f(r#"b " c"#, br"d\", e)"##, "f( ,  , e)");
        check(r"f('a', '\'', b'\\', '…')", "f( ,  ,  ,  )");
    }

    #[test]
    fn lifetimes_and_raw_names_are_code() {
        check("fn f<'a>(x: &'a str) -> &'static str {}", "fn f<'a>(x: &'a str) -> &'static str {}");
        check("let r#type = bar; for x in b {}", "let r#type = bar; for x in b {}");
    }

    #[test]
    fn a_word_is_not_a_part_of_a_name() {
        assert!(has_word("pub unsafe fn f()", "unsafe"));
        assert!(!has_word("#[expect(unsafe_code)]", "unsafe"));
        assert!(!has_word("fn f<SubB: Backend>()", "B: Backend"));
        assert!(!has_word("fn f<B: BackendTypes>()", "B: Backend"));
    }

    #[test]
    fn an_import_is_found_in_every_spelling() {
        for code in [
            "use burn::train::Learner;",
            "let x = burn :: train::f();",
            "use burn::{\n    tensor::{Int, Tensor},\n    train::{Learner, metric::LossMetric},\n};",
            "use burn::{train};",
        ] {
            assert!(imports(code, "burn", "train"), "{code}");
        }
        for code in
            ["use burn::training;", "use burn::{module::{train}, nn};", "use longlora_train::burn;"]
        {
            assert!(!imports(code, "burn", "train"), "{code}");
        }
    }
}
