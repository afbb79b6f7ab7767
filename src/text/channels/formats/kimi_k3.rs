//! Kimi K3: `<|open|>call tool="NAME" index="1"<|sep|>…<|close|>call<|sep|>`, several in one section, each with arguments
//! `<|open|>argument key="KEY" type="TYPE"<|sep|>VALUE<|close|>argument<|sep|>`, or with one object of JSON. The markers around
//! sections are the splitter's.

use super::value;
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};

pub(in super::super) const KIMI_K3: Format = Format {
    name: "kimi_k3",
    parse,
    ..PLAIN
};

/// Calls in one section; more are none.
const MOST_CALLS: usize = 256;

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = body;
    while let Some((attributes, inner, behind)) = element(rest, "call") {
        calls.push(call(attributes, inner)?);
        if calls.len() > MOST_CALLS {
            return None;
        }
        rest = behind;
    }
    (!rest.contains("<|open|>")).then_some(calls)
}

/// The first element of that name: its attributes, what is in it, and what is behind it.
fn element<'t>(text: &'t str, name: &str) -> Option<(&'t str, &'t str, &'t str)> {
    let (_, behind) = text.split_once(&format!("<|open|>{name}"))?;
    let (attributes, behind) = behind.split_once("<|sep|>")?;
    let (inner, behind) = behind.split_once(&format!("<|close|>{name}<|sep|>"))?;
    Some((attributes, inner, behind))
}

fn call(attributes: &str, body: &str) -> Option<Call> {
    let tool = attribute(attributes, "tool")?;
    if let Some((_, json, _)) = element(body, "json") {
        return match Json::parse(json.trim().as_bytes()) {
            Ok(Json::Object(arguments)) => Call::new(None, &tool, arguments),
            _ => None,
        };
    }
    let mut arguments = Object::default();
    let mut count = 0;
    let mut rest = body;
    while let Some((attributes, text, behind)) = element(rest, "argument") {
        let key = attribute(attributes, "key")?;
        let value = match attribute(attributes, "type").as_deref() {
            None | Some("string") => Json::Text(text.to_owned()),
            _ => Json::parse(text.as_bytes()).unwrap_or_else(|_| Json::Text(text.to_owned())),
        };
        value::set(&mut arguments, &mut count, &key, value)?;
        rest = behind;
    }
    Call::new(None, &tool, arguments)
}

fn attribute(attributes: &str, name: &str) -> Option<String> {
    let (_, behind) = attributes.split_once(&format!(" {name}=\""))?;
    let (value, _) = behind.split_once('"')?;
    Some(value.replace("&quot;", "\"").replace("&amp;", "&"))
}
