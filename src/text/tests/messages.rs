//! Conversations as clients send them, against what transformers makes of them.

use serde_json::{json, Value};

use super::{read, read_object, shared};
use crate::error::{Code, Error, Result};
use crate::template::{Json, Now, Object};
use crate::text::tokenizer::Origin;
use crate::text::{continued_text, left_out, ChatTemplate, Message, Piece, TemplateOptions};

fn clock() -> Now {
    // 2025-07-01T12:34:56
    Now::from_unix(1_751_373_296, 0)
}

fn template(source: &str, config: &Value) -> ChatTemplate {
    super::chat_template::find(Some(source), config.clone())
        .unwrap()
        .unwrap()
}

fn text(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}

fn field<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Json::as_text).unwrap()
}

fn list<'a>(object: &'a Object, key: &str) -> Vec<&'a Object> {
    let Some(Json::List(items)) = object.get(key) else {
        panic!("{key} is no list");
    };
    let objects = items.iter().map(|item| match item {
        Json::Object(object) => object,
        other => panic!("{other:?}"),
    });
    objects.collect()
}

fn object(json: Json) -> Object {
    match json {
        Json::Object(object) => object,
        other => panic!("{other:?}"),
    }
}

/// Through the parser, as they come.
fn messages(json: &Json) -> Result<Vec<Message>> {
    Message::parse_list(crate::text::pyjson::to_string(json).as_bytes())
}

/// Renders `source` with messages alone.
fn prompt(source: &str, list: Value) -> Result<String> {
    let options = TemplateOptions::default();
    let messages = messages(&read(&list))?;
    let pieces = template(source, &json!({})).render(&messages, options, &clock)?;
    Ok(text(&pieces))
}

/// Renders `source` with the last message going on.
fn continued(source: &str, list: Value) -> Result<(String, String)> {
    let options = TemplateOptions {
        continue_last: true,
        ..TemplateOptions::default()
    };
    let messages = messages(&read(&list))?;
    let pieces = template(source, &json!({})).render(&messages, options, &clock)?;
    Ok((text(&pieces), continued_text(&messages, &pieces)))
}

const CHATML: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";

/// The project's examples of what clients send, with what transformers makes of them.
#[test]
fn messages_of_the_field_are_rendered_as_transformers_does() {
    let Some(folder) = shared("field") else {
        return;
    };
    let file = std::fs::read(folder.join("messages.json")).unwrap();
    let file = object(Json::parse(&file).unwrap());
    let cases = list(&file, "cases");
    for case in &cases {
        let mut args = match case.get("arguments") {
            Some(Json::Object(args)) => args.clone(),
            _ => Object::default(),
        };
        let go_on = args.get("continue_final_message").is_some();
        let tools = args.get("tools").cloned();
        for own in ["continue_final_message", "tools"] {
            args.set(own, Json::Null);
        }
        args.retain(|value| *value != Json::Null);
        let options = TemplateOptions {
            tools: tools.as_ref(),
            args: Some(&args),
            continue_last: go_on,
            ..TemplateOptions::default()
        };
        let name = field(case, "name");
        let got = messages(case.get("messages").unwrap())
            .and_then(|list| {
                template(field(case, "template"), &json!({})).render(&list, options, &clock)
            })
            .map(|pieces| text(&pieces));
        match case.get("text") {
            Some(Json::Text(text)) => assert_eq!(got.unwrap(), *text, "{name}"),
            _ => assert!(got.is_err(), "{name}: {got:?}"),
        }
    }
    assert!(cases.len() >= 20, "{}", cases.len());
}

/// `tests/template/messages.py` writes the cases: its own templates here, others where MLXRT_MESSAGES names their file.
#[test]
fn conversations_are_rendered_as_transformers_does() {
    let own = include_str!("../../../tests/template/messages.json");
    compare(own.as_bytes());
    if let Some(file) = std::env::var_os("MLXRT_MESSAGES") {
        compare(&std::fs::read(file).unwrap());
    }
}

