//! Which tools an answer calls, calls that obey their schemas, and calls that are told while they come: on a model whose answer
//! is known (tests/fixtures/script.py), and on random weights, which nothing but a grammar makes call anything.

use serde_json::{json, Value};

use super::channels::{self, script, ASK};
use super::*;
use crate::error::Code;
use crate::grammar::Kind;
use crate::runtime::generate::{Conversation, Stop, Thinking};

fn tool(name: &str, parameters: Value) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
}

/// The model calls the first, and asks for Oslo.
fn tools() -> Value {
    let city = json!({ "type": "object", "properties": { "city": { "enum": ["Bergen", "Trondheim"] } },
                       "required": ["city"], "additionalProperties": false });
    json!([
        tool("weather", city),
        tool(
            "clock",
            json!({ "type": "object", "additionalProperties": false })
        )
    ])
}

fn input(tools: &Value, choice: Option<&str>, args: Option<&str>) -> Input {
    Input::messages(Conversation {
        messages: ASK.into(),
        tools: Some(tools.to_string()),
        tool_choice: choice.map(str::to_owned),
        template_args: args.map(str::to_owned),
        ..Conversation::default()
    })
}

#[derive(Debug)]
struct Told {
    text: String,
    thinking: String,
    calls: Vec<Value>,
    deltas: Vec<Value>,
    tokens: Vec<i32>,
    stop: Option<Stop>,
}

fn tell(model: &Arc<Model>, input: &Input, options: &GenerateOptions) -> Told {
    let session = session(model);
    let (told, report) = channels::tell(&session, input, options);
    assert!(session.tokens().unwrap().ends_with(&told.tokens));
    let parsed = |all: &[String]| {
        let all = all.iter().map(|text| serde_json::from_str(text).unwrap());
        all.collect()
    };
    Told {
        calls: parsed(&told.calls),
        deltas: parsed(&told.deltas),
        text: told.text,
        thinking: told.thinking,
        tokens: told.tokens,
        stop: Some(report.stop),
    }
}

fn refusal(model: &Arc<Model>, input: &Input, options: &GenerateOptions) -> (Code, String) {
    let session = session(model);
    let (_, result) = generate(&session, input, options, &mut |_| true);
    let error = result.unwrap_err();
    assert!(session.tokens().unwrap().is_empty());
    (error.code, error.message)
}

fn strict() -> GenerateOptions {
    GenerateOptions {
        strict_tools: true,
        ..GenerateOptions::default()
    }
}

#[test]
fn strict_calls_obey_and_all_else_is_as_it_was() {
    let _lock = engine_lock();
    let model = script();
    let free = tell(
        &model,
        &input(&tools(), None, None),
        &GenerateOptions::default(),
    );
    assert_eq!(free.calls[0]["arguments"], json!({"city": "Oslo"}));
    let bound = tell(&model, &input(&tools(), None, None), &strict());
    assert_eq!((&bound.text, &bound.thinking), (&free.text, &free.thinking));
    let city = bound.calls[0]["arguments"]["city"].as_str().unwrap();
    assert!(matches!(city, "Bergen" | "Trondheim"), "{bound:?}");
    assert_eq!((bound.calls.len(), bound.stop), (1, free.stop), "{bound:?}");
    // Penalties, log-probabilities and thinking without an end of its own go with it.
    let options = GenerateOptions {
        logprobs: Some(2),
        presence_penalty: 0.5,
        temperature: Some(0.7),
        seed: 5,
        thinking: Thinking::Budget(3),
        max_tokens: Some(120),
        ..strict()
    };
    let drawn = tell(&model, &input(&tools(), None, None), &options);
    for call in &drawn.calls {
        let city = call["arguments"]["city"].as_str();
        assert!(
            call["name"] == "clock" || matches!(city, Some("Bergen" | "Trondheim")),
            "{drawn:?}"
        );
    }
}

