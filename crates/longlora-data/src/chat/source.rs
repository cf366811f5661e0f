//! The source of a template, as minijinja can read it.

/// What Python's Jinja reads and minijinja does not, said otherwise.
pub(super) fn readable(source: &str) -> String {
    // Lines end in `\n` for Jinja, whatever they ended in.
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    without_continued_lines(&without_generation_tags(&source))
}

/// `{% generation %}` marks what a model is trained on and changes nothing else, but Jinja does not
/// know it: it becomes a condition that always holds.
fn without_generation_tags(source: &str) -> String {
    let mut parts = source.split("{%");
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        plain += "{%";
        let tag = part.trim_start_matches(['-', '+']).trim_start();
        let before = &part[..part.len() - tag.len()];
        let (word, rest) = tag.split_at(tag.find(|c: char| !c.is_alphanumeric()).unwrap_or(0));
        plain += before;
        plain += match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            word => word,
        };
        plain += rest;
    }
    plain
}

/// In Python's strings a backslash at the end of a line takes the end of the line with it.
fn without_continued_lines(source: &str) -> String {
    if !source.contains("\\\n") {
        return source.to_owned();
    }
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = ["{{", "{%"].iter().filter_map(|tag| rest.find(tag)).min() {
        let (before, tag) = rest.split_at(start);
        plain += before;
        let end = end_of_tag(tag);
        plain += &tag[..end].replace("\\\n", "");
        rest = &tag[end..];
    }
    plain + rest
}

/// Where the tag ends that `source` begins with, strings in it left aside.
fn end_of_tag(source: &str) -> usize {
    let end = if source.starts_with("{{") { "}}" } else { "%}" };
    let mut quote = None;
    let mut escaped = false;
    for (at, char) in source.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if char == '\\' => escaped = true,
            Some(open) if char == open => quote = None,
            Some(_) => {}
            None if char == '"' || char == '\'' => quote = Some(char),
            None if source[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    source.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lines_in_strings_are_one() {
        let source = "a\\\n{{ 'one\\\ntwo }}' }}\\\n{% set x = \"\\\"\\\n\" %}";
        assert_eq!(readable(source), "a\\\n{{ 'onetwo }}' }}\\\n{% set x = \"\\\"\" %}");
    }

    #[test]
    fn tags_that_never_end_are_left_to_the_engine() {
        assert_eq!(readable("{{ 'a\\\nb"), "{{ 'ab");
    }
}