fn compare(file: &[u8]) {
    let file = object(Json::parse(file).unwrap());
    let variables: Value = serde_json::from_str(&crate::text::pyjson::to_string(
        file.get("variables").unwrap(),
    ))
    .unwrap();
    let shapes = list(&file, "shapes");
    let (mut cases, mut wrong) = (0, Vec::new());
    for entry in list(&file, "templates") {
        let template = template(field(entry, "source"), &variables);
        let Some(Json::List(prompts)) = entry.get("prompts") else {
            panic!("no prompts");
        };
        assert_eq!(prompts.len(), shapes.len());
        for (shape, wanted) in shapes.iter().zip(prompts) {
            let go_on = shape.get("go_on").is_some();
            let args = match shape.get("args") {
                Some(Json::Object(args)) => Some(args),
                _ => None,
            };
            let options = TemplateOptions {
                tools: shape.get("tools"),
                args,
                add_generation_prompt: !go_on,
                continue_last: go_on,
            };
            let got = messages(shape.get("messages").unwrap())
                .and_then(|list| template.render(&list, options, &clock))
                .map(|pieces| text(&pieces));
            cases += 1;
            let same = match wanted {
                Json::Text(text) => got.as_ref().ok() == Some(text),
                _ => got.is_err(),
            };
            if !same {
                let name = field(entry, "name");
                let shape = field(shape, "shape");
                wrong.push(format!("{name}, {shape}:\n  {got:?}\n  {wanted:?}"));
            }
        }
    }
    eprintln!("{cases} conversations compared");
    let shown: Vec<&String> = wrong.iter().take(40).collect();
    assert!(
        wrong.is_empty(),
        "{} of {cases} differ: {shown:#?}",
        wrong.len()
    );
}

#[test]
fn null_keys_are_gone_before_a_template_sees_a_message() {
    let source = "{% for m in messages %}{{ m.keys() | list }}{% endfor %}";
    let list = json!([{"role": "user", "content": null, "name": null},
        {"role": "assistant", "content": "a", "tool_calls": null, "x": {"y": null}}]);
    assert_eq!(
        prompt(source, list).unwrap(),
        "['role']['role', 'content', 'x']"
    );
}