#[test]
fn an_answer_calls_what_it_is_told_to() {
    let _lock = engine_lock();
    let model = script();
    let of = |choice: &str| {
        let input = input(&tools(), Some(choice), None);
        tell(&model, &input, &GenerateOptions::default())
    };
    let required = of(r#""required""#);
    assert_eq!(
        (required.text.as_str(), required.thinking.as_str()),
        ("", "Let me look it up."),
        "{required:?}"
    );
    assert_eq!(
        (required.calls.len(), required.stop),
        (1, Some(Stop::ToolCall))
    );
    for choice in [
        r#"{"name":"clock"}"#,
        r#"{"type":"function","function":{"name":"clock"}}"#,
    ] {
        let named = of(choice);
        assert_eq!(named.calls[0]["name"], "clock", "{named:?}");
        assert_eq!(named.calls[0]["arguments"], json!({}));
        assert_eq!(named.text, "");
    }
    // The template is shown no tools, and what the model calls all the same is text.
    let none = of(r#""none""#);
    assert!(
        none.calls.is_empty() && none.text.contains("\"weather\""),
        "{none:?}"
    );
    assert!(!none.text.contains("<tool_call>"));
    let with = |choice| {
        let input = input(&tools(), choice, None);
        crate::runtime::generate::render(&model, &input).unwrap()
    };
    assert!(!with(Some(r#""none""#)).contains("clock"));
    assert_eq!(with(Some(r#""required""#)), with(None));
    assert!(of(r#""auto""#).text.contains("I ask:") && of("null").text.contains("I ask:"));
}

/// A schema that cannot be followed is an error where it has to be, and else leaves the call its name.
#[test]
fn a_required_call_obeys_as_far_as_it_can() {
    let _lock = engine_lock();
    let model = script();
    let odd = json!([tool(
        "weather",
        json!({ "type": "object", "not": { "required": ["city"] } })
    )]);
    let required = input(&odd, Some(r#""required""#), None);
    let short = GenerateOptions {
        max_tokens: Some(60),
        ..GenerateOptions::default()
    };
    let told = tell(&model, &required, &short);
    let all = model.tokenizer().detokenize(&told.tokens, false).unwrap();
    let begun = r#"<tool_call>{"name": "weather", "arguments": {"#;
    assert!(all.replace('\n', "").contains(begun), "{all}");
    for input in [&required, &input(&odd, None, None)] {
        let (code, message) = refusal(&model, input, &strict());
        assert_eq!(code, Code::BadGrammar);
        assert!(
            message.contains("input.tools/0/function/parameters: \"#/not\""),
            "{message}"
        );
    }
}

#[test]
fn what_cannot_be_called_is_refused_by_name() {
    let _lock = engine_lock();
    let model = script();
    let plain = GenerateOptions::default();
    let grammar = Arc::new(model.compile_grammar(Kind::Json, "", None).unwrap());
    let with_grammar = |options: GenerateOptions| GenerateOptions {
        grammar: Some(grammar.clone()),
        ..options
    };
    let raw = GenerateOptions {
        raw_text: true,
        ..strict()
    };
    let required = r#""required""#;
    for (tools, choice, options, code, words) in [
        (
            tools(),
            r#"{"name":"radar"}"#,
            plain.clone(),
            Code::InvalidArgument,
            "no tool named \"radar\"",
        ),
        (
            json!([]),
            required,
            plain.clone(),
            Code::InvalidArgument,
            "no tool that could be called",
        ),
        (
            Value::Null,
            required,
            plain.clone(),
            Code::InvalidArgument,
            "input.tools is missing",
        ),
        (
            tools(),
            "required",
            plain.clone(),
            Code::InvalidArgument,
            "in quotes",
        ),
        (
            tools(),
            r#""always""#,
            plain.clone(),
            Code::InvalidArgument,
            "\"always\"",
        ),
        (
            tools(),
            "3",
            plain.clone(),
            Code::InvalidArgument,
            "input.tool_choice must be",
        ),
        (
            tools(),
            r#"{"tool":"clock"}"#,
            plain.clone(),
            Code::InvalidArgument,
            "has no name",
        ),
        (
            tools(),
            required,
            with_grammar(plain.clone()),
            Code::InvalidArgument,
            "options.grammar",
        ),
        (
            tools(),
            r#""auto""#,
            with_grammar(strict()),
            Code::InvalidArgument,
            "MLXRT_GEN_STRICT_TOOLS",
        ),
        (
            tools(),
            r#""auto""#,
            raw,
            Code::InvalidArgument,
            "MLXRT_GEN_RAW_TEXT",
        ),
        (
            json!([tool("two words", json!({}))]),
            required,
            plain.clone(),
            Code::BadGrammar,
            "\"two words\" is no name",
        ),
        (
            json!([{ "type": "function" }]),
            required,
            plain.clone(),
            Code::InvalidArgument,
            "input.tools/0 has no name",
        ),
        (
            json!([tool("a", json!({ "type": "array" }))]),
            r#""auto""#,
            strict(),
            Code::BadGrammar,
            "type object",
        ),
        (
            json!([tool("a", json!("text"))]),
            r#""auto""#,
            strict(),
            Code::BadGrammar,
            "object's schema",
        ),
    ] {
        let (found, message) = refusal(&model, &input(&tools, Some(choice), None), &options);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(words), "{message}");
    }
    // A model that makes no calls, and one whose calls no grammar knows.
    let (code, message) = refusal(
        &load("qwen3-f32"),
        &input(&tools(), Some(required), None),
        &plain,
    );
    assert_eq!(
        (code, message.contains("shows none")),
        (Code::Unsupported, true),
        "{message}"
    );
    let args = Some(r#"{"tool_parser_type":"kimi_k3"}"#);
    let (code, message) = refusal(&model, &input(&tools(), Some(required), args), &plain);
    assert_eq!(
        (code, message.contains("kimi_k3")),
        (Code::Unsupported, true),
        "{message}"
    );
}

#[test]
fn calls_are_told_while_they_come() {
    let _lock = engine_lock();
    let model = script();
    let options = GenerateOptions {
        tool_deltas: true,
        ..GenerateOptions::default()
    };
    let plain = tell(
        &model,
        &input(&tools(), None, None),
        &GenerateOptions::default(),
    );
    let told = tell(&model, &input(&tools(), None, None), &options);
    assert_eq!(
        (&told.text, &told.thinking, &told.tokens),
        (&plain.text, &plain.thinking, &plain.tokens)
    );
    assert!(
        told.deltas.len() >= 3 && plain.deltas.is_empty(),
        "{told:?}"
    );
    let first = &told.deltas[0];
    assert_eq!(
        (&first["index"], &first["name"], &first["id"]),
        (&json!(0), &json!("weather"), &told.calls[0]["id"])
    );
    let pieces = told
        .deltas
        .iter()
        .map(|delta| delta["arguments"].as_str().unwrap());
    let arguments: Value = serde_json::from_str(&pieces.collect::<String>()).unwrap();
    assert_eq!(arguments, told.calls[0]["arguments"]);
    assert!(told.deltas[1..]
        .iter()
        .all(|delta| delta.get("id").is_none()));
}

/// Whatever the weights say, in each form of calls that can be nested anyhow.
#[test]
fn random_weights_call_what_they_must() {
    let _lock = engine_lock();
    let model = load("qwen3-f32");
    let short = json!({ "type": "object", "additionalProperties": false, "required": ["city", "days"], "properties": {
        "city": { "type": "string", "maxLength": 3 }, "days": { "type": "integer", "minimum": 0, "maximum": 9 } } });
    let tools = json!([tool("weather", short)]);
    for format in [
        "json_tools",
        "mistral",
        "llama3_json",
        "pythonic",
        "qwen3_coder",
        "glm47",
        "gemma4",
        "kimi_k2",
    ] {
        let args = format!(r#"{{"tool_parser_type":"{format}"}}"#);
        let input = input(&tools, Some(r#""required""#), Some(&args));
        let mut complete = 0;
        for seed in 1..6 {
            let options = GenerateOptions {
                temperature: Some(1.5),
                seed,
                max_tokens: Some(300),
                tool_deltas: true,
                ..strict()
            };
            let told = tell(&model, &input, &options);
            let Some(call) = told.calls.first() else {
                assert_eq!(told.stop, Some(Stop::Length), "{format}: {told:?}");
                continue;
            };
            complete += 1;
            let arguments = &call["arguments"];
            assert!(
                arguments["city"].as_str().unwrap().chars().count() <= 3,
                "{format}: {told:?}"
            );
            assert!(
                (0..=9).contains(&arguments["days"].as_i64().unwrap()),
                "{format}: {told:?}"
            );
        }
        assert!(complete >= 2, "{format}: {complete} of 5");
    }
}
