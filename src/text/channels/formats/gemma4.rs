//! Gemma 4: `call:NAME{KEY:VALUE,…}`, JSON but for its keys, which have no quotes, and its texts, which stand between `<|"|>`.

use super::cursor::{Cursor, MOST_DEPTH};
use super::value;
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::shape::{Arguments, Part, Shape};

const QUOTE: &str = "<|\"|>";

pub(super) const GEMMA4: Format = Format {
    name: "gemma4",
    open: &["<|tool_call>"],
    close: &["<tool_call|>"],
    parts: &[QUOTE],
    is_of: |signs| signs.writes("<|tool_call>") && signs.writes("<tool_call|>"),
    parse,
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Text("call:"),
                Part::Name,
                Part::Arguments(Arguments::Gemma { nested: true }),
            ],
            list: None,
        })
    },
    ..PLAIN
};

/// Calls between two markers; more are none.
const MOST_CALLS: usize = 256;

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let mut at = Cursor(body);
    let mut calls = Vec::new();
    loop {
        at.space();
        if at.0.is_empty() {
            return Some(calls);
        }
        if !at.take("call:") || calls.len() > MOST_CALLS {
            return None;
        }
        let name = at.word(|c| c.is_alphanumeric() || matches!(c, '_' | '-'))?;
        let Json::Object(arguments) = object(&mut at, MOST_DEPTH)? else {
            return None;
        };
        calls.push(Call::new(None, name, arguments)?);
    }
}

/// `depth` is how much deeper it may get.
fn literal(at: &mut Cursor, depth: u32) -> Option<Json> {
    at.space();
    let depth = depth.checked_sub(1)?;
    if at.take(QUOTE) {
        return at.until(QUOTE).map(|text| Json::Text(text.to_owned()));
    }
    match at.peek()? {
        '{' => object(at, depth),
        '[' => list(at, depth),
        '"' => quoted(at),
        c if c.is_ascii_digit() || c == '-' => at.number(),
        _ => match at.word(char::is_alphanumeric)? {
            "true" => Some(Json::Bool(true)),
            "false" => Some(Json::Bool(false)),
            "null" => Some(Json::Null),
            _ => None,
        },
    }
}

/// A text as JSON has it.
fn quoted(at: &mut Cursor) -> Option<Json> {
    let (text, length) = Json::first(at.0)?;
    at.0 = at.0.get(length..)?;
    Some(text)
}

fn list(at: &mut Cursor, depth: u32) -> Option<Json> {
    let mut items = Vec::new();
    at.take("[");
    at.space();
    if at.take("]") {
        return Some(Json::List(items));
    }
    loop {
        items.push(literal(at, depth)?);
        at.space();
        if at.take("]") {
            return Some(Json::List(items));
        }
        at.take(",").then_some(())?;
    }
}

fn object(at: &mut Cursor, depth: u32) -> Option<Json> {
    let mut entries = Object::default();
    let mut count = 0;
    at.space();
    at.take("{").then_some(())?;
    at.space();
    if at.take("}") {
        return Some(Json::Object(entries));
    }
    loop {
        at.space();
        let key = match at.peek()? {
            '"' => match quoted(at)? {
                Json::Text(key) => key,
                _ => return None,
            },
            _ if at.take(QUOTE) => at.until(QUOTE)?.to_owned(),
            _ => at
                .word(|c| !matches!(c, ':' | ',' | '{' | '}' | '<'))?
                .to_owned(),
        };
        at.space();
        at.take(":").then_some(())?;
        let value = literal(at, depth)?;
        value::set(&mut entries, &mut count, key.trim(), value)?;
        at.space();
        if at.take("}") {
            return Some(Json::Object(entries));
        }
        at.take(",").then_some(())?;
    }
}
