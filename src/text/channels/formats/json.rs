//! `{"name": …, "arguments": {…}}` between markers: Hermes and Qwen, and lists of them: Granite, Phi, Nemotron.

use super::cursor::Cursor;
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape, JSON_CALL, JSON_LIST};

const LIST: Option<Shape> = Some(Shape {
    call: JSON_CALL,
    list: Some(JSON_LIST),
});
const SPACED_CALL: &[Part] = &[
    Part::Space,
    Part::Text("{\"name\": \""),
    Part::Name,
    Part::Text("\", \"arguments\": "),
    Part::Arguments(Arguments::Json),
    Part::Text("}"),
    Part::Space,
];

pub(in super::super) const HERMES: Format = Format {
    name: "json_tools",
    open: &["<tool_call>"],
    close: &["</tool_call>"],
    is_of: |signs| {
        signs.writes("<tool_call>")
            || (signs.template.is_empty()
                && (signs.is_token)("<tool_call>")
                && (signs.is_token)("</tool_call>"))
    },
    parse,
    comes: COMES,
    shape: |_| {
        Some(Shape {
            call: SPACED_CALL,
            list: None,
        })
    },
    ..PLAIN
};

pub(super) const NEMOTRON: Format = Format {
    name: "nemotron",
    open: &["<TOOLCALL>"],
    close: &["</TOOLCALL>"],
    is_of: |signs| signs.writes("<TOOLCALL>"),
    parse,
    comes: COMES,
    shape: |_| LIST,
    ..PLAIN
};

/// Phi 4 mini.
pub(super) const PHI: Format = Format {
    name: "phi4",
    open: &["<|tool_call|>"],
    close: &["<|/tool_call|>"],
    is_of: |signs| (signs.is_token)("<|tool_call|>") && (signs.is_token)("<|/tool_call|>"),
    parse,
    comes: COMES,
    shape: |_| LIST,
    ..PLAIN
};

/// Granite 3: the list goes on to the end of the answer.
pub(super) const GRANITE: Format = Format {
    name: "granite",
    open: &["<|tool_call|>"],
    is_of: |signs| signs.writes("<|tool_call|>"),
    parse,
    comes: COMES,
    shape: |_| LIST,
    ..PLAIN
};

/// A call, or a list of them.
pub(super) fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    match Json::parse(body.trim().as_bytes()).ok()? {
        Json::List(calls) => calls.into_iter().map(call).collect(),
        one => Some(vec![call(one)?]),
    }
}

/// `{"name", "arguments"}`; some write `parameters`, and arguments as the text of their JSON.
pub(super) fn call(value: Json) -> Option<Call> {
    let Json::Object(mut call) = value else {
        return None;
    };
    let name = call.take("name")?;
    let arguments = call.take("arguments").or_else(|| call.take("parameters"));
    let id = call.take("id");
    let id = id.as_ref().and_then(Json::as_text).map(str::to_owned);
    Call::new(id, name.as_text()?, arguments_of(arguments)?)
}

fn arguments_of(value: Option<Json>) -> Option<Object> {
    match value {
        None => Some(Object::default()),
        Some(Json::Object(arguments)) => Some(arguments),
        Some(Json::Text(text)) => match Json::parse(text.as_bytes()) {
            Ok(Json::Object(arguments)) => Some(arguments),
            _ => None,
        },
        Some(_) => None,
    }
}

pub(super) const COMES: Comes = Comes::Json { head };

/// `{"name": …, "arguments": `, perhaps behind the call before in a list.
pub(super) fn head(text: &str) -> Option<Head> {
    let between = [' ', '\t', '\r', '\n', '[', ',', ';', '}'];
    let mut at = Cursor(text.trim_start_matches(between));
    at.take("{").then_some(())?;
    (string(&mut at)? == "name").then_some(())?;
    colon(&mut at)?;
    let name = string(&mut at)?;
    at.space();
    at.take(",").then_some(())?;
    let key = string(&mut at)?;
    matches!(key.as_str(), "arguments" | "parameters").then_some(())?;
    colon(&mut at)?;
    Head::before_object(text, &name, None, text.len().saturating_sub(at.0.len()))
}

/// A string that comes next, behind white space.
pub(super) fn string(at: &mut Cursor) -> Option<String> {
    at.space();
    at.0.starts_with('"').then_some(())?;
    let (text, length) = Json::first(at.0)?;
    at.0 = at.0.get(length..)?;
    text.as_text().map(str::to_owned)
}

pub(super) fn colon(at: &mut Cursor) -> Option<()> {
    at.space();
    at.take(":").then_some(())
}