#[test]
fn arguments_that_are_the_text_of_an_object_become_it() {
    let source = "{{ messages[0].tool_calls[0].function.arguments }}";
    for (arguments, wanted) in [
        (
            json!(" {\"a\": [1], \"b\": 123456789012345678901234}\n"),
            "{'a': [1], 'b': 123456789012345678901234}",
        ),
        (json!("{\"a\": 1"), "{\"a\": 1"),
        (json!("[1]"), "[1]"),
        (json!(""), ""),
        (json!({"a": "{}"}), "{'a': '{}'}"),
        (json!(null), "None"),
    ] {
        let list = json!([{"role": "assistant", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": arguments}}]}]);
        assert_eq!(prompt(source, list).unwrap(), wanted);
    }
    // What the assistant wrote stays the assistant's.
    let list = read(&json!([{"role": "assistant", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": "{\"k\": \"v\"}"}}]}]));
    let source = "{% for k, v in messages[0].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}";
    let pieces = template(source, &json!({}));
    let pieces = pieces
        .render(
            &messages(&list).unwrap(),
            TemplateOptions::default(),
            &clock,
        )
        .unwrap();
    let wanted = [
        ("k", Origin::Assistant),
        ("=", Origin::Template),
        ("v", Origin::Assistant),
    ];
    assert_eq!(
        pieces,
        wanted.map(|(text, origin)| Piece::new(text, origin))
    );
}

#[test]
fn reasoning_is_there_by_every_name_a_template_knows() {
    let source = "{% for m in messages %}{{ m }}{% endfor %}";
    for (message, wanted) in [
        (
            json!({"role": "assistant", "reasoning": "r"}),
            "{'thinking': 'r', 'role': 'assistant', 'reasoning': 'r', 'reasoning_content': 'r'}",
        ),
        (
            json!({"role": "assistant", "thinking": "t"}),
            "{'thinking': 't', 'role': 'assistant', 'reasoning_content': 't'}",
        ),
        (
            json!({"reasoning_content": "c", "role": "assistant"}),
            "{'thinking': 'c', 'reasoning_content': 'c', 'role': 'assistant'}",
        ),
        (
            json!({"role": "assistant", "reasoning": "r", "thinking": "t"}),
            "{'thinking': 't', 'role': 'assistant', 'reasoning': 'r', 'reasoning_content': 't'}",
        ),
        (
            json!({"role": "assistant", "reasoning": "r", "thinking": null}),
            "{'thinking': 'r', 'role': 'assistant', 'reasoning': 'r', 'reasoning_content': 'r'}",
        ),
    ] {
        assert_eq!(prompt(source, json!([message])).unwrap(), wanted);
    }
}

#[test]
fn tools_and_documents_that_nobody_gave_are_none() {
    let source = "{{ tools }}{{ documents }}{{ other is defined }}";
    let hi = messages(&read(&json!([{"role": "user", "content": "Hi"}]))).unwrap();
    let go = |tools: Option<Value>, args: Value| {
        let (tools, args) = (tools.as_ref().map(read), read_object(&args));
        let options = TemplateOptions {
            tools: tools.as_ref(),
            args: Some(&args),
            ..TemplateOptions::default()
        };
        text(
            &template(source, &json!({}))
                .render(&hi, options, &clock)
                .unwrap(),
        )
    };
    assert_eq!(go(None, json!({})), "NoneNoneFalse");
    assert_eq!(
        go(Some(json!(null)), json!({"documents": null})),
        "NoneNoneFalse"
    );
    assert_eq!(
        go(
            Some(json!([])),
            json!({"documents": [{"text": "d"}], "other": 1})
        ),
        "[][{'text': 'd'}]True"
    );
}

#[test]
fn what_is_no_text_is_passed_on_where_a_template_can_take_it() {
    let source = "{% for m in messages %}{{ m.content is defined }} {{ m.content }};{% endfor %}";
    let list = json!([{"role": "assistant", "content": null}, {"role": "tool", "content": null},
        {"role": "tool", "content": {"a": 1}}, {"role": "tool", "content": [1, "x"]}, {"role": "tool", "content": [{"type": "file", "path": "p"}]},
        {"role": "ipython", "content": 3.0}, {"role": "tool"}]);
    assert_eq!(
        prompt(source, list).unwrap(),
        "False ;False ;True {'a': 1};True [1, 'x'];True [{'type': 'file', 'path': 'p'}];True 3.0;False ;"
    );
}

/// Parts for a template that reads them, role by role; the joined text for others.
#[test]
fn parts_reach_the_templates_that_read_them() {
    let parts = json!([{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]);
    let of =
        |role: &str| json!([{"role": "user", "content": "x"}, {"role": role, "content": parts}]);
    let reads = "{% for m in messages %}{% if m.content is string %}S {{ m.content }}{% else %}\
        {% for p in m.content %}[{{ p.text | trim }}]{% endfor %}{% endif %};{% endfor %}";
    let users = "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}\
        {{ m.content | map(attribute='text') | join('+') }}{% else %}{{ m.content }}{% endif %};{% endfor %}";
    for (source, role, wanted) in [
        (reads, "user", "S x;[a][b];"),
        (reads, "assistant", "S x;[a][b];"),
        (reads, "tool", "S x;[a][b];"),
        (reads, "narrator", "S x;[a][b];"),
        (users, "user", "x; a +b;"),
        (users, "assistant", "x; a b;"),
        (users, "tool", "x; a b;"),
        (
            "{% for m in messages %}{{ m.content }};{% endfor %}",
            "user",
            "x; a b;",
        ),
        // Printing the list is not reading it.
        (
            "{% for m in messages %}{{ m.content | tojson }};{% endfor %}",
            "user",
            "\"x\";\" a b\";",
        ),
        (
            "{% for m in messages %}{{ m.content[0] }};{% endfor %}",
            "user",
            "x; ;",
        ),
    ] {
        assert_eq!(
            prompt(source, of(role)).unwrap(),
            wanted,
            "{source}, {role}"
        );
    }
}

/// Parts that are no text go to templates that speak of them, and are never dropped or guessed at.
#[test]
fn other_parts_are_passed_on_or_refused_by_name() {
    let knows = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}\
        {% if p.type == 'thinking' %}<{{ p.thinking }}>{% elif p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}";
    let list = |kind: &str| {
        json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": [
            {"type": kind, "thinking": "t"}, {"type": "text", "text": "a"}]}])
    };
    assert_eq!(prompt(knows, list("thinking")).unwrap(), "x<t>a");
    for (source, kind) in [
        (knows, "reasoning"),
        (knows, "image_url"),
        (CHATML, "thinking"),
    ] {
        let error = prompt(source, list(kind)).unwrap_err();
        assert_eq!(error.code, Code::Unsupported, "{error}");
        let wanted = format!("messages[1].content[0].type {kind:?} is not supported");
        assert!(error.message.starts_with(&wanted), "{error}");
    }
}

