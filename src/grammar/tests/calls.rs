//! Calls that a grammar binds: whatever tokens it allows are drawn, and the model's own parser must find a call in them that
//! obeys its tool's schema.

use std::collections::BTreeMap;

use super::*;
use crate::grammar::calls::{Calls, Choice, Tool};
use crate::text::{
    Channel, Channels, Finish, Kind as TokenKind, Splitter, StopStrings, StreamOptions, TextStream,
    Token, Tools,
};

/// Tools whose texts are short, since a text that is drawn ends when it has to.
fn tools() -> Value {
    json!([
        { "type": "function", "function": { "name": "weather", "parameters": {
            "type": "object", "additionalProperties": false,
            "properties": {
                "city": { "type": "string", "minLength": 1, "maxLength": 4 },
                "days": { "type": "integer", "minimum": 1, "maximum": 7 },
                "exact": { "type": "boolean" },
                "unit": { "type": "string", "enum": ["celsius", "fahrenheit"] }
            },
            "required": ["city", "unit"]
        } } },
        { "type": "function", "function": { "name": "now", "parameters": {
            "type": "object", "properties": {} } } }
    ])
}

/// One that is only for families whose arguments may be lists and objects.
fn nested() -> Value {
    json!({ "type": "function", "function": { "name": "store_items", "parameters": {
        "$defs": { "item": { "type": "object", "properties": { "id": { "$ref": "#/$defs/id" } }, "required": ["id"], "additionalProperties": false },
                   "id": { "type": "integer", "minimum": 0, "maximum": 99 } },
        "type": "object",
        "properties": {
            "items": { "type": "array", "items": { "$ref": "#/$defs/item" }, "minItems": 1, "maxItems": 2 },
            "note": { "anyOf": [{ "type": "string", "maxLength": 3 }, { "type": "null" }] }
        },
        "required": ["items"]
    } } })
}

struct Model {
    vocabulary: Arc<Vocabulary>,
    tokenizer: Arc<Tokenizer>,
    channels: Arc<Channels>,
    end: i32,
}

impl Model {
    /// `by_tokens`: the markers `<think>` and `<tool_call>` are tokens, else all markers are text.
    fn new(by_tokens: bool, template: &str, format: Option<&str>) -> Model {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/script/tokenizer.json"
        );
        let file = std::fs::read(path).unwrap();
        let tokenizer = Arc::new(Tokenizer::from_bytes(&file, None).unwrap());
        let id_of = |text: &str| tokenizer.token_to_id(text).filter(|_| by_tokens);
        let channels = Channels::find(template, &id_of, format).unwrap();
        let markers: Vec<i32> = channels.token_markers().map(|(id, _)| id).collect();
        assert_eq!(markers.len() >= 2, by_tokens);
        let end = tokenizer.token_to_id("<|im_end|>").unwrap();
        let rows = tokenizer.vocab_size();
        let vocabulary = Vocabulary::new(&tokenizer, rows, &[end], &markers).unwrap();
        Model {
            vocabulary: Arc::new(vocabulary),
            tokenizer,
            channels,
            end,
        }
    }

    fn calls(&self, tools: &Value, choice: &Choice, strict: bool) -> Result<Calls> {
        let tools = Tool::list(&tools.to_string()).unwrap();
        Calls::compile(&self.vocabulary, &self.channels, &tools, choice, strict)
    }

    fn stream(&self, tools: &Value) -> TextStream {
        let tools = crate::template::Json::parse(tools.to_string().as_bytes()).unwrap();
        let splitter =
            Splitter::new(self.channels.clone(), Arc::new(Tools::new(Some(&tools)))).telling(true);
        let options = StreamOptions {
            splitter: Some(splitter),
            ..StreamOptions::default()
        };
        let none = StopStrings::new::<&str>(&[]).unwrap();
        let mut stream = TextStream::new(self.tokenizer.detokenizer(true, true), &none, options);
        stream.begin(&[], self.tokenizer.detokenizer(true, true));
        stream
    }
}

