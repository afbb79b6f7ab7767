//! LFM2 and Llama 4: a list of calls as Python writes them, `[NAME(KEY=VALUE, …), …]`. Values are Python's literals; JSON's `true`,
//! `false` and `null` too, since templates write nested values as JSON.

use super::cursor::{Cursor, MOST_DEPTH};
use super::value;
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::shape::{Arguments, Part, Shape, JSON_LIST};

const SHAPE: Option<Shape> = Some(Shape {
    call: &[
        Part::Name,
        Part::Text("("),
        Part::Arguments(Arguments::Python),
        Part::Text(")"),
    ],
    list: Some(JSON_LIST),
});

pub(super) const LFM2: Format = Format {
    name: "pythonic",
    open: &["<|tool_call_start|>"],
    close: &["<|tool_call_end|>"],
    is_of: |signs| {
        signs.writes("<|tool_list_start|>")
            || signs.writes("<|tool_call_start|>")
            || ((signs.is_token)("<|tool_call_start|>") && (signs.is_token)("<|tool_call_end|>"))
    },
    parse,
    shape: |_| SHAPE,
    ..PLAIN
};

pub(super) const LLAMA4: Format = Format {
    name: "llama4_pythonic",
    open: &["<|python_start|>"],
    close: &["<|python_end|>"],
    is_of: |signs| (signs.is_token)("<|python_start|>") && (signs.is_token)("<|python_end|>"),
    parse,
    shape: |_| SHAPE,
    ..PLAIN
};

/// Calls in one list; more are none.
const MOST_CALLS: usize = 256;

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let mut at = Cursor(body.trim());
    let mut calls = Vec::new();
    if !at.take("[") {
        return None;
    }
    loop {
        at.space();
        if at.take("]") {
            break;
        }
        calls.push(call(&mut at)?);
        if calls.len() > MOST_CALLS || !goes_on(&mut at, "]")? {
            break;
        }
    }
    (at.0.is_empty() && calls.len() <= MOST_CALLS).then_some(calls)
}

/// Behind an item: whether a comma came and not the end.
fn goes_on(at: &mut Cursor, end: &str) -> Option<bool> {
    at.space();
    match (at.take(","), at.take(end)) {
        (true, false) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn call(at: &mut Cursor) -> Option<Call> {
    let tool = at.word(|c| is_letter(c) || c == '.')?;
    at.space();
    if !at.take("(") {
        return None;
    }
    let mut arguments = Object::default();
    let mut count = 0;
    loop {
        at.space();
        if at.take(")") {
            break;
        }
        let name = at.word(is_letter)?;
        at.space();
        if !at.take("=") {
            return None;
        }
        let value = literal(at, MOST_DEPTH)?;
        value::set(&mut arguments, &mut count, name, value)?;
        if !goes_on(at, ")")? {
            break;
        }
    }
    Call::new(None, tool, arguments)
}

fn is_letter(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `depth` is how much deeper it may get.
fn literal(at: &mut Cursor, depth: u32) -> Option<Json> {
    at.space();
    let depth = depth.checked_sub(1)?;
    match at.peek()? {
        '"' | '\'' => text(at).map(Json::Text),
        '[' => list(at, "[", "]", depth),
        '(' => list(at, "(", ")", depth),
        '{' => dict(at, depth),
        c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => at.number(),
        _ => match at.word(is_letter)? {
            "True" | "true" => Some(Json::Bool(true)),
            "False" | "false" => Some(Json::Bool(false)),
            "None" | "null" => Some(Json::Null),
            _ => None,
        },
    }
}

fn list(at: &mut Cursor, open: &str, close: &str, depth: u32) -> Option<Json> {
    let mut items = Vec::new();
    at.take(open);
    loop {
        at.space();
        if at.take(close) {
            break;
        }
        items.push(literal(at, depth)?);
        if !goes_on(at, close)? {
            break;
        }
    }
    Some(Json::List(items))
}

fn dict(at: &mut Cursor, depth: u32) -> Option<Json> {
    let mut entries = Object::default();
    let mut count = 0;
    at.take("{");
    loop {
        at.space();
        if at.take("}") {
            break;
        }
        let key = text(at)?;
        at.space();
        if !at.take(":") {
            return None;
        }
        let value = literal(at, depth)?;
        count = usize::saturating_add(count, 1);
        if count > value::MOST_ARGUMENTS {
            return None;
        }
        entries.set(&key, value);
        if !goes_on(at, "}")? {
            break;
        }
    }
    Some(Json::Object(entries))
}

/// A string in quotes of either kind, perhaps three of them, with Python's escapes.
fn text(at: &mut Cursor) -> Option<String> {
    let quote = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quote| at.take(quote))?;
    let long = quote.len() > 1;
    let mut out = String::new();
    loop {
        if at.take(quote) {
            return Some(out);
        }
        let c = at.peek()?;
        at.0 = at.0.get(c.len_utf8()..)?;
        match c {
            '\\' => escape(at, &mut out)?,
            '\n' if !long => return None,
            c => out.push(c),
        }
    }
}

fn escape(at: &mut Cursor, out: &mut String) -> Option<()> {
    let c = at.peek()?;
    at.0 = at.0.get(c.len_utf8()..)?;
    let mut hex = |digits: usize| {
        let (code, rest) = at.0.split_at_checked(digits)?;
        at.0 = rest;
        code.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        char::from_u32(u32::from_str_radix(code, 16).ok()?)
    };
    let meant = match c {
        '\n' => return Some(()),
        '\\' | '\'' | '"' => c,
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'a' => '\u{7}',
        'v' => '\u{b}',
        'x' => hex(2)?,
        'u' => hex(4)?,
        'U' => hex(8)?,
        '0' => '\0',
        // What Python does not know stays as it is.
        c => {
            out.extend(['\\', c]);
            return Some(());
        }
    };
    out.push(meant);
    Some(())
}
