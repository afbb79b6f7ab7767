//! Thinking and calls: that nothing is lost and no marker shows, however the text is cut; and mlx-lm's parsers beside ours.

use std::collections::BTreeMap;

use serde_json::{json, Value};

use super::{read, shared, Rng};
use crate::text::channels::{Show, MOST_CALL};
use crate::text::stop::StopStrings;
use crate::text::{
    Budget, Channel, Channels, ChatTemplate, Chunk, Finish, Kind, Splitter, StreamOptions,
    TemplateFiles, TextStream, Token, Tokenizer, Tools,
};
use std::sync::Arc;

/// Markers of a model of that format; none is a token.
fn by_text(template: &str, parser: Option<&str>) -> Arc<Channels> {
    Channels::find(template, &|_| None, parser).unwrap()
}

fn splitter(channels: &Arc<Channels>, tools: Value) -> Splitter {
    let mut splitter = Splitter::new(channels.clone(), Arc::new(Tools::new(Some(&read(&tools)))));
    splitter.begin();
    splitter
}

/// A piece of an answer: where it belongs, what is shown, and what stood there.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    channel: Channel,
    shown: String,
    raw: String,
}

/// What comes of an answer in these pieces; neighbours of one kind are joined.
fn split(mut splitter: Splitter, pieces: &[&str]) -> Vec<Part> {
    let all = pieces.concat();
    let mut parts: Vec<Part> = Vec::new();
    let mut spanned = 0;
    let mut take = |splitter: &mut Splitter, come: usize| {
        while let Some(span) = splitter.pop() {
            assert!(span.end >= spanned && span.end <= come, "{span:?} {all:?}");
            let raw = all[spanned..span.end].to_owned();
            spanned = span.end;
            let shown = match span.show {
                Show::Itself => raw.clone(),
                Show::Call(call) => call,
                Show::Space => {
                    assert!(raw.len() <= 16 && raw.bytes().all(|b| b.is_ascii_whitespace()));
                    String::new()
                }
                Show::Marker => String::new(),
            };
            match parts.last_mut() {
                Some(last)
                    if last.channel == span.channel
                        && last.shown.is_empty() == shown.is_empty()
                        && span.channel != Channel::ToolCall =>
                {
                    last.shown.push_str(&shown);
                    last.raw.push_str(&raw);
                }
                _ => parts.push(Part {
                    channel: span.channel,
                    shown,
                    raw,
                }),
            }
        }
    };
    let mut come = 0;
    for piece in pieces {
        splitter.take_text(piece);
        come += piece.len();
        take(&mut splitter, come);
    }
    splitter.finish();
    take(&mut splitter, come);
    assert_eq!(spanned, all.len(), "{all:?}");
    parts
}

fn shown(parts: &[Part], channel: Channel) -> Vec<&str> {
    let of = parts.iter().filter(|part| part.channel == channel);
    let of = of.map(|part| part.shown.as_str());
    of.filter(|text| !text.is_empty()).collect()
}

/// The call without its id.
fn nameless(call: &str) -> Value {
    let mut call: Value = serde_json::from_str(call).unwrap();
    let id = call.as_object_mut().unwrap().remove("id").unwrap();
    assert!(!id.as_str().unwrap().is_empty());
    call
}

#[test]
fn the_parts_of_an_answer() {
    let channels = by_text("<think></think><tool_call>", None);
    let of = |text: &str| split(splitter(&channels, json!([])), &[text]);
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>";
    let parts = of(&format!("<think>\nhm\n</think>\n\nSo: {call}\n{call} and"));
    assert_eq!(shown(&parts, Channel::Thinking), ["hm"]);
    assert_eq!(shown(&parts, Channel::Text), ["So:", "and"]);
    let calls = shown(&parts, Channel::ToolCall);
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0], calls[1], "ids");
    assert_eq!(
        nameless(calls[0]),
        json!({"name": "f", "arguments": {"a": 1}})
    );
    // Without a call the markers go and the rest is text.
    for (text, said) in [
        ("<tool_call>no call</tool_call>", vec!["no call"]),
        (
            "a <tool_call>{\"name\": \"f\"",
            vec!["a", "{\"name\": \"f\""],
        ),
        ("a </think> b </tool_call> c", vec!["a", "b", "c"]),
        ("white space \n", vec!["white space \n"]),
        ("<thin", vec!["<thin"]),
    ] {
        let parts = of(text);
        assert_eq!(shown(&parts, Channel::Text), said, "{text}");
        assert!(shown(&parts, Channel::ToolCall).is_empty(), "{text}");
    }
    // A call in the middle of thinking; and what is none is thought.
    let parts = of(&format!("<think>a {call}b"));
    assert_eq!(shown(&parts, Channel::Thinking), ["a"]);
    assert_eq!(shown(&parts, Channel::Text), ["b"]);
    let parts = of("<think>a <tool_call>what? </think>b");
    assert_eq!(shown(&parts, Channel::Thinking), ["a", "what? "]);
    assert_eq!(shown(&parts, Channel::Text), ["b"]);
}

