//! Calls that a grammar binds: whatever tokens it allows are drawn, and the model's own parser must find a call in them that
//! obeys its tool's schema.

use std::collections::BTreeMap;

use super::*;
use crate::grammar::calls::{Calls, Choice, Tool};
use crate::text::{
    Channel, Channels, Finish, Kind as TokenKind, Specials, Splitter, StopStrings, StreamOptions,
    TextStream, Token, Tools,
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
    /// `markers`: those that are tokens; all others are text.
    fn new(markers: &[&str], template: &str, format: Option<&str>) -> Model {
        let specials = [&["<|end_of_text|>"], markers].concat();
        let (tokenizer, end) = byte_tokenizer(&specials);
        let channels = Channels::find(template, &|text| tokenizer.token_to_id(text), format);
        let channels = channels.unwrap();
        let ids: Vec<i32> = channels.token_markers().map(|(id, _)| id).collect();
        assert_eq!(ids.is_empty(), markers.is_empty());
        let rows = tokenizer.vocab_size();
        let vocabulary = Vocabulary::new(&tokenizer, rows, &[end], &ids).unwrap();
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
        // Where messages have headers, the prompt has the beginning of one.
        let begun: Vec<i32> = match self.channels.is_harmony() {
            true => {
                let prompt = "<|start|>assistant";
                let ids = self.tokenizer.encode(prompt, Specials::Recognise, false);
                ids.unwrap()
            }
            false => Vec::new(),
        };
        stream.begin(&begun, self.tokenizer.detokenizer(true, true));
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

fn check(model: &Model, tools: &Value, name: &str, choice: &Choice, least: usize) {
    let calls = model
        .calls(tools, choice, true)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let start = calls.start.as_ref().unwrap();
    assert!(start.required);
    let mut complete = 0;
    for seed in 0..60 {
        let (ids, ended) = tokens(&start.grammar, seed, 600, true);
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

/// Of all formats but those of whole messages and sections.
const MARKERS: &[&str] = &[
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<TOOLCALL>",
    "</TOOLCALL>",
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<|tools_prefix|>",
    "<|tools_suffix|>",
    "<|tool_call_start|>",
    "<seed:tool_call>",
    "</seed:tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
    "<start_function_call>",
    "<end_function_call>",
    "<escape>",
];

fn each_format(markers: &[&str]) {
    for &(template, format) in FORMATS {
        let model = Model::new(markers, template, format);
        let name = model.channels.calls().unwrap();
        let mut tools = tools();
        check(&model, &tools, name, &Choice::Required, 40);
        check(&model, &tools, name, &Choice::Named("weather".into()), 40);
        if !matches!(
            name,
            "function_gemma" | "qwen3_coder" | "seed_oss" | "minimax_m2" | "pythonic"
        ) {
            tools.as_array_mut().unwrap().push(nested());
            let items = Choice::Named("store_items".into());
            check(&model, &tools, name, &items, 20);
        }
    }
}

#[test]
fn a_required_call_obeys_in_every_format() {
    each_format(&[]);
}

/// Markers that are tokens are those tokens, never their letters, and no text holds one.
#[test]
fn markers_that_are_tokens_are_forced_as_such() {
    each_format(MARKERS);
}

/// gpt-oss: what it thinks is a message, and so a part of the grammar; a call is one, too, and ends the answer.
#[test]
fn a_required_call_may_be_a_message() {
    let markers = [
        "<|start|>",
        "<|channel|>",
        "<|constrain|>",
        "<|message|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
    ];
    let model = Model::new(&markers, "", None);
    assert!(model.channels.is_harmony());
    let mut tools = tools();
    tools.as_array_mut().unwrap().push(nested());
    check(&model, &tools, "harmony", &Choice::Required, 20);
    let calls = model.calls(&tools, &Choice::Auto, true).unwrap();
    assert!(calls.end_answer && calls.start.is_none() && calls.behind(Some("radar")).is_none());
    let grammar = calls.behind(Some("weather")).unwrap();
    let (text, _) = draw(grammar, 3, 600);
    let arguments: Value = serde_json::from_str(&text).unwrap();
    let schema = &tools[0]["function"]["parameters"];
    assert!(valid(schema, schema, &arguments), "{text}");
}

#[test]
fn behind_a_marker_only_a_call_comes() {
    for markers in [&[], MARKERS] {
        for &(template, format) in FORMATS {
            let model = Model::new(markers, template, format);
            let calls = model.calls(&tools(), &Choice::Auto, true).unwrap();
            let grammar = calls.behind(None).unwrap();
            let open = model.channels.written().unwrap().open.unwrap_or("");
            let before = match model.tokenizer.token_to_id(open) {
                Some(id) => vec![id],
                None => {
                    let trie = model.vocabulary.factory().tok_env().tok_trie();
                    let ids = trie.greedy_tokenize(open.as_bytes()).into_iter();
                    ids.map(|id| id as i32).collect()
                }
            };
            let mut complete = 0;
            for seed in 0..30 {
                let (mut ids, ended) = tokens(grammar, seed, 600, true);
                ids.splice(0..0, before.iter().copied());
                let told = tell(&model, &tools(), &ids);
                if ended {
                    complete += 1;
                    let called = !told.calls.is_empty() && told.text.is_empty();
                    assert!(called, "{format:?} {told:?}");
                }
            }
            assert!(complete >= 20, "{format:?}: {complete} of 30");
        }
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
        let model = Model::new(&[], "", Some(format));
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
