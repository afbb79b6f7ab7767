//! Thinking and calls of tools from end to end, on a model whose answer is known (tests/fixtures/script.py).

use super::*;
use crate::grammar::Kind;
use crate::runtime::generate::{Conversation, Stop, Thinking};
use crate::text::Channel;

pub(super) const ASK: &str = r#"[{"role":"user","content":"How warm is it in Oslo?"}]"#;

pub(super) fn script() -> Arc<Model> {
    load("../script")
}

fn input(messages: &str, args: Option<&str>) -> Input {
    Input::messages(Conversation {
        messages: messages.into(),
        template_args: args.map(str::to_owned),
        ..Conversation::default()
    })
}

#[derive(Default, Debug)]
pub(super) struct Told {
    pub text: String,
    pub thinking: String,
    pub calls: Vec<String>,
    pub deltas: Vec<String>,
    pub tokens: Vec<i32>,
}

pub(super) fn tell(session: &Session, input: &Input, options: &GenerateOptions) -> (Told, Report) {
    let mut told = Told::default();
    let (report, result) = generate(session, input, options, &mut |event| {
        if let Event::Text(chunk) = event {
            told.tokens.extend(&chunk.tokens);
            match chunk.channel {
                Channel::Text => told.text.push_str(&chunk.text),
                Channel::Thinking => told.thinking.push_str(&chunk.text),
                Channel::ToolCall => told.calls.push(chunk.text),
                Channel::ToolDelta => told.deltas.push(chunk.text),
            }
        }
        true
    });
    result.unwrap();
    assert_eq!(told.tokens.len() as u64, report.generated_tokens);
    (told, report)
}