#[test]
fn a_continued_answer_is_cut_where_it_ends() {
    let of = |answer: Value| json!([{"role": "user", "content": "hello"}, {"role": "assistant", "content": answer}]);
    let start = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";
    for answer in [
        "i",
        "end",
        "hello",
        "im_end",
        "so ",
        " so \n",
        "",
        " \n",
        "a\n\nb",
        "<|im_end|>",
        "MLXRT_END_",
    ] {
        let (prompt, kept) = continued(CHATML, of(json!(answer))).unwrap();
        assert_eq!(
            (prompt, kept.as_str()),
            (format!("{start}{answer}"), answer)
        );
    }
    // A template that trims has the last word on white space.
    let trims = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}";
    for (answer, wanted, kept) in [
        (" so \n", "user: hello\nassistant: so", "so"),
        (" so", "user: hello\nassistant: so", "so"),
        ("", "user: hello\nassistant:", ""),
        ("\n ", "user: hello\nassistant:", ""),
    ] {
        let got = continued(trims, of(json!(answer))).unwrap();
        assert_eq!(got, (wanted.to_owned(), kept.to_owned()));
    }
    let parts = json!([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]);
    let reads = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
        {% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %};{% endfor %}";
    assert_eq!(
        continued(reads, of(parts.clone())).unwrap().0,
        "hello;[one ][two"
    );
    let (prompt, kept) = continued(CHATML, of(parts)).unwrap();
    assert_eq!(
        (prompt, kept.as_str()),
        (format!("{start}one two"), "one two")
    );
    // No parts are an empty text, for a template that takes text.
    assert_eq!(continued(CHATML, of(json!([]))).unwrap().0, start);
}

#[test]
fn what_cannot_be_continued_says_why() {
    let of = |role: &str, answer: Value| json!([{"role": "user", "content": "a"}, {"role": role, "content": answer}]);
    let shouts = "{% for m in messages %}{{ m.content | upper }}{% endfor %}";
    let twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}";
    let reads = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}\
        {% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}";
    let drops = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
    for (source, list, code, part) in [
        (
            CHATML,
            of("user", json!("b")),
            Code::InvalidArgument,
            "must be the assistant's",
        ),
        (
            CHATML,
            of("assistant", json!(null)),
            Code::InvalidArgument,
            "has no content",
        ),
        (
            reads,
            of("assistant", json!([])),
            Code::InvalidArgument,
            "has no content",
        ),
        (
            shouts,
            of("assistant", json!("b")),
            Code::Unsupported,
            "alters the last message",
        ),
        (
            drops,
            of("assistant", json!("b")),
            Code::Unsupported,
            "alters the last message",
        ),
        (
            twice,
            of("assistant", json!("b")),
            Code::Unsupported,
            "alters the last message",
        ),
        (
            "{{ messages }}{{ messages }}",
            of("assistant", json!("b")),
            Code::Unsupported,
            "alters the last message",
        ),
    ] {
        let error = continued(source, list).unwrap_err();
        assert!(
            error.code == code && error.message.contains(part),
            "{error}"
        );
    }
}

#[test]
fn long_whole_numbers_stay_whole_everywhere() {
    let big = "123456789012345678901234";
    let list = format!(
        r#"[{{"role":"tool","content":[{big},-{big}]}},{{"role":"assistant","tool_calls":[{{"name":"f","arguments":"{{\"n\":{big}}}"}}]}}]"#
    );
    let list = Message::parse_list(list.as_bytes()).unwrap();
    let tools = Json::parse(format!("[{{\"n\":{big}}}]").as_bytes()).unwrap();
    let args = object(Json::parse(format!("{{\"n\":{big}}}").as_bytes()).unwrap());
    let options = TemplateOptions {
        tools: Some(&tools),
        args: Some(&args),
        ..TemplateOptions::default()
    };
    let source = "{{ n + 1 }} {{ messages[0].content }} {{ tools | tojson }} {{ messages[1].tool_calls[0].arguments.n * 10 }}";
    let pieces = template(source, &json!({}))
        .render(&list, options, &clock)
        .unwrap();
    assert_eq!(
        text(&pieces),
        format!("123456789012345678901235 [{big}, -{big}] [{{\"n\": {big}}}] {big}0")
    );
}

