//! Llama 3: the whole answer is a call, `{"name": …, "parameters": {…}}`, perhaps behind `<|python_tag|>`; several stand one behind
//! the other, with `;` between them. Looked for where a conversation offers tools.

use super::json;
use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::shape::{Arguments, List, Part, Shape};

pub(super) const LLAMA3: Format = Format {
    name: "llama3_json",
    open: &["<|python_tag|>"],
    is_of: |signs| {
        (signs.is_token)("<|start_header_id|>")
            && signs.writes("\"parameters\"")
            && signs.writes("tools")
    },
    parse,
    comes: json::COMES,
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Text("{\"name\": \""),
                Part::Name,
                Part::Text("\", \"parameters\": "),
                Part::Arguments(Arguments::Json),
                Part::Text("}"),
            ],
            list: Some(List {
                before: "",
                between: "; ",
                behind: "",
            }),
        })
    },
    bare: Some(looks_like_one),
    ..PLAIN
};

/// White space in front of a call.
const MOST_SPACE: usize = 16;
/// Calls in one answer; more are none.
const MOST_CALLS: usize = 256;

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (call, length) = Json::first(rest)?;
        match &call {
            Json::Object(call) if call.get("parameters").or(call.get("arguments")).is_some() => {}
            _ => return None,
        }
        calls.push(json::call(call)?);
        if calls.len() > MOST_CALLS {
            return None;
        }
        rest = rest.get(length..)?.trim_start();
        rest = rest.strip_prefix(';').unwrap_or(rest).trim_start();
    }
    Some(calls)
}

/// `{`, and in it first of all one of a call's keys.
fn looks_like_one(text: &str) -> bool {
    const KEYS: [&str; 4] = ["\"name\"", "\"type\"", "\"parameters\"", "\"arguments\""];
    // White space may go on for ever.
    let space = text
        .bytes()
        .take(MOST_SPACE)
        .take_while(u8::is_ascii_whitespace);
    let text = text.get(space.count()..).unwrap_or("");
    let Some(inside) = text.strip_prefix('{') else {
        return text.is_empty();
    };
    let space = inside
        .bytes()
        .take(MOST_SPACE)
        .take_while(u8::is_ascii_whitespace);
    let inside = inside.get(space.count()..).unwrap_or("");
    KEYS.iter()
        .any(|key| inside.starts_with(key) || key.starts_with(inside))
}
