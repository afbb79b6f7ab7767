//! Mistral: `[TOOL_CALLS]` and a list of calls, or `NAME[ARGS]{…}`, perhaps with `[CALL_ID]ID` between, up to the next one or the
//! end of the answer.

use super::json;
use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape, JSON_CALL, JSON_LIST};

const ID: &str = "[CALL_ID]";
const ARGUMENTS: &str = "[ARGS]";
/// Calls behind one marker; more are none.
const MOST_CALLS: usize = 256;

const WITH_ARGS: &[Part] = &[
    Part::Name,
    Part::Text(ARGUMENTS),
    Part::Arguments(Arguments::Json),
];

pub(super) const MISTRAL: Format = Format {
    name: "mistral",
    open: &["[TOOL_CALLS]"],
    parts: &[ID, ARGUMENTS],
    is_of: |signs| signs.writes("[TOOL_CALLS]"),
    parse,
    comes: Comes::Json { head },
    shape: |signs| {
        let (call, list) = match signs.writes(ARGUMENTS) || (signs.is_token)(ARGUMENTS) {
            true => (WITH_ARGS, None),
            false => (JSON_CALL, Some(JSON_LIST)),
        };
        Some(Shape { call, list })
    },
    ..PLAIN
};

fn parse(body: &str, tools: &Tools) -> Option<Vec<Call>> {
    let body = body.trim();
    if body.starts_with('[') && !body.starts_with(ID) {
        return json::parse(body, tools);
    }
    let mut calls = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let brace = rest.find('{')?;
        let (head, behind) = rest.split_at_checked(brace)?;
        let (arguments, length) = Json::first(behind)?;
        let head = head.trim_end();
        let head = head.strip_suffix(ARGUMENTS).unwrap_or(head).trim();
        let (name, id) = match head.split_once(ID) {
            Some((name, id)) => (name.trim(), Some(id.trim().to_owned())),
            None => (head, None),
        };
        let is = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        match arguments {
            Json::Object(arguments) if name.chars().all(is) => {
                calls.push(Call::new(id, name, arguments)?);
            }
            _ => return None,
        }
        if calls.len() > MOST_CALLS {
            return None;
        }
        rest = behind.get(length..)?.trim_start();
    }
    Some(calls)
}

fn head(text: &str) -> Option<Head> {
    let body = text.trim_start();
    if body.starts_with(['[', ',', '}']) && !body.starts_with(ID) {
        return json::head(text);
    }
    let (before, _) = body.split_once('{')?;
    let before = before.trim_end();
    let before = before.strip_suffix(ARGUMENTS).unwrap_or(before).trim();
    let (name, id) = match before.split_once(ID) {
        Some((name, id)) => (name.trim(), Some(id.trim())),
        None => (before, None),
    };
    Head::before_object(text, name, id, text.find('{')?)
}