#[test]
fn a_role_that_no_template_knows_is_named_with_the_cure() {
    let strict = "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('Unknown role') }}{% endif %}{% endfor %}";
    let list = json!([{"role": "user", "content": "a"}, {"role": "human", "content": "b"}]);
    let error = prompt(strict, list).unwrap_err();
    let hint = "messages[1].role is \"human\", and templates know \"system\", \"user\", \"assistant\" and \"tool\"";
    assert!(
        error.message.contains("Unknown role") && error.message.contains(hint),
        "{error}"
    );
    // Where the roles are usual, the template's own words are all.
    let error = prompt(strict, json!([{"role": "system", "content": "a"}])).unwrap_err();
    assert!(error.message.ends_with("Unknown role"), "{error}");

    let list = messages(&read(&json!([{"role": "bot", "content": " b "}]))).unwrap();
    let said = [
        Piece::new("a", Origin::Template),
        Piece::new("b", Origin::Content),
    ];
    assert_eq!(left_out(&list, &said), None);
    assert!(left_out(&list, &said[..1])
        .unwrap()
        .starts_with("messages[0].role is \"bot\""));
}

/// Deep, long and many: each is a prompt or a named error, on the stack that hosts give.
#[test]
fn hostile_messages_are_bounded() {
    let refused = |json: String| -> Error {
        let run = move || Message::parse_list(json.as_bytes()).unwrap_err();
        let thread = std::thread::Builder::new().stack_size(512 << 10);
        thread.spawn(run).unwrap().join().unwrap()
    };
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let error = refused(format!(
        r#"[{{"role":"tool","content":{}}}]"#,
        deep(1 << 20)
    ));
    assert!(error.message.contains("recursion limit"), "{error}");
    let error = refused(format!(
        r#"[{{"role":"tool","content":{}}}]"#,
        "7".repeat(1 << 20)
    ));
    assert!(error.message.contains("4300 digits"), "{error}");

    // As deep as JSON goes, in arguments that are text, in a list that is as deep: printed, or the template's limit.
    let run = move || {
        let nested = format!("{{\\\"a\\\":{}}}", deep(127));
        let json = format!(
            r#"[{{"role":"user","content":"x"}},{{"role":"tool","content":{}}},{{"role":"assistant","tool_calls":[{{"name":"f","arguments":"{nested}"}}]}}]"#,
            deep(126)
        );
        let messages = Message::parse_list(json.as_bytes()).unwrap();
        let source = "{{ messages }}{{ messages | tojson }}";
        let pieces =
            template(source, &json!({})).render(&messages, TemplateOptions::default(), &clock);
        assert!(text(&pieces.unwrap()).contains(&deep(127)));
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10);
    thread.spawn(run).unwrap().join().unwrap();

    // Text of arguments that is deeper stays text.
    let json = format!(
        r#"[{{"role":"assistant","tool_calls":[{{"name":"f","arguments":"{{\"a\":{}}}"}}]}}]"#,
        "[".repeat(100_000)
    );
    let messages = Message::parse_list(json.as_bytes()).unwrap();
    assert!(matches!(
        messages[0].tool_calls().next().unwrap().arguments,
        Some(Json::Text(_))
    ));

    // Keys of which each is there twice, and parts without end.
    let keys: Vec<String> = (0..200_000)
        .map(|i| format!("\"k{}\":{i}", i % 100_000))
        .collect();
    let json = format!(r#"[{{"role":"user","content":"x",{}}}]"#, keys.join(","));
    assert_eq!(
        Message::parse_list(json.as_bytes()).unwrap()[0]
            .entries()
            .count(),
        100_002
    );
    let parts = vec![r#"{"type":"text","text":"ab"}"#; 100_000].join(",");
    let json = format!(r#"[{{"role":"user","content":[{parts}]}}]"#);
    let messages = Message::parse_list(json.as_bytes()).unwrap();
    assert_eq!(messages[0].text().len(), 200_000);
}

/// A template may do what it likes with what it is asked at load: loading ends soon, and its parts are joined.
#[test]
fn templates_that_do_not_end_load_all_the_same() {
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000 }}{{ messages[0].content[0].text }}",
        "{{ raise_exception('no') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ] {
        let started = std::time::Instant::now();
        template(source, &json!({}));
        assert!(started.elapsed().as_secs() < 5, "{source}");
    }
}