/// Without its id, which is another one every time.
fn call(json: &str) -> String {
    let (id, rest) = json.split_at(r#"{"id":"123456789","#.len());
    assert!(id.starts_with(r#"{"id":""#), "{json}");
    rest.to_owned()
}

const CALL: &str = r#""name":"weather","arguments":{"city":"Oslo"}}"#;

#[test]
fn thinking_text_and_a_call_are_told_apart() {
    let _lock = engine_lock();
    let model = script();
    let session = session(&model);
    let (told, report) = tell(&session, &input(ASK, None), &GenerateOptions::default());
    assert_eq!(told.thinking, "Let me look it up.");
    assert_eq!(told.text, "I ask:");
    assert_eq!(told.calls.len(), 1);
    assert_eq!(call(&told.calls[0]), CALL);
    assert_eq!(report.stop, Stop::ToolCall);
    assert_eq!(report.thinking_tokens, 6);
    // The ledger has all of it.
    let tokens = session.tokens().unwrap();
    assert!(tokens.ends_with(&told.tokens));
    let raw = model.tokenizer().detokenize(&told.tokens, false).unwrap();
    assert!(raw.starts_with("<think>\nLet me"), "{raw}");
    let message: serde_json::Value = serde_json::from_str(&session.message().unwrap()).unwrap();
    assert_eq!(message["content"], "I ask:");
    assert_eq!(message["reasoning_content"], "Let me look it up.");
    let made = &message["tool_calls"][0];
    assert_eq!(made["type"], "function");
    assert_eq!(made["function"]["name"], "weather");
    assert_eq!(made["function"]["arguments"], r#"{"city":"Oslo"}"#);
    assert!(told.calls[0].contains(made["id"].as_str().unwrap()));

    // And the conversation goes on: the message is one that messages takes.
    let history = format!(
        r#"[{{"role":"user","content":"How warm is it in Oslo?"}},{message},{{"role":"tool","content":"-3 <think> <tool_call>"}}]"#
    );
    let (told, report) = tell(
        &session,
        &input(&history, None),
        &GenerateOptions::default(),
    );
    assert_eq!((told.text.as_str(), told.calls.len()), ("It is cold.", 0));
    assert_eq!((told.thinking.as_str(), report.stop), ("", Stop::Eos));
    assert!(report.cached_tokens > 0);
}

#[test]
fn raw_text_has_the_markers_and_no_channels() {
    let _lock = engine_lock();
    let model = script();
    let options = GenerateOptions {
        raw_text: true,
        ..GenerateOptions::default()
    };
    let (told, report) = tell(&session(&model), &input(ASK, None), &options);
    assert!(told
        .text
        .starts_with("<think>\nLet me look it up.\n</think>\n\nI ask:\n<tool_call>\n{"));
    assert_eq!((report.stop, report.thinking_tokens), (Stop::Eos, 0));
}

#[test]
fn a_template_may_open_thinking() {
    let _lock = engine_lock();
    let model = script();
    let opened = input(ASK, Some(r#"{"opened":true}"#));
    let (told, report) = tell(&session(&model), &opened, &GenerateOptions::default());
    assert_eq!(
        (told.thinking.as_str(), report.thinking_tokens),
        ("Let me look it up.", 6)
    );
    // As text that a program rendered itself; and the user's own words do not open it.
    for (text, thinking) in [
        ("<|im_start|>assistant\n<think>", "Let me look it up."),
        ("<think> or not? <|im_end|>\t", ""),
        ("<think>x</think>\t", ""),
    ] {
        let input = Input::Text {
            text: text.into(),
            no_bos: true,
            special_as_text: false,
        };
        let (told, _) = tell(&session(&model), &input, &GenerateOptions::default());
        assert_eq!(told.thinking, thinking, "{text}");
    }
}

#[test]
fn thinking_ends_with_its_budget() {
    let _lock = engine_lock();
    let model = script();
    let of = |thinking: Thinking, args: Option<&str>| {
        let options = GenerateOptions {
            thinking,
            logprobs: Some(2),
            ..GenerateOptions::default()
        };
        let session = session(&model);
        let (told, report) = tell(&session, &input(ASK, args), &options);
        assert_eq!(told.calls.len(), 1);
        assert_eq!(told.text, "I ask:");
        assert!(session.tokens().unwrap().ends_with(&told.tokens));
        (told, report.thinking_tokens)
    };
    let opened = Some(r#"{"opened":true}"#);
    for args in [None, opened] {
        let (told, tokens) = of(Thinking::Budget(3), args);
        assert_eq!((told.thinking.as_str(), tokens), ("Let me look", 3));
        let (told, tokens) = of(Thinking::Budget(100), args);
        assert_eq!((told.thinking.as_str(), tokens), ("Let me look it up.", 6));
    }
    // The template knows how to do without.
    let (told, tokens) = of(Thinking::Off, None);
    assert_eq!((told.thinking.as_str(), tokens), ("", 0));
    assert!(!model
        .tokenizer()
        .detokenize(&told.tokens, false)
        .unwrap()
        .contains("think>"));
    // What the caller says counts; then the end is forced at once.
    for args in [opened, Some(r#"{"enable_thinking":true}"#)] {
        let (told, tokens) = of(Thinking::Off, args.filter(|args| args.contains("enable")));
        assert_eq!((told.thinking.as_str(), tokens), ("", 0));
    }
    let (told, _) = of(
        Thinking::Off,
        Some(r#"{"enable_thinking":true,"opened":true}"#),
    );
    let raw = model.tokenizer().detokenize(&told.tokens, false).unwrap();
    assert!(raw.starts_with("\n</think>\n\nI ask:"), "{raw}");
}

#[test]
fn tokens_only_have_no_channels_and_the_message_has() {
    let _lock = engine_lock();
    let model = script();
    let session = session(&model);
    let options = GenerateOptions {
        tokens_only: true,
        thinking: Thinking::Budget(2),
        ..GenerateOptions::default()
    };
    let (told, _) = tell(&session, &input(ASK, None), &options);
    assert_eq!((told.text.as_str(), told.calls.len()), ("", 0));
    let message = session.message().unwrap();
    assert!(
        message.contains(r#""reasoning_content":"Let me""#),
        "{message}"
    );
    assert!(message.contains(r#""content":"I ask:""#), "{message}");
    assert!(message.contains("weather"), "{message}");
}

#[test]
fn stop_strings_are_looked_for_in_text_alone() {
    let _lock = engine_lock();
    let model = script();
    let of = |stop: &str| {
        let options = GenerateOptions {
            stop: vec![stop.into()],
            ..GenerateOptions::default()
        };
        tell(&session(&model), &input(ASK, None), &options)
    };
    assert_eq!(of("look").1.stop, Stop::ToolCall);
    assert_eq!(of("Oslo").1.stop, Stop::ToolCall);
    let (told, report) = of("ask");
    assert_eq!((told.text.as_str(), report.stop), ("I ", Stop::String));
}

#[test]
fn an_unfinished_call_is_text() {
    let _lock = engine_lock();
    let model = script();
    let options = GenerateOptions {
        max_tokens: Some(14),
        ..GenerateOptions::default()
    };
    let session = session(&model);
    let (told, report) = tell(&session, &input(ASK, None), &options);
    assert_eq!(report.stop, Stop::Length);
    assert_eq!(told.text, "I ask:\n{\"name\": \"weather\"");
    assert!(told.calls.is_empty());
    assert!(session.message().unwrap().contains("weather"));
}

/// What a callback did not get is not in the message.
#[test]
fn a_callback_stops_in_the_middle_of_thinking() {
    let _lock = engine_lock();
    let model = script();
    let session = session(&model);
    let mut seen = String::new();
    let (report, result) = generate(
        &session,
        &input(ASK, None),
        &GenerateOptions::default(),
        &mut |event| {
            if let Event::Text(chunk) = event {
                seen.push_str(&chunk.text);
            }
            !seen.contains("look")
        },
    );
    result.unwrap();
    assert_eq!(report.stop, Stop::Callback);
    let message: serde_json::Value = serde_json::from_str(&session.message().unwrap()).unwrap();
    assert_eq!(message["content"], "");
    let thought = message["reasoning_content"].as_str().unwrap();
    assert!(
        thought.starts_with("Let") && !thought.contains("up"),
        "{thought}"
    );
}

/// What a continued message thought is a part of what the answer thought.
#[test]
fn a_continued_message_goes_on_thinking() {
    let _lock = engine_lock();
    let model = script();
    let session = session(&model);
    let history = format!(
        r#"[{},{{"role":"assistant","content":"<think>\nLet me"}}]"#,
        &ASK[1..ASK.len() - 1]
    );
    let input = Input::messages(Conversation {
        messages: history,
        continue_last: true,
        ..Conversation::default()
    });
    // What comes next nobody knows; it is thought.
    let options = GenerateOptions {
        thinking: Thinking::Budget(4),
        max_tokens: Some(4),
        ..GenerateOptions::default()
    };
    let (told, report) = tell(&session, &input, &options);
    assert_eq!((told.text.as_str(), report.thinking_tokens), ("", 4));
    let message: serde_json::Value = serde_json::from_str(&session.message().unwrap()).unwrap();
    assert_eq!(message["content"], "");
    let thought = message["reasoning_content"].as_str().unwrap();
    assert_eq!(thought, format!("Let me{}", told.thinking));
}

/// `template_args` may say how calls are written.
#[test]
fn another_format_of_calls_is_named() {
    let _lock = engine_lock();
    let model = script();
    let args = Some(r#"{"tool_parser_type":"mistral"}"#);
    let (told, report) = tell(
        &session(&model),
        &input(ASK, args),
        &GenerateOptions::default(),
    );
    assert_eq!((told.calls.len(), report.stop), (0, Stop::Eos));
    assert!(
        told.text.contains("{\"name\": \"weather\""),
        "{}",
        told.text
    );
    assert_eq!(told.thinking, "Let me look it up.");
    for (args, words) in [
        (r#"{"tool_parser_type":"none of them"}"#, "\"none of them\""),
        (
            r#"{"tool_parser_type":7}"#,
            "tool_parser_type must be a string",
        ),
    ] {
        let options = GenerateOptions::default();
        let (_, result) = generate(
            &session(&model),
            &input(ASK, Some(args)),
            &options,
            &mut |_| true,
        );
        let error = result.unwrap_err();
        assert!(error.message.contains(words), "{error}");
    }
}

/// The demo model was trained on tools; nobody wrote its answers down.
#[test]
fn a_trained_model_calls_a_tool() {
    let _lock = engine_lock();
    let model = load("../../../demo/model");
    let session = session(&model);
    let tools = r#"[{"type":"function","function":{"name":"get_weather","description":"Get the current weather for a city","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]"#;
    let ask = |messages: String| {
        let input = Input::messages(Conversation {
            messages,
            tools: Some(tools.into()),
            ..Conversation::default()
        });
        let options = GenerateOptions {
            greedy: true,
            max_tokens: Some(200),
            ..GenerateOptions::default()
        };
        tell(&session, &input, &options)
    };
    let user = r#"{"role":"user","content":"What's the weather in Paris?"}"#;
    let (told, report) = ask(format!("[{user}]"));
    assert_eq!(report.stop, Stop::ToolCall, "{told:?}");
    let call: serde_json::Value = serde_json::from_str(&told.calls[0]).unwrap();
    assert_eq!(call["name"], "get_weather");
    assert_eq!(call["arguments"]["city"], "Paris");
    assert_eq!(told.text, "");
    let message = session.message().unwrap();
    let result = r#"{"role":"tool","content":"{\"temperature\": 21, \"condition\": \"sunny\"}"}"#;
    let (told, report) = ask(format!("[{user},{message},{result}]"));
    assert_eq!((report.stop, told.calls.len()), (Stop::Eos, 0), "{told:?}");
    assert!(told.text.contains("21"), "{told:?}");
    assert!(report.cached_tokens > 50, "{report}");
}

/// What the prompt has opened is thought freely, its end is forced when there was enough of it, and then the answer follows.
#[test]
fn a_grammar_begins_behind_thinking() {
    let _lock = engine_lock();
    let model = script();
    let grammar = model.compile_grammar(Kind::Regex, "yes|no", None).unwrap();
    let grammar = Some(Arc::new(grammar));
    let history = format!(
        r#"[{},{{"role":"assistant","content":"<think>\nLet me"}}]"#,
        &ASK[1..ASK.len() - 1]
    );
    let opened = Input::messages(Conversation {
        messages: history,
        continue_last: true,
        ..Conversation::default()
    });
    for logprobs in [None, Some(0)] {
        let options = GenerateOptions {
            thinking: Thinking::Budget(3),
            grammar: grammar.clone(),
            logprobs,
            ..GenerateOptions::default()
        };
        let (told, report) = tell(&session(&model), &opened, &options);
        assert_eq!((report.thinking_tokens, report.stop), (3, Stop::Grammar));
        assert!(["yes", "no"].contains(&told.text.as_str()), "{told:?}");
        assert!(!told.thinking.is_empty());
        // The first token already obeys where nothing was opened.
        let (told, report) = tell(&session(&model), &input(ASK, None), &options);
        assert_eq!((report.thinking_tokens, report.stop), (0, Stop::Grammar));
        assert!(["yes", "no"].contains(&told.text.as_str()), "{told:?}");
    }
}
