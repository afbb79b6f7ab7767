//! `{"name": …, "arguments": {…}}` between markers: Hermes and Qwen, and lists of them: Granite, Phi, Nemotron.

use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};

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
    ..PLAIN
};

pub(super) const NEMOTRON: Format = Format {
    name: "nemotron",
    open: &["<TOOLCALL>"],
    close: &["</TOOLCALL>"],
    is_of: |signs| signs.writes("<TOOLCALL>"),
    parse,
    ..PLAIN
};

/// Phi 4 mini.
pub(super) const PHI: Format = Format {
    name: "phi4",
    open: &["<|tool_call|>"],
    close: &["<|/tool_call|>"],
    is_of: |signs| (signs.is_token)("<|tool_call|>") && (signs.is_token)("<|/tool_call|>"),
    parse,
    ..PLAIN
};

/// Granite 3: the list goes on to the end of the answer.
pub(super) const GRANITE: Format = Format {
    name: "granite",
    open: &["<|tool_call|>"],
    is_of: |signs| signs.writes("<|tool_call|>"),
    parse,
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