#[test]
fn gemma_names_its_channel() {
    let channels = by_text("<|channel><channel|><|tool_call><tool_call|>", None);
    let of = |text: &str| split(splitter(&channels, json!([])), &[text]);
    for (text, thought, said) in [
        (
            "<|channel>thought\nhm\n<channel|>So",
            vec!["hm"],
            vec!["So"],
        ),
        ("<|channel>thought\n<channel|>So", vec![], vec!["So"]),
        ("<|channel>though<channel|>So", vec!["though"], vec!["So"]),
        (
            "<|channel>other\nhm<channel|>So",
            vec!["other\nhm"],
            vec!["So"],
        ),
    ] {
        let parts = of(text);
        assert_eq!(shown(&parts, Channel::Thinking), thought, "{text}");
        assert_eq!(shown(&parts, Channel::Text), said, "{text}");
    }
}

/// Random texts with markers, halves of markers and nested ones, in random pieces: the pieces make no difference, nothing is
/// lost, and no marker shows.
#[test]
fn cuts_make_no_difference() {
    let mut rng = Rng::new(31);
    let mut called = 0;
    for (template, markers) in [
        (
            "<think></think><tool_call>",
            &["<think>", "</think>", "<tool_call>", "</tool_call>"][..],
        ),
        (
            "<|channel><channel|><|tool_call><tool_call|>",
            &["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"],
        ),
        (
            "[THINK][TOOL_CALLS]",
            &["[THINK]", "[/THINK]", "[TOOL_CALLS]"],
        ),
        (
            "<think><arg_key>",
            &["<think>", "</think>", "<tool_call>", "</tool_call>"],
        ),
    ] {
        let channels = by_text(template, None);
        let bodies = [
            "{\"name\": \"f\", \"arguments\": {}}",
            "call:f{a:<|\"|>x<|\"|>}",
            "f[ARGS]{\"a\": 1}",
            "f<arg_key>a</arg_key><arg_value>1</arg_value>",
            "thought\n",
            "a",
            "é",
            " ",
            "\n",
            "<",
            "{",
            "<th",
            "ink>",
            "tool_",
            "                    ",
        ];
        for _ in 0..6_000 {
            let mut text = String::new();
            for _ in 0..rng.below(9) {
                match rng.below(3) {
                    0 => text.push_str(bodies[rng.below(bodies.len())]),
                    1 => text.push_str(markers[rng.below(markers.len())]),
                    _ => {
                        let marker = markers[rng.below(markers.len())];
                        text.push_str(&marker[..rng.below(marker.len())]);
                        text.push_str(bodies[rng.below(bodies.len())]);
                    }
                }
            }
            let whole = split(splitter(&channels, json!([])), &[&text]);
            let borders: Vec<usize> = text
                .char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .collect();
            let mut cuts: Vec<usize> = (0..rng.below(12)).map(|_| *rng.pick(&borders)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            let cut = split(splitter(&channels, json!([])), &pieces);
            let same = |parts: &[Part]| -> Vec<(Channel, String, String)> {
                let of = parts.iter().map(|part| match part.channel {
                    Channel::ToolCall => (
                        part.channel,
                        nameless(&part.shown).to_string(),
                        part.raw.clone(),
                    ),
                    _ => (part.channel, part.shown.clone(), part.raw.clone()),
                });
                of.collect()
            };
            assert_eq!(same(&whole), same(&cut), "{text:?} {pieces:?}");
            for part in &whole {
                called += usize::from(part.channel == Channel::ToolCall);
                let leaks = |marker: &&&str| part.shown.contains(**marker);
                assert_eq!(markers.iter().find(leaks), None, "{text:?} {whole:?}");
            }
        }
    }
    assert!(called > 80, "only {called} calls");
}

/// Each format's parser beside mlx-lm's, on whole answers.
#[test]
fn calls_are_those_of_mlx_lm() {
    let file: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/tools.json")).unwrap();
    let mut formats: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in file["cases"].as_array().unwrap() {
        let (format, what) = (
            case["format"].as_str().unwrap(),
            case["what"].as_str().unwrap(),
        );
        let channels = by_text("", Some(format));
        assert_eq!(channels.calls(), Some(format));
        let text = case["text"].as_str().unwrap();
        let parts = split(splitter(&channels, file["tools"].clone()), &[text]);
        let ours: Vec<Value> = shown(&parts, Channel::ToolCall)
            .iter()
            .map(|call| serde_json::from_str(call).unwrap())
            .collect();
        let theirs = case["calls"].as_array().unwrap();
        let same = ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(ours, theirs)| {
                let id = theirs.get("id").is_none_or(|id| *id == ours["id"]);
                id && ours["name"] == theirs["name"] && ours["arguments"] == theirs["arguments"]
            });
        let count = formats.entry(format.to_owned()).or_default();
        count.0 += 1;
        count.1 += usize::from(same);
        if same == DIFFERENT.contains(&(format, what)) {
            wrong.push(format!("{format}: {what}: {ours:?}, mlx-lm {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        formats
            .values()
            .all(|(all, same)| *all >= 30 && same * 3 >= all * 2),
        "{formats:?}"
    );
}

/// Format and case, and why.
const DIFFERENT: &[(&str, &str)] = &[
    // A call without a name is none.
    ("json_tools", "no name"),
    ("glm47", "no name"),
    ("longcat", "no name"),
    ("minimax_m2", "no name"),
    ("kimi_k2", "no name"),
    // A first marker begins a call, wherever it stands.
    ("json_tools", "nested markers"),
    ("qwen3_coder", "nested markers"),
    ("glm47", "nested markers"),
    ("longcat", "nested markers"),
    ("minimax_m2", "nested markers"),
    ("gemma4", "nested markers"),
    ("function_gemma", "nested markers"),
    ("pythonic", "nested markers"),
    ("mistral", "nested markers"),
    ("json_tools", "first marker twice"),
    ("glm47", "first marker twice"),
    ("longcat", "first marker twice"),
    // Half a marker at the end of an answer is that marker.
    ("json_tools", "cut in the last marker"),
    ("qwen3_coder", "cut in the last marker"),
    // Of a call in this form nobody knows whether more arguments were to come.
    ("glm47", "cut in the last marker"),
    ("glm47", "no last marker"),
    ("glm47", "half a call"),
    ("glm47", "nearly a call"),
    ("longcat", "cut in the last marker"),
    ("longcat", "no last marker"),
    ("longcat", "half a call"),
    ("longcat", "nearly a call"),
    // mlx-lm makes calls of "unknown" and of the first word.
    ("glm47", "nothing between"),
    ("glm47", "white space between"),
    ("glm47", "words between"),
    // mlx-lm fails on a call without arguments.
    ("longcat", "right 2"),
    // Its parser has no nested values and divides them at commas.
    ("function_gemma", "right 3"),
    ("function_gemma", "right 4"),
    // Words beside a call.
    ("gemma4", "two closing braces"),
    ("gemma4", "words behind the call"),
    ("function_gemma", "two closing braces"),
    ("function_gemma", "words behind the call"),
    ("pythonic", "words behind the call"),
    ("mistral", "two closing braces"),
    ("mistral", "words behind the call"),
    // mlx-lm takes what stands between its own markers; ours are those of each call.
    ("kimi_k2", "no first marker"),
    ("kimi_k2", "half a call"),
    ("kimi_k2", "nearly a call"),
    // Arguments are an object of JSON; mlx-lm reads Python's literals, and what it cannot read it passes on as a text.
    ("kimi_k2", "single quotes"),
    ("kimi_k2", "comma behind the last"),
    ("kimi_k2", "no closing brace"),
    ("kimi_k2", "two closing braces"),
    // mlx-lm cuts the name at the dot.
    ("mistral", "name with a dot"),
];

/// Formats that mlx-lm does not know.
#[test]
fn calls_of_other_formats() {
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]);
    for (template, text) in [
        ("<TOOLCALL>", "<TOOLCALL>[{\"name\": \"weather\", \"arguments\": {\"city\": \"12\", \"days\": 3}}]</TOOLCALL>"),
        ("<|tool_call|>", "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": \"12\", \"days\": 3}}]"),
        ("<|tools_prefix|>", "<|tools_prefix|>[{\"weather\": {\"city\": \"12\", \"days\": 3}}]<|tools_suffix|>"),
        ("<seed:tool_call>", "<seed:tool_call>\n<function=weather>\n<parameter=city>12</parameter>\n<parameter=days>3</parameter>\n</function>\n</seed:tool_call>"),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"12\", \"days\": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"12\", \"days\": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("[TOOL_CALLS]", "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"12\", \"days\": 3}, \"id\": \"abcdefghi\"}]"),
        ("[TOOL_CALLS]", "[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{\"city\": \"12\", \"days\": 3}"),
    ] {
        let channels = by_text(template, None);
        let parts = split(splitter(&channels, tools.clone()), &[text]);
        let calls = shown(&parts, Channel::ToolCall);
        assert_eq!(calls.len(), 1, "{text} {parts:?}");
        assert_eq!(nameless(calls[0]), json!({"name": "weather", "arguments": {"city": "12", "days": 3}}), "{text}");
        assert!(!text.contains("abcdefghi") || calls[0].contains("\"id\":\"abcdefghi\""));
        assert_eq!(shown(&parts, Channel::Text), Vec::<&str>::new(), "{text}");
        let broken = text.replace("\"name\": \"weather\", ", "").replace("3}", "3").replace("</function>", "").replace("weather\": {", "weather\": ");
        let parts = split(splitter(&channels, tools.clone()), &[&broken]);
        assert!(shown(&parts, Channel::ToolCall).is_empty(), "{broken}");
        assert!(shown(&parts, Channel::Text).concat().contains("12"), "{broken}");
    }
}

