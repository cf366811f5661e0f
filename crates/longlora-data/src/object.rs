//! What an object of a JSON file is: a text, a conversation or an instruction, by the names of its fields.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::chat::{ASSISTANT, SYSTEM, USER};
use crate::{Content, DataError, Instruction, Message, ObjectProblem, Place, Position};

/// A document and where in its file it stands, if the file may hold several that differ in kind.
pub(crate) type Placed = (Option<Position>, Content);

/// The fields that say what an object is. Data sets carry other ones, too; they are no business of ours.
#[derive(Deserialize)]
struct Fields {
    text: Option<Value>,
    messages: Option<Value>,
    conversations: Option<Value>,
    instruction: Option<Value>,
    input: Option<Value>,
    output: Option<Value>,
    system: Option<Value>,
    history: Option<Value>,
    tools: Option<Value>,
}

/// One document per line of a JSONL file.
pub(crate) fn parse_lines(path: &Path, text: &str) -> Result<Vec<Placed>, DataError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let fields = serde_json::from_str(line).map_err(|source| DataError::BadLine {
                path: path.into(),
                line: index + 1,
                source,
            })?;
            placed(path, Position::Line(index + 1), fields)
        })
        .collect()
}

/// Whether a JSON file is a list of objects, by its first two brackets.
pub(crate) fn is_list_of_objects(text: &str) -> bool {
    let mut brackets = text.chars().filter(|c| !c.is_whitespace());
    (brackets.next(), brackets.next()) == (Some('['), Some('{'))
}

/// One document per object of a JSON file that is a list of them.
pub(crate) fn parse_objects(path: &Path, text: &str) -> Result<Vec<Placed>, DataError> {
    let objects: Vec<Fields> = serde_json::from_str(text)
        .map_err(|source| DataError::BadObjects { path: path.into(), source })?;
    (1..).zip(objects).map(|(at, fields)| placed(path, Position::Object(at), fields)).collect()
}

fn placed(path: &Path, position: Position, fields: Fields) -> Result<Placed, DataError> {
    let position = Some(position);
    match content(fields) {
        Ok(content) => Ok((position, content)),
        Err(problem) => {
            Err(DataError::BadObject { place: Place { path: path.into(), position }, problem })
        }
    }
}

fn content(fields: Fields) -> Result<Content, ObjectProblem> {
    let Fields { text, messages, conversations, instruction, input, output, .. } = fields;
    let [system, history, tools] = [fields.system, fields.history, fields.tools].map(said);
    // Alpaca's own file has the whole once more as a text.
    let text = text.filter(|_| instruction.is_none() || output.is_none());
    let is_talk = text.is_none();
    for (field, value) in [("history", &history), ("tools", &tools)] {
        if is_talk && value.is_some() {
            return Err(ObjectProblem::NotSupported { field });
        }
    }
    match (text, messages, conversations, instruction) {
        (Some(text), None, None, None) => Ok(Content::Text(string("text", text)?)),
        (None, Some(messages), None, None) => conversation("messages", messages, system),
        (None, None, Some(messages), None) => conversation("conversations", messages, system),
        (None, None, None, Some(_)) if system.is_some() => {
            Err(ObjectProblem::NotSupported { field: "system" })
        }
        (None, None, None, Some(instruction)) => {
            let output = string("output", output.ok_or(ObjectProblem::NoAnswer)?)?;
            if output.trim().is_empty() {
                return Err(ObjectProblem::EmptyOutput);
            }
            let instruction = string("instruction", instruction)?;
            let input = input.map_or(Ok(String::new()), |input| string("input", input))?;
            Ok(Content::Instruction(Instruction { instruction, input, output }))
        }
        (None, None, None, None) => Err(ObjectProblem::Unknown),
        _ => Err(ObjectProblem::Ambiguous),
    }
}

/// A field that says something.
fn said(field: Option<Value>) -> Option<Value> {
    field.filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(values) => !values.is_empty(),
        _ => true,
    })
}

fn string(field: &'static str, value: Value) -> Result<String, ObjectProblem> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(ObjectProblem::NotText { field }),
    }
}

/// `system` is what ShareGPT's objects have beside their messages.
fn conversation(
    field: &'static str,
    messages: Value,
    system: Option<Value>,
) -> Result<Content, ObjectProblem> {
    let Value::Array(messages) = messages else { return Err(ObjectProblem::NotMessages { field }) };
    let messages = (1..).zip(messages).map(|(number, value)| message(number, value));
    let mut messages = messages.collect::<Result<Vec<Message>, _>>()?;
    if let Some(system) = system
        && messages.first().is_some_and(|message| message.role != SYSTEM)
    {
        messages.insert(0, Message::new(SYSTEM, string("system", system)?));
    }
    let first = |role: &str| messages.iter().position(|message| message.role == role);
    match (first(USER), first(ASSISTANT)) {
        (_, None) => return Err(ObjectProblem::NoAnswer),
        (None, Some(_)) => return Err(ObjectProblem::NoQuestion),
        (Some(question), Some(answer)) if answer < question => {
            return Err(ObjectProblem::NoQuestion);
        }
        _ => {}
    }
    let is_empty =
        |message: &Message| message.role == ASSISTANT && message.content.trim().is_empty();
    match messages.iter().position(is_empty) {
        Some(index) => Err(ObjectProblem::EmptyAnswer { number: index + 1 }),
        None => Ok(Content::Conversation(messages)),
    }
}

