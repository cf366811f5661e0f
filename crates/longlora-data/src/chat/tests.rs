use std::collections::HashMap;
use std::fs;
use std::time::{Instant, UNIX_EPOCH};

use super::*;
use crate::train_byte_level_bpe;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/chat_templates");

fn template(source: &str) -> Result<ChatTemplate, DataError> {
    let tokens = [("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())];
    ChatTemplate::new("some/tokenizer_config.json".into(), source, tokens.into())
}

fn hello() -> Vec<Message> {
    vec![Message::new("user", "Hello <b>& \"you\"</b>"), Message::new("assistant", "Hi")]
}

#[track_caller]
fn check(source: &str, expected: &str) {
    let rendered = template(source).unwrap().render(&hello(), true);
    assert_eq!(rendered.unwrap(), expected, "{source}");
}

/// Against transformers 4.57.1 and Jinja 3.1.6, for templates of published models.
#[test]
fn published_templates_render_as_in_transformers() {
    #[derive(Deserialize)]
    struct Expected {
        chats: HashMap<String, Vec<Message>>,
        templates: Vec<Template>,
    }
    #[derive(Deserialize)]
    struct Template {
        template: String,
        bos_token: Option<String>,
        eos_token: Option<String>,
        renderings: Vec<Rendering>,
    }
    #[derive(Deserialize)]
    struct Rendering {
        chat: String,
        add_generation_prompt: bool,
        #[serde(flatten)]
        outcome: Outcome,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Outcome {
        Text(String),
        Refused(String),
        Fails(String),
    }
    let golden = Path::new(GOLDEN);
    let expected = fs::read(golden.join("expected.json")).unwrap();
    let Expected { chats, templates } = serde_json::from_slice(&expected).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(1_721_995_200); // 2024-07-26

    for Template { template, bos_token, eos_token, renderings } in templates {
        let path = golden.join(format!("{template}.jinja"));
        let source = fs::read_to_string(&path).unwrap();
        let tokens = [("bos_token", bos_token), ("eos_token", eos_token)];
        let tokens = tokens.into_iter().filter_map(|(name, token)| Some((name.into(), token?)));
        let ours = ChatTemplate::new(path, &source, tokens.collect()).unwrap();
        for Rendering { chat, add_generation_prompt, outcome } in renderings {
            let rendered = ours.render_by(&chats[&chat], add_generation_prompt, now, DEADLINE);
            match (rendered, outcome) {
                (Ok(ours), Outcome::Text(theirs)) => {
                    assert_eq!(ours, theirs, "{template}, {chat}");
                }
                (Err(DataError::ChatRefused { message, .. }), Outcome::Refused(theirs)) => {
                    assert_eq!(message, theirs, "{template}, {chat}");
                }
                (Err(DataError::BadChatTemplate { .. }), Outcome::Fails(_)) => {}
                (
                    ours,
                    Outcome::Text(theirs) | Outcome::Refused(theirs) | Outcome::Fails(theirs),
                ) => {
                    panic!("{template}, {chat}: {ours:?} and not {theirs:?}");
                }
            }
        }
    }
}

#[test]
fn what_transformers_gives_a_template_is_there() {
    check("{{ bos_token }}{{ eos_token }}{{ pad_token }}", "<s></s>");
    check("{{ messages[0]['content'] | tojson }}", r#""Hello <b>& \"you\"</b>""#);
    check("{{ {'a': ['ü', 1, 2.5, none, true]} | tojson }}", r#"{"a": ["ü", 1, 2.5, null, true]}"#);
    check(
        "{{ {'a': [1], 'b': {}} | tojson(indent=2) }}",
        "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}",
    );
    check(
        "{{ tools is none }} {{ documents is none }} {{ nothing is defined }}",
        "True True False",
    );
    check("{{ messages[::-1][0].content }}{{ messages[1:] | length }}", "Hi1");
    check("{{ ' x '.strip().upper() + 'a-b'.split('-')[-1] }}", "Xb");
    check(
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "user",
    );
    check("{% generation %}{{ messages[0].role }}{%- endgeneration -%} .", "user.");
    check("line\r\nline\n", "line\nline");
    check("  {% if true %}\n  x\n  {% endif %}\n", "  x\n");
}

/// As templates of Qwen3-Coder and Nemotron ask.
#[test]
fn nothing_is_not_iterable() {
    check(
        "{{ tools is iterable }} {{ messages is iterable }} {{ 'a' is iterable }}",
        "False True True",
    );
    check(
        "{% if tools is iterable and tools | length > 0 %}tools{% else %}none{% endif %}",
        "none",
    );
}

#[test]
fn a_template_is_told_more_than_the_conversation() {
    let source = "{% if enable_thinking %}think{% else %}{{ bos_token }}{{ depth + 1 }}{% endif %}";
    let told = |arguments: Json| {
        let arguments = arguments.as_object().unwrap().clone();
        template(source).unwrap().with_arguments(arguments).render(&hello(), true).unwrap()
    };
    assert_eq!(told(serde_json::json!({ "enable_thinking": true })), "think");
    assert_eq!(told(serde_json::json!({ "enable_thinking": false, "depth": 2 })), "<s>3");
    assert_eq!(told(serde_json::json!({ "bos_token": "<b>", "depth": 0 })), "<b>1");
}

/// LLaMA-2 writes a space before an answer, ChatML does not.
#[test]
fn an_unfinished_answer_ends_with_its_last_word() {
    let unfinished = |source: &str| template(source).unwrap().render_unfinished(&hello()).unwrap();
    let llama_2 = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
                   {% else %} {{ m.content }} </s>{% endif %}{% endfor %}";
    let expected = "[INST] Hello <b>& \"you\"</b> [/INST] Hi";
    assert_eq!(unfinished(llama_2).as_deref(), Some(expected));
    assert_eq!(unfinished("{{ messages[1].content }}, {{ 'nothing' }}").as_deref(), Some("Hi"));
    assert_eq!(unfinished("{{ messages[0].content }}"), None);
}

#[test]
fn what_is_learned_from_is_written_on_the_same_day_always() {
    let dated = template("{{ strftime_now('%d %b %Y') }}").unwrap();
    assert_eq!(dated.render_undated(&hello(), false).unwrap(), "26 Jul 2024");
}

#[test]
fn the_template_is_found_where_transformers_looks() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    train_byte_level_bpe(["the cat"].into_iter(), 258)
        .and_then(|tokenizer| tokenizer.save(&folder.path().join("tokenizer.json")))
        .unwrap();
    let tokenizer = Tokenizer::read(folder.path()).unwrap();
    let read = || ChatTemplate::read(folder.path(), &tokenizer);
    let rendered = || read().unwrap().unwrap().render(&hello(), false).unwrap();
    assert!(read().unwrap().is_none());

    write("tokenizer_config.json", r#"{"chat_template": "one {{ eos_token }}"}"#);
    assert_eq!(rendered(), "one </s>", "the token is the tokenizer's, the configuration has none");
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "rag", "template": "no"}, {"name": "default",
            "template": "listed {{ pad_token }}"}], "pad_token": {"content": "<pad>"}}"#,
    );
    assert_eq!(rendered(), "listed <pad>");
    write("chat_template.jinja", "a file");
    assert_eq!(rendered(), "a file");
    let json = folder.path().join("tokenizer.json");
    assert!(ChatTemplate::read(&json, &tokenizer).unwrap().is_some());
}

#[test]
fn a_rendered_chat_is_encoded_without_a_second_beginning() {
    let tokenizer = train_byte_level_bpe(["the cat"].into_iter(), 258).unwrap();
    let chat = template("{{ bos_token }}{{ messages[1].content }}").unwrap();
    let text = chat.render(&hello(), false).unwrap();

    let ids = tokenizer.encode_rendered(&text).unwrap();

    assert_eq!(ids, tokenizer.encode("Hi").unwrap());
    assert_eq!(ids[0], 0);
}

#[test]
fn errors_name_the_file_and_what_the_template_says() {
    let refused = template("{{ raise_exception('be polite, ' + messages[0].role) }}").unwrap();
    let error = refused.render(&hello(), true).unwrap_err().to_string();
    assert!(error.contains("some/tokenizer_config.json"), "{error}");
    assert!(error.contains("be polite, user"), "{error}");

    let in_a_macro = "{% macro no() %}{{ raise_exception('no') }}{% endmacro %}{{ no() }}";
    let error = template(in_a_macro).unwrap().render(&hello(), true).unwrap_err();
    assert!(
        matches!(&error, DataError::ChatRefused { message, .. } if message == "no"),
        "{error:?}"
    );

    let unclosed = template("{% if messages %}").unwrap_err();
    assert!(unclosed.to_string().contains("some/tokenizer_config.json"), "{unclosed}");
    assert!(unclosed.source().is_some());
}

/// Each would take minutes, gigabytes or the stack if it were let.
#[test]
fn a_template_that_wants_too_much_is_an_error() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let endless = [
        loops,
        "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{{ 'abcdefgh' * 1000000000 }}",
    ];
    for source in endless {
        let start = Instant::now();
        let error = template(source).unwrap().render(&hello(), true).unwrap_err();
        assert!(matches!(error, DataError::EndlessChatTemplate { .. }), "{source}: {error:?}");
        assert!(start.elapsed() < Duration::from_secs(20), "{source}");
    }
    let beyond = [
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}\
         {{ ns.l | tojson }}",
        "{% include '/etc/passwd' %}",
        "{{ strftime_now('%Q') }}",
        "{{ debug() }}",
        "{{ '{:>9000000000}'.format(1) }}",
        "{{ '%9000000000d' | format(1) }}",
        "{{ 'a' | indent(9000000000) }}",
        "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
        "{{ range(99999) | map('string') | join('b' * 100000) }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(99000) %}{% set ns.l = [ns.l] %}{% endfor %}\
         {{ ns.l | string | length }}{{ raise_exception('done') }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(99000) %}{% set ns.l = [ns.l] %}{% endfor %}\
         {{ ns.l }}{{ raise_exception('done') }}",
    ];
    for source in beyond {
        assert!(template(source).unwrap().render(&hello(), true).is_err(), "{source}");
    }
    assert!(template(&"{{ (".repeat(10_000)).is_err());
}