/// Llama 3 writes a call as its whole answer, where there are tools; what begins otherwise is not held back.
#[test]
fn an_answer_may_be_a_call_without_markers() {
    let id_of = |text: &str| (text == "<|start_header_id|>").then_some(1);
    let channels = Channels::find("tools \"parameters\"", &id_of, None).unwrap();
    let tools = json!([{"name": "f"}]);
    let call = "{\"name\": \"f\", \"parameters\": {\"a\": 1}}";
    for (text, calls) in [
        (call.to_owned(), 1),
        (format!("\n{call}; {call}"), 2),
        (format!("<|python_tag|>{call}"), 1),
        (format!("{call} and more"), 0),
        ("{\"name\": \"f\"}".to_owned(), 0),
        ("{\"city\": \"Oslo\"}".to_owned(), 0),
    ] {
        let parts = split(splitter(&channels, tools.clone()), &[&text]);
        let made = shown(&parts, Channel::ToolCall);
        assert_eq!(made.len(), calls, "{text}");
        for made in made {
            assert_eq!(nameless(made), json!({"name": "f", "arguments": {"a": 1}}));
        }
        if calls == 0 {
            assert_eq!(shown(&parts, Channel::Text).concat(), text);
        }
        let parts = split(splitter(&channels, json!([])), &[&text]);
        let expected = usize::from(text.starts_with("<|python_tag|>"));
        assert_eq!(
            shown(&parts, Channel::ToolCall).len(),
            expected,
            "without tools: {text}"
        );
    }
    for text in ["Hello", "[", "{\"city\"", &" ".repeat(100)] {
        let mut splitter = splitter(&channels, tools.clone());
        splitter.take_text(text);
        splitter.take_text("x");
        assert!(splitter.pop().is_some(), "{text:?} is held back");
    }
}