/// OpenAI's names of the fields or ShareGPT's.
fn message(number: usize, value: Value) -> Result<Message, ObjectProblem> {
    let Value::Object(mut fields) = value else {
        return Err(ObjectProblem::NotAMessage { number });
    };
    let speaker = taken(&mut fields, ["role", "from"]);
    let said = taken(&mut fields, ["content", "value"]);
    let (Some(speaker), Some(content)) = (speaker, said) else {
        return Err(ObjectProblem::NotAMessage { number });
    };
    let role = match speaker.as_str() {
        "system" => SYSTEM,
        "user" | "human" => USER,
        "assistant" | "gpt" => ASSISTANT,
        _ => return Err(ObjectProblem::UnknownRole { number, role: speaker }),
    };
    // OpenAI's mark of an answer that is read and not learned.
    let weight = fields.get("weight").and_then(Value::as_f64);
    if role == ASSISTANT && weight == Some(0.0) {
        return Err(ObjectProblem::NotToLearn { number });
    }
    Ok(Message::new(role, content))
}

/// The text of the field that is there.
fn taken(fields: &mut Map<String, Value>, names: [&str; 2]) -> Option<String> {
    match names.into_iter().find_map(|name| fields.remove(name))? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectProblem::{NotSupported, NotToLearn};

    fn parsed(line: &str) -> Result<Vec<Placed>, DataError> {
        parse_lines(Path::new("a.jsonl"), line)
    }

    #[track_caller]
    fn check(line: &str, expected: Content) {
        assert_eq!(parsed(line).unwrap(), [(Some(Position::Line(1)), expected)], "{line}");
    }

    /// One sentence with the file, the line and what is wrong.
    #[track_caller]
    fn check_problem(line: &str, expected: ObjectProblem, parts: &[&str]) {
        let error = parsed(&format!("\n{line}\n")).unwrap_err();
        let said = error.to_string();
        for part in ["`a.jsonl` line `2` has"].iter().chain(parts) {
            assert!(said.contains(part), "`{said}` does not say `{part}`");
        }
        assert!(!said.ends_with('.') && !said.contains('\n'), "no sentence: {said}");
        match error {
            DataError::BadObject { problem, .. } => assert_eq!(problem, expected),
            other => panic!("another error: {other:?}"),
        }
    }

    fn talk() -> Content {
        let said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo")];
        Content::Conversation(said.map(|(role, said)| Message::new(role, said)).to_vec())
    }

    #[test]
    fn an_object_is_known_by_its_fields() {
        check(r#"{"text": "a", "input": 7, "messages": null}"#, Content::Text("a".into()));
        check(
            r#"{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Yo", "weight": 1}], "id": 7}"#
                .replace('\n', " ")
                .as_str(),
            talk(),
        );
        check(
            r#"{"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Yo"}]}"#
                .replace('\n', " ")
                .as_str(),
            talk(),
        );
        let of = |input: &str| {
            let [instruction, input, output] = ["Add.", input, "3"].map(str::to_owned);
            Content::Instruction(Instruction { instruction, input, output })
        };
        check(r#"{"instruction": "Add.", "output": "3", "file": "a.pdf"}"#, of(""));
        check(r#"{"instruction": "Add.", "input": "1, 2", "output": "3"}"#, of("1, 2"));
    }

    #[test]
    fn the_roles_of_both_conventions_are_known_under_both_names() {
        for (user, assistant) in [("user", "assistant"), ("human", "gpt")] {
            for (field, who, what) in
                [("messages", "role", "content"), ("conversations", "from", "value")]
            {
                let said = |role: &str, text: &str| {
                    format!(r#"{{"{who}": "{role}", "{what}": "{text}"}}"#)
                };
                let messages =
                    [said("system", "Be brief."), said(user, "Hi"), said(assistant, "Yo")];
                check(&format!(r#"{{"{field}": [{}]}}"#, messages.join(", ")), talk());
            }
        }
    }

    #[test]
    fn a_list_of_objects_is_read_as_its_lines_would_be() {
        let text = " [\n {\"text\": \"a\"},\n {\"instruction\": \"b\", \"output\": \"c\"}]";
        assert!(is_list_of_objects(text));
        assert!(!is_list_of_objects("[[1], [2]]") && !is_list_of_objects("{\"ids\": [1]}"));
        let objects = parse_objects(Path::new("a.json"), text).unwrap();
        let lines =
            parsed("{\"text\": \"a\"}\n{\"instruction\": \"b\", \"output\": \"c\"}").unwrap();
        let contents = |placed: &[Placed]| placed.iter().map(|it| it.1.clone()).collect::<Vec<_>>();
        assert_eq!(contents(&objects), contents(&lines));
        assert_eq!(objects[1].0, Some(Position::Object(2)));

        let check = |text: &str, parts: &[&str]| {
            let error = parse_objects(Path::new("a.json"), text).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        check(
            "[{\"text\": \"a\"}, {\"txt\": \"b\"}]",
            &["`a.json` object `2` has none", "`messages`"],
        );
        check("[{\"text\": \"a\"}, 3]", &["`a.json`", "list of JSON objects"]);
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_line() {
        use ObjectProblem::*;
        check_problem(
            r#"{"prompt": "a"}"#,
            Unknown,
            &["`text`", "`messages`", "`conversations`", "`instruction` with `output`"],
        );
        check_problem(r#"{"text": "a", "messages": []}"#, Ambiguous, &["more than one"]);
        check_problem(r#"{"text": 7}"#, NotText { field: "text" }, &["`text`", "a string"]);
        check_problem(
            r#"{"instruction": "a", "input": [], "output": "b"}"#,
            NotText { field: "input" },
            &["`input`"],
        );
        check_problem(
            r#"{"conversations": "a"}"#,
            NotMessages { field: "conversations" },
            &["`conversations`", "\"role\""],
        );
        let messages = |messages: &str| format!(r#"{{"messages": [{messages}]}}"#);
        let user = r#"{"role": "user", "content": "a"}"#;
        for other in
            [r#""a""#, r#"{"content": "a"}"#, r#"{"role": "user", "content": [{"type": "text"}]}"#]
        {
            let number = 2;
            let line = messages(&format!("{user}, {other}"));
            check_problem(&line, NotAMessage { number }, &["message `2`", "\"from\""]);
        }
        check_problem(
            &messages(&format!(r#"{user}, {{"role": "tool", "content": "b"}}"#)),
            UnknownRole { number: 2, role: "tool".into() },
            &["message `2`", "`tool`", "`assistant`", "`gpt`"],
        );
    }

    #[test]
    fn what_changes_a_conversation_is_read_or_refused() {
        let turns = r#"[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]"#;
        check(
            &format!(r#"{{"system": "Be brief.", "tools": "", "conversations": {turns}}}"#),
            talk(),
        );
        let alpaca = r#""instruction": "a", "output": "b""#;
        let (instruction, output) = ("a".to_owned(), "b".to_owned());
        let expected = Instruction { instruction, input: String::new(), output };
        check(
            &format!(r#"{{{alpaca}, "history": [], "text": "a b"}}"#),
            Content::Instruction(expected),
        );
        for (field, line) in [
            ("history", format!(r#"{{{alpaca}, "history": [["c", "d"]]}}"#)),
            ("system", format!(r#"{{{alpaca}, "system": "c"}}"#)),
            ("tools", format!(r#"{{"conversations": {turns}, "tools": "[{{}}]"}}"#)),
        ] {
            check_problem(&line, NotSupported { field }, &[&format!("`{field}`")]);
        }
        let answer = r#"{"role": "assistant", "content": "Yo", "weight": 0}"#;
        let line = format!(r#"{{"messages": [{{"role": "user", "content": "Hi"}}, {answer}]}}"#);
        check_problem(&line, NotToLearn { number: 2 }, &["weight 0", "message `2`"]);
    }

    #[test]
    fn a_conversation_has_a_question_and_an_answer_that_says_something() {
        use ObjectProblem::*;
        let said = |said: &[(&str, &str)]| {
            let one = |(role, text): &(&str, &str)| {
                format!(r#"{{"role": "{role}", "content": "{text}"}}"#)
            };
            let all: Vec<String> = said.iter().map(one).collect();
            format!(r#"{{"messages": [{}]}}"#, all.join(", "))
        };
        check_problem(&said(&[]), NoAnswer, &["no answer"]);
        check_problem(&said(&[("user", "a")]), NoAnswer, &["no answer"]);
        check_problem(
            &said(&[("assistant", "a"), ("user", "b")]),
            NoQuestion,
            &["before any question"],
        );
        check_problem(
            &said(&[("system", "a"), ("assistant", "b")]),
            NoQuestion,
            &["before any question"],
        );
        let empty = said(&[("user", "a"), ("assistant", " ")]);
        check_problem(&empty, EmptyAnswer { number: 2 }, &["empty answer", "message `2`"]);
        check_problem(r#"{"instruction": "a"}"#, NoAnswer, &["no answer"]);
        check_problem(r#"{"instruction": "a", "output": ""}"#, EmptyOutput, &["empty `output`"]);
    }

    #[test]
    fn a_line_that_is_no_object_says_what_the_parser_said() {
        use std::error::Error;
        for line in ["{\"text\": ", "7", "\"a\""] {
            let error = parsed(line).unwrap_err();
            assert!(error.to_string().contains("`a.jsonl` line `1`"), "{error}");
            assert!(error.source().is_some());
        }
    }
}