/// Without a bracket there is no limit to nesting, and the stack of a program ends at some
/// ten thousand.
#[test]
fn a_template_of_signs_and_dots_does_not_exhaust_the_stack() {
    let whole = LONGEST_TEMPLATE - 100;
    let nested = [("-", 8000), ("+a", 8000), (".a", whole), ("|string", whole), (" is a", whole)];
    for (nested, bytes) in nested {
        let many = nested.repeat(bytes / nested.len());
        let a = if nested == "-" { format!("{many}a") } else { format!("a{many}") };
        assert!(template(&format!("{{{{ {a} }}}}")).is_ok(), "{nested}");
    }
    let many = "{% elif a %}".repeat(whole / 12);
    assert!(template(&format!("{{% if a %}}{many}{{% endif %}}")).is_ok());
    let error = template(&" ".repeat(LONGEST_TEMPLATE + 1)).unwrap_err();
    assert!(matches!(error, DataError::LongChatTemplate { .. }), "{error:?}");
    assert!(error.to_string().contains("some/tokenizer_config.json"), "{error}");
}

/// The engine writes out 2^40 brackets here and counts them afterwards.
#[test]
fn a_template_that_is_late_is_an_error() {
    let source = "{% set ns = namespace(l=[1]) %}{% for i in range(40) %}\
                  {% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | string | length }}";
    let short = Duration::from_millis(200);
    let late = template(source).unwrap().render_by(&hello(), true, UNIX_EPOCH, short);
    assert!(matches!(late, Err(DataError::EndlessChatTemplate { .. })), "{late:?}");
}

#[test]
fn a_long_conversation_is_not_too_much() {
    let source = fs::read_to_string(Path::new(GOLDEN).join("qwen3.jinja")).unwrap();
    let turns = (0..2000).map(|turn| {
        let role = ["user", "assistant"][turn % 2];
        Message::new(role, "<think>so</think> ".to_string() + &"a long answer ".repeat(50))
    });
    let messages: Vec<_> = turns.collect();
    assert!(template(&source).unwrap().render(&messages, true).unwrap().len() > 1_000_000);
}