fn harmony() -> Arc<Channels> {
    let markers = [
        "<|start|>",
        "<|channel|>",
        "<|constrain|>",
        "<|message|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
    ];
    let id_of = |text: &str| {
        markers
            .iter()
            .position(|marker| *marker == text)
            .map(|id| id as i32)
    };
    Channels::find("", &id_of, None).unwrap()
}

/// As `split`, of an answer whose markers are tokens.
fn split_marked(mut splitter: Splitter, text: &str) -> Vec<(Channel, String)> {
    let mut rest = text;
    let mut all = String::new();
    let mut parts: Vec<(Channel, String)> = Vec::new();
    let mut spanned = 0;
    let mut take = |splitter: &mut Splitter, all: &str| {
        while let Some(span) = splitter.pop() {
            let raw = &all[spanned..span.end];
            spanned = span.end;
            let shown = match span.show {
                Show::Itself => raw,
                Show::Call(ref call) => call,
                _ => continue,
            };
            match parts.last_mut() {
                Some(last) if last.0 == span.channel => last.1.push_str(shown),
                _ => parts.push((span.channel, shown.to_owned())),
            }
        }
    };
    while !rest.is_empty() {
        let id = (0..7).find(|id| {
            splitter
                .marker(*id)
                .is_some_and(|marker| rest.starts_with(marker))
        });
        match id {
            Some(id) => {
                let marker = splitter.marker(id).unwrap().to_owned();
                splitter.take_marker(id);
                all.push_str(&marker);
                rest = &rest[marker.len()..];
            }
            None => {
                let length = rest.chars().next().unwrap().len_utf8();
                splitter.take_text(&rest[..length]);
                all.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
        take(&mut splitter, &all);
    }
    splitter.finish();
    take(&mut splitter, &all);
    parts
}

#[test]
fn gpt_oss_writes_messages() {
    let channels = harmony();
    let begun = || {
        let mut splitter = Splitter::new(channels.clone(), Arc::default());
        splitter.take_marker(0);
        splitter.take_text("assistant");
        splitter.begin();
        splitter
    };
    let call = r#""name":"f","arguments":{"a":1}}"#;
    for (text, expected) in [
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>So.<|return|>",
            vec![(Channel::Thinking, "hm"), (Channel::Text, "So.")],
        ),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
            vec![(Channel::Thinking, "hm"), (Channel::ToolCall, call)],
        ),
        (
            " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}<|call|>",
            vec![(Channel::ToolCall, call)],
        ),
        (
            "<|channel|>commentary<|message|>First I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f<|message|>{\"a\": 1",
            vec![(Channel::Text, "First I look.{\"a\": 1")],
        ),
        (
            "<|channel|>final<|message|>a <|channel|> b",
            vec![(Channel::Text, "a b")],
        ),
        ("no header at all", vec![(Channel::Text, "no header at all")]),
    ] {
        let parts = split_marked(begun(), text);
        assert_eq!(parts.len(), expected.len(), "{text} {parts:?}");
        for ((channel, shown), (wanted, said)) in parts.iter().zip(expected) {
            assert_eq!(*channel, wanted, "{text}");
            match wanted {
                Channel::ToolCall => assert!(shown.ends_with(said), "{shown}"),
                _ => assert_eq!(shown, said, "{text}"),
            }
        }
    }
}