#[derive(Debug, Default)]
struct Told {
    text: String,
    calls: Vec<Value>,
    /// By index: id, name and arguments.
    deltas: BTreeMap<u64, (String, String, String)>,
}

fn parsed_or_shown(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The tokens as events.
fn tell(model: &Model, tools: &Value, ids: &[i32]) -> Told {
    let mut stream = model.stream(tools);
    let mut told = Told::default();
    let mut chunks = Vec::new();
    for &id in ids {
        let kind = match id == model.end {
            true => TokenKind::Silent,
            false => TokenKind::Normal,
        };
        let token = Token {
            id,
            ..Token::default()
        };
        stream.push(token, kind);
        chunks.extend(std::iter::from_fn(|| stream.pop()));
    }
    stream.finish(Finish::End);
    chunks.extend(std::iter::from_fn(|| stream.pop()));
    let tokens: Vec<i32> = chunks
        .iter()
        .flat_map(|chunk| chunk.tokens.clone())
        .collect();
    assert_eq!(tokens, ids);
    for chunk in chunks {
        match chunk.channel {
            Channel::Text => told.text.push_str(&chunk.text),
            Channel::Thinking => {}
            Channel::ToolCall => told.calls.push(parsed_or_shown(&chunk.text)),
            Channel::ToolDelta => {
                assert!(chunk.tokens.is_empty());
                let delta = parsed_or_shown(&chunk.text);
                let index = delta["index"].as_u64().unwrap();
                let known = told.deltas.entry(index).or_insert_with(|| {
                    let text = |key: &str| delta[key].as_str().unwrap().to_owned();
                    (text("id"), text("name"), String::new())
                });
                known.2.push_str(delta["arguments"].as_str().unwrap());
            }
        }
    }
    told
}

/// Tokens that a grammar allows, drawn with equal chances, and whether they came to its end.
fn drawn(model: &Model, grammar: &Grammar, seed: u64, most: usize) -> (Vec<i32>, bool) {
    let mut matcher = grammar.matcher(true).unwrap();
    let mut all = Vec::new();
    while !matcher.is_over() && all.len() < most {
        let forced = match seed % 2 {
            0 => matcher.forced().unwrap(),
            _ => Vec::new(),
        };
        let ids = match forced.is_empty() {
            false => forced,
            true => {
                let Some(mask) = matcher.mask().unwrap() else {
                    break;
                };
                let allowed = (0..).zip(&mask).filter(|(_, m)| **m == 1);
                let allowed: Vec<i32> = allowed.map(|(id, _)| id).collect();
                // A thought may go on for ever.
                let wanted = allowed.iter().find(|&&id| id == model.end);
                let any = mix(seed, all.len() as u64) as usize % allowed.len();
                vec![*wanted.unwrap_or(&allowed[any])]
            }
        };
        for id in ids {
            matcher.take(id).unwrap();
            all.push(id);
        }
    }
    let complete = matcher.is_over();
    (all, complete)
}

fn check(model: &Model, tools: &Value, name: &str, choice: &Choice, least: usize) {
    let calls = model
        .calls(tools, choice, true)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let start = calls.start.as_ref().unwrap();
    assert!(start.required);
    let mut complete = 0;
    for seed in 0..60 {
        let (ids, ended) = drawn(model, &start.grammar, seed, 600);
        let told = tell(model, tools, &ids);
        if !ended {
            continue;
        }
        complete += 1;
        let shown = || {
            format!(
                "{name}, seed {seed}: {told:?} {:?}",
                model.tokenizer.detokenize(&ids, false)
            )
        };
        assert!(
            !told.calls.is_empty() && told.text.is_empty(),
            "{}",
            shown()
        );
        for (index, call) in told.calls.iter().enumerate() {
            let of = |tool: &&Value| tool["function"]["name"] == call["name"];
            let tool = tools.as_array().unwrap().iter().find(of).unwrap();
            let schema = &tool["function"]["parameters"];
            assert!(valid(schema, schema, &call["arguments"]), "{}", shown());
            let (id, called, arguments) = &told.deltas[&(index as u64)];
            assert_eq!(
                (call["id"].as_str().unwrap(), call["name"].as_str().unwrap()),
                (id.as_str(), called.as_str())
            );
            let arguments: Value =
                serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {}", shown()));
            assert_eq!(arguments, call["arguments"], "{}", shown());
            if let Choice::Named(name) = choice {
                assert_eq!(call["name"], *name);
            }
        }
    }
    assert!(complete >= least, "{name}: {complete} of 60 came to an end");
}

/// Each format, with its markers as text.
const FORMATS: &[(&str, Option<&str>)] = &[
    ("", Some("json_tools")),
    ("", Some("nemotron")),
    ("", Some("phi4")),
    ("", Some("granite")),
    ("", Some("llama3_json")),
    ("", Some("mistral")),
    ("[TOOL_CALLS][ARGS]", None),
    ("", Some("deepseek")),
    ("<｜tool▁calls▁begin｜>```json", None),
    ("", Some("kimi_k2")),
    ("", Some("apertus")),
    ("", Some("pythonic")),
    ("", Some("qwen3_coder")),
    ("", Some("seed_oss")),
    ("", Some("glm47")),
    ("", Some("longcat")),
    ("", Some("minimax_m2")),
    ("", Some("gemma4")),
    ("", Some("function_gemma")),
];

#[test]
fn a_required_call_obeys_in_every_format() {
    for &(template, format) in FORMATS {
        let model = Model::new(false, template, format);
        let name = model.channels.calls().unwrap();
        let mut tools = tools();
        check(&model, &tools, name, &Choice::Required, 40);
        check(&model, &tools, name, &Choice::Named("weather".into()), 40);
        if !matches!(
            name,
            "function_gemma" | "qwen3_coder" | "seed_oss" | "minimax_m2" | "pythonic"
        ) {
            tools.as_array_mut().unwrap().push(nested());
            check(
                &model,
                &tools,
                name,
                &Choice::Named("store_items".into()),
                20,
            );
        }
    }
}

/// Markers that are tokens are those tokens, never their letters, and no text holds one.
#[test]
fn markers_that_are_tokens_are_forced_as_such() {
    for format in ["json_tools", "qwen3_coder", "glm47"] {
        let model = Model::new(true, "", Some(format));
        check(&model, &tools(), format, &Choice::Required, 30);
    }
}

#[test]
fn behind_a_marker_only_a_call_comes() {
    for &(template, format) in FORMATS {
        let model = Model::new(false, template, format);
        let calls = model.calls(&tools(), &Choice::Auto, true).unwrap();
        let grammar = calls.behind(None).unwrap();
        let open = model.channels.written().unwrap().open.unwrap_or("");
        let mut complete = 0;
        for seed in 0..30 {
            let (mut ids, ended) = drawn(&model, grammar, seed, 600);
            let before = model
                .vocabulary
                .factory()
                .tok_env()
                .tok_trie()
                .greedy_tokenize(open.as_bytes());
            ids.splice(0..0, before.iter().map(|&id| id as i32));
            let told = tell(&model, &tools(), &ids);
            if ended {
                complete += 1;
                assert!(
                    !told.calls.is_empty() && told.text.is_empty(),
                    "{format:?} {told:?}"
                );
            }
        }
        assert!(complete >= 20, "{format:?}: {complete} of 30");
    }
}

#[test]
fn a_name_that_a_format_cannot_have_is_refused() {
    let tools = json!([{ "name": "store.items" }]);
    for (format, can) in [
        ("json_tools", true),
        ("glm47", true),
        ("pythonic", true),
        ("gemma4", false),
    ] {
        let model = Model::new(false, "", Some(format));
        let calls = model.calls(&tools, &Choice::Required, false);
        let error = calls.err().map(|error| (error.code, error.message));
        assert_eq!(error.is_none(), can, "{format}: {error:?}");
        if let Some((code, message)) = error {
            assert_eq!(code, Code::BadGrammar);
            assert!(
                message.starts_with("input.tools/0/name: \"store.items\""),
                "{message}"
            );
        }
    }
}
