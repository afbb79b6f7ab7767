//! MiniMax M2: `<invoke name="NAME"><parameter name="NAME">VALUE</parameter>…</invoke>`, several between two markers. A value is
//! text; the tool's schema says what it may be.

use super::value;
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::shape::{Arguments, List, Part, Shape, Values};

pub(super) const MINIMAX: Format = Format {
    name: "minimax_m2",
    open: &["<minimax:tool_call>"],
    close: &["</minimax:tool_call>"],
    is_of: |signs| signs.writes("<minimax:tool_call>"),
    parse,
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Text("<invoke name=\""),
                Part::Name,
                Part::Text("\">\n"),
                Part::Arguments(Arguments::Tagged {
                    before: "<parameter name=\"",
                    between: ("\">", ""),
                    behind: "</parameter>\n",
                    values: Values::MiniMax,
                }),
                Part::Text("</invoke>"),
            ],
            list: Some(List {
                before: "\n",
                between: "\n",
                behind: "\n",
            }),
        })
    },
    ..PLAIN
};

/// Calls between two markers; more are none.
const MOST_CALLS: usize = 1024;
/// Choices within each other that are looked into for types.
const MOST_DEPTH: u32 = 8;

fn parse(body: &str, tools: &Tools) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = body;
    while let Some((_, behind)) = rest.split_once("<invoke name=") {
        let (inner, behind) = behind.split_once("</invoke>")?;
        calls.push(call(inner, tools)?);
        rest = behind;
    }
    (!calls.is_empty() && calls.len() <= MOST_CALLS).then_some(calls)
}

fn call(text: &str, tools: &Tools) -> Option<Call> {
    let (tool, mut rest) = name(text)?;
    let mut arguments = Object::default();
    let mut count = 0;
    while let Some((_, behind)) = rest.split_once("<parameter name=") {
        let (inner, behind) = behind.split_once("</parameter>")?;
        let (argument, text) = name(inner)?;
        let schema = tools.schema(tool, argument);
        let value = typed(text.trim(), schema);
        value::set(&mut arguments, &mut count, argument, value)?;
        rest = behind;
    }
    Call::new(None, tool, arguments)
}

/// A name up to `>`, with or without quotes, and what is behind it.
fn name(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once('>')?;
    let name = name.trim();
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| name.strip_prefix(quote)?.strip_suffix(quote));
    Some((unquoted.unwrap_or(name), rest))
}

/// The first of the types that the text fits, in this order.
fn typed(text: &str, schema: Option<&Object>) -> Json {
    let mut types = Vec::new();
    if let Some(schema) = schema {
        add_types(schema, MOST_DEPTH, &mut types);
    }
    let has = |names: &[&str]| types.iter().any(|kind| names.contains(&kind.as_str()));
    let lower = text.to_ascii_lowercase();
    if lower == "null" || (has(&["null"]) && matches!(lower.as_str(), "none" | "nil")) {
        return Json::Null;
    }
    let whole = || text.trim().parse().ok().map(Json::Int);
    let read = || Json::parse(text.as_bytes()).ok();
    let whole = has(&["integer", "int"]).then(whole).flatten();
    let number = || {
        has(&["number", "float"])
            .then(|| value::number(text, false))
            .flatten()
    };
    let bool = || match lower.as_str() {
        _ if !has(&["boolean", "bool"]) => None,
        "true" | "1" | "yes" | "on" => Some(Json::Bool(true)),
        "false" | "0" | "no" | "off" => Some(Json::Bool(false)),
        _ => None,
    };
    let nested = || has(&["object", "array"]).then(read).flatten();
    let text_wanted = types.is_empty() || has(&["string", "str", "text"]);
    let own = || Json::Text(text.to_owned());
    whole
        .or_else(number)
        .or_else(bool)
        .or_else(nested)
        .or_else(|| text_wanted.then(own))
        .or_else(read)
        .unwrap_or_else(own)
}

/// The types that a schema names, in its choices too, and those of its `enum`.
fn add_types(schema: &Object, depth: u32, types: &mut Vec<String>) {
    let mut add = |kind: &str| types.push(kind.to_ascii_lowercase());
    match schema.get("type") {
        Some(Json::Text(kind)) => add(kind),
        Some(Json::List(kinds)) => kinds.iter().filter_map(Json::as_text).for_each(add),
        _ => {}
    }
    if let Some(Json::List(values)) = schema.get("enum") {
        for value in values {
            types.push(String::from(match value {
                Json::Null => "null",
                Json::Bool(_) => "boolean",
                Json::Int(_) | Json::Big(_) => "integer",
                Json::Float(_) => "number",
                Json::Text(_) => "string",
                Json::List(_) => "array",
                Json::Object(_) => "object",
            }));
        }
    }
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Json::List(choices)) = schema.get(key) {
            for choice in choices {
                if let Json::Object(choice) = choice {
                    add_types(choice, depth, types);
                }
            }
        }
    }
}