#[test]
fn kimi_k3_writes_sections() {
    let markers = ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"];
    let id_of = |text: &str| {
        markers
            .iter()
            .position(|marker| *marker == text)
            .map(|id| id as i32)
    };
    let channels = Channels::find("", &id_of, None).unwrap();
    assert_eq!(
        (channels.thinks(), channels.calls()),
        (true, Some("kimi_k3"))
    );
    let call = "<|open|>call tool=\"f\" index=\"1\"<|sep|><|open|>argument key=\"a\" type=\"number\"<|sep|>1<|close|>argument<|sep|><|close|>call<|sep|>";
    let json = "<|open|>call tool=\"f\" index=\"2\"<|sep|><|open|>json type=\"object\"<|sep|>{\"a\": 1}<|close|>json<|sep|><|close|>call<|sep|>";
    let text = format!("<|open|>think<|sep|>hm<|close|>think<|sep|><|open|>response<|sep|>So.<|close|>response<|sep|><|open|>tools<|sep|>{call}\n{json}<|close|>tools<|sep|><|close|>message<|sep|><|end_of_msg|>");
    let begun = || {
        let mut splitter = Splitter::new(channels.clone(), Arc::default());
        splitter.begin();
        splitter
    };
    let parts = split_marked(begun(), &text);
    assert_eq!(parts[0], (Channel::Thinking, "hm".to_owned()));
    assert_eq!(parts[1], (Channel::Text, "So.".to_owned()));
    assert_eq!(
        parts[2]
            .1
            .matches(r#""name":"f","arguments":{"a":1}}"#)
            .count(),
        2,
        "{parts:?}"
    );
    assert_eq!(parts.len(), 3);
    // Open from the prompt; and half a call.
    let mut splitter = begun();
    splitter.take_marker(0);
    splitter.take_text("think");
    splitter.take_marker(2);
    splitter.begin();
    let half = "hm<|close|>think<|sep|><|open|>tools<|sep|><|open|>call tool=\"f\"<|sep|>";
    let parts = split_marked(splitter, half);
    assert_eq!(
        parts,
        [
            (Channel::Thinking, "hm".to_owned()),
            (Channel::Text, "call tool=\"f\"".to_owned())
        ]
    );
}

/// A model that never closes its call, writes a megabyte of arguments, or nests them for ever, costs what its answer costs.
#[test]
fn hostile_answers_are_bounded() {
    let channels = by_text("<think><tool_call>", None);
    let start = std::time::Instant::now();
    let feed = |text: &str, piece: &str, times: usize| {
        let mut splitter = splitter(&channels, json!([]));
        splitter.take_text(text);
        let mut most = 0;
        let mut spans = Vec::new();
        for _ in 0..times {
            splitter.take_text(piece);
            while let Some(span) = splitter.pop() {
                spans.push(span);
            }
            most = most.max(splitter.held());
        }
        splitter.finish();
        while let Some(span) = splitter.pop() {
            spans.push(span);
        }
        assert_eq!(spans.last().unwrap().end, text.len() + piece.len() * times);
        assert!(most <= MOST_CALL + 4096, "{most}");
        spans
            .into_iter()
            .filter(|span| matches!(span.show, Show::Call(_)))
            .count()
    };
    assert_eq!(feed("<tool_call>", "abcdefgh", 400_000), 0);
    assert_eq!(feed("<tool_call>{\"a\":", "[", 400_000), 0);
    assert_eq!(feed("<tool_call>", "<tool_call>", 200_000), 0);
    assert_eq!(
        feed("", "<tool_call>{\"name\":\"f\"}</tool_call>", 20_000),
        20_000
    );
    assert_eq!(feed("<think>", " \n", 400_000), 0);
    assert_eq!(feed("", "<thin", 400_000), 0);
    let long = format!(
        "{{\"name\":\"f\",\"arguments\":{{\"a\":\"{}\"}}}}",
        "x".repeat(900_000)
    );
    assert_eq!(feed("<tool_call>", &format!("{long}</tool_call>"), 1), 1);
    for format in [
        "pythonic",
        "gemma4",
        "function_gemma",
        "qwen3_coder",
        "minimax_m2",
        "glm47",
        "longcat",
        "mistral",
        "kimi_k2",
        "json_tools",
    ] {
        let channels = by_text("", Some(format));
        let open = match format {
            "pythonic" => ["<|tool_call_start|>[f(a=", "<|tool_call_end|>"],
            "gemma4" => ["<|tool_call>call:f{a:", "<tool_call|>"],
            "function_gemma" => ["<start_function_call>call:f{a:", "<end_function_call>"],
            "qwen3_coder" => ["<tool_call><function=f>", "</tool_call>"],
            "minimax_m2" => ["<minimax:tool_call><invoke name=f>", "</minimax:tool_call>"],
            "glm47" => ["<tool_call>f", "</tool_call>"],
            "longcat" => ["<longcat_tool_call>f", "</longcat_tool_call>"],
            "mistral" => ["[TOOL_CALLS]f[ARGS]", ""],
            "kimi_k2" => [
                "<|tool_call_begin|>f:0<|tool_call_argument_begin|>",
                "<|tool_call_end|>",
            ],
            _ => ["<tool_call>{\"name\":", "</tool_call>"],
        };
        for piece in [
            "[",
            "{",
            "(",
            "a",
            "\"",
            "a=1,",
            "{a:",
            "[f(",
            "<parameter=a>",
            "<parameter=a></parameter>",
            "<arg_key>",
            "<arg_key>a</arg_key><arg_value></arg_value>",
            "<escape>",
            "\\",
            "'",
        ] {
            let text = format!(
                "{}{}{}",
                open[0],
                piece.repeat(300_000 / piece.len()),
                open[1]
            );
            let parts = split(splitter(&channels, json!([])), &[&text]);
            let raw: usize = parts.iter().map(|part| part.raw.len()).sum();
            assert_eq!(raw, text.len());
        }
    }
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

/// Which markers each published template has.
#[test]
fn templates_tell_their_markers() {
    let Some(folder) = shared("templates") else {
        return;
    };
    for (file, thinks, calls) in TEMPLATES {
        let source = std::fs::read_to_string(folder.join(format!("{file}.jinja"))).unwrap();
        // What a template writes in angle brackets is mostly a token.
        let id_of = |text: &str| source.contains(text).then_some(text.len() as i32);
        let found = Channels::find(&source, &id_of, None);
        let got = found.map(|channels| (channels.thinks(), channels.calls()));
        let wanted = (*thinks || calls.is_some()).then_some((*thinks, *calls));
        assert_eq!(got, wanted, "{file}");
    }
}

/// How published templates end an answer's thinking.
#[test]
fn templates_tell_how_thinking_ends() {
    let Some(folder) = shared("templates") else {
        return;
    };
    for (file, end) in [
        ("qwen3-0.6b", Some("\n</think>\n\n")),
        ("Qwen3.5-4B", Some("\n</think>\n\n")),
        ("GLM-4.6", Some("</think>\n")),
        ("ByteDance-Seed-OSS", Some("</seed:think>\n")),
        ("MiniMax-M2", Some("\n</think>\n\n")),
        ("qwen2.5-0.5b-instruct", None),
    ] {
        let bytes = std::fs::read(folder.join(format!("{file}.jinja"))).unwrap();
        let files = TemplateFiles {
            jinja: Some(Ok(bytes)),
            ..TemplateFiles::default()
        };
        let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let special = special.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let template = ChatTemplate::find(files, &special).unwrap();
        assert_eq!(template.end_of_thinking().as_deref(), end, "{file}");
    }
}

const TEMPLATES: &[(&str, bool, Option<&str>)] = &[
    ("Apertus-8B-Instruct", true, Some("apertus")),
    ("ByteDance-Seed-OSS", true, Some("seed_oss")),
    ("DeepSeek-V3.2", true, Some("deepseek")),
    ("GLM-4.6", true, Some("glm47")),
    ("Kimi-K2-Instruct", false, Some("kimi_k2")),
    ("Kimi-K2-Thinking", true, Some("kimi_k2")),
    ("LFM2-8B-A1B", false, Some("pythonic")),
    ("MiniMax-M2", true, Some("minimax_m2")),
    (
        "Mistral-Small-3.2-24B-Instruct-2506",
        false,
        Some("mistral"),
    ),
    (
        "mistralai-Ministral-3-14B-Reasoning-2512",
        true,
        Some("mistral"),
    ),
    ("NVIDIA-Nemotron-Nano-v2", true, Some("nemotron")),
    ("Qwen3-Coder", false, Some("qwen3_coder")),
    ("Qwen3-Next-Instruct", false, Some("json_tools")),
    ("Qwen3.5-4B", true, Some("qwen3_coder")),
    ("StepFun3.5-Flash", true, Some("qwen3_coder")),
    ("gemma-4", true, Some("gemma4")),
    ("gemma-3-4b-it", false, None),
    ("gpt-oss", true, Some("harmony")),
    ("granite-3.1-8b-instruct", false, Some("granite")),
    ("ibm-granite-granite-4.0", false, Some("json_tools")),
    ("llama-3.1-8b-instruct", false, Some("llama3_json")),
    (
        "meta-llama-Llama-3.2-3B-Instruct",
        false,
        Some("llama3_json"),
    ),
    ("llama-3-instruct", false, None),
    ("qwen2.5-0.5b-instruct", false, Some("json_tools")),
    ("qwen3-0.6b", true, Some("json_tools")),
    ("smollm3-3b", true, Some("json_tools")),
    ("phi-3-mini-4k-instruct", false, None),
    ("cz-chatml", false, None),
];

/// Letters of bytes, and the markers of Qwen as added tokens.
fn tokenizer() -> Tokenizer {
    let (_, mut file) = super::tokens::small();
    let added = file["added_tokens"].as_array_mut().unwrap();
    let first = added[0]["id"].as_u64().unwrap();
    added.truncate(2);
    for (place, content) in ["<think>", "</think>", "<tool_call>", "</tool_call>"]
        .iter()
        .enumerate()
    {
        let mut token = added[0].clone();
        token["id"] = json!(first + 2 + place as u64);
        token["content"] = json!(content);
        token["special"] = json!(place % 2 == 0);
        added.push(token);
    }
    Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap(), None).unwrap()
}

/// Whole streams: random tokens, markers among them, with stop strings. Every token comes once and in order, markers show
/// nowhere, a text that only looks like one does, and texts are whole.
#[test]
fn streams_keep_every_token_and_show_no_marker() {
    let tokenizer = tokenizer();
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    let markers = ["<think>", "</think>", "<tool_call>", "</tool_call>"].map(id);
    let channels = Channels::find("", &|text| tokenizer.token_to_id(text), None).unwrap();
    let call = tokenizer
        .encode(
            "{\"name\":\"f\",\"arguments\":{}}",
            crate::text::Specials::Recognise,
            false,
        )
        .unwrap();
    let looks = tokenizer
        .encode("<think>", crate::text::Specials::AsText, false)
        .unwrap();
    assert!(looks.len() > 1);
    let pool = [b'a', b'b', b' ', b'\n', b'<', 0xc3, 0xa9, 0xe2, 0xf0].map(i32::from);
    let mut rng = Rng::new(77);
    let (mut calls, mut thoughts, mut stopped) = (0, 0, 0);
    for round in 0..20_000 {
        let mut ids = Vec::new();
        for _ in 0..rng.below(14) {
            match rng.below(6) {
                0 | 1 => ids.push(*rng.pick(&markers)),
                2 => ids.extend_from_slice(&call),
                3 => ids.extend_from_slice(&looks),
                _ => ids.push(*rng.pick(&pool)),
            }
        }
        let stops = match rng.below(3) {
            0 => vec!["ab"],
            1 => vec!["<think>", "a\n"],
            _ => vec![],
        };
        let splitter = Splitter::new(channels.clone(), Arc::default());
        let options = StreamOptions {
            splitter: Some(splitter),
            ..StreamOptions::default()
        };
        let set = StopStrings::new(&stops).unwrap();
        let mut stream = TextStream::new(tokenizer.detokenizer(true, true), &set, options);
        let mut chunks: Vec<Chunk> = Vec::new();
        for id in &ids {
            let token = Token {
                id: *id,
                ..Token::default()
            };
            let kind = match tokenizer.is_special(*id) {
                true => Kind::Silent,
                false => Kind::Normal,
            };
            stream.push(token, kind);
            chunks.extend(std::iter::from_fn(|| stream.pop()));
        }
        stream.finish(Finish::End);
        chunks.extend(std::iter::from_fn(|| stream.pop()));
        let context = || format!("round {round}: {ids:?} {stops:?} {chunks:?}");
        let got: Vec<i32> = chunks
            .iter()
            .flat_map(|chunk| chunk.tokens.clone())
            .collect();
        match stream.stopped() {
            None => assert_eq!(got, ids, "{}", context()),
            Some(_) => assert!(ids.starts_with(&got), "{}", context()),
        }
        stopped += usize::from(stream.stopped().is_some());
        for chunk in &chunks {
            assert!(!chunk.text.is_empty() || !chunk.tokens.is_empty());
            assert!(
                chunk.channel == Channel::Thinking || chunk.thinking == 0,
                "{}",
                context()
            );
            match chunk.channel {
                Channel::ToolCall => {
                    calls += 1;
                    assert_eq!(nameless(&chunk.text), json!({"name": "f", "arguments": {}}));
                }
                Channel::Thinking => thoughts += usize::from(!chunk.text.is_empty()),
                Channel::Text => {}
                Channel::ToolDelta => panic!("nobody asked for it"),
            }
        }
        // Shown are all letters that stand neither in a call nor next to a marker as white space.
        let all: String = chunks
            .iter()
            .filter(|c| c.channel != Channel::ToolCall)
            .map(|c| c.text.as_str())
            .collect();
        let text: String = chunks
            .iter()
            .filter(|c| c.channel == Channel::Text)
            .map(|c| c.text.as_str())
            .collect();
        if stream.stopped().is_none() {
            let plain: Vec<i32> = ids
                .iter()
                .copied()
                .filter(|id| !markers.contains(id))
                .collect();
            let plain = tokenizer.detokenize(&plain, true).unwrap();
            let letters = |text: &str| text.matches('a').count();
            let in_calls = calls_in(&chunks) * letters("{\"name\":\"f\",\"arguments\":{}}");
            assert_eq!(letters(&all) + in_calls, letters(&plain), "{}", context());
        }
        assert!(
            !text.contains("ab")
                || !stops.contains(&"ab")
                || stream.stopped().is_none()
                || !joined_runs(&chunks).iter().any(|run| run.contains("ab")),
            "{}",
            context()
        );
    }
    assert!(
        calls > 300 && thoughts > 2_000 && stopped > 1_000,
        "{calls} {thoughts} {stopped}"
    );
}

fn calls_in(chunks: &[Chunk]) -> usize {
    chunks
        .iter()
        .filter(|chunk| chunk.channel == Channel::ToolCall)
        .count()
}

/// Texts with nothing between them.
fn joined_runs(chunks: &[Chunk]) -> Vec<String> {
    let mut runs = vec![String::new()];
    for chunk in chunks {
        match chunk.channel {
            Channel::Text if !chunk.text.is_empty() => {
                runs.last_mut().unwrap().push_str(&chunk.text)
            }
            _ => runs.push(String::new()),
        }
    }
    runs
}

/// After its budget a model is told to say what ends thinking, once for each time that it thinks.
#[test]
fn a_budget_forces_the_end() {
    let tokenizer = tokenizer();
    let id = |text: &str| tokenizer.token_to_id(text).unwrap();
    let channels = Channels::find("", &|text| tokenizer.token_to_id(text), None).unwrap();
    let end = vec![i32::from(b'\n'), id("</think>")];
    for tokens_only in [false, true] {
        let options = StreamOptions {
            tokens_only,
            splitter: Some(Splitter::new(channels.clone(), Arc::default())),
            budget: Some(Budget {
                tokens: 2,
                end: end.clone().into(),
            }),
        };
        let none = StopStrings::new::<&str>(&[]).unwrap();
        let mut stream = TextStream::new(tokenizer.detokenizer(true, true), &none, options);
        let mut forced = Vec::new();
        let letter = i32::from(b'a');
        for next in [
            letter,
            id("<think>"),
            letter,
            letter,
            end[0],
            end[1],
            letter,
            id("<think>"),
            end[0],
            end[1],
        ] {
            let token = Token {
                id: next,
                ..Token::default()
            };
            stream.push(token, Kind::Normal);
            forced.push(stream.forced().len());
        }
        assert_eq!(forced, [0, 0, 0, 2, 0, 0, 0, 2, 0, 0]);
        stream.finish(Finish::End);
        let chunks: Vec<Chunk> = std::iter::from_fn(|| stream.pop()).collect();
        let thinking: u64 = chunks.iter().map(|chunk| chunk.thinking).sum();
        assert_eq!(thinking, 2, "{tokens_only}");
    }
}
