//! Apertus: a list of `{"NAME": {…}}`, the key the tool's name.

use super::cursor::Cursor;
use super::json;
use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape, JSON_LIST};

pub(super) const APERTUS: Format = Format {
    name: "apertus",
    open: &["<|tools_prefix|>"],
    close: &["<|tools_suffix|>"],
    is_of: |signs| signs.writes("<|tools_prefix|>"),
    parse,
    comes: Comes::Json { head },
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Text("{\""),
                Part::Name,
                Part::Text("\": "),
                Part::Arguments(Arguments::Json),
                Part::Text("}"),
            ],
            list: Some(JSON_LIST),
        })
    },
    ..PLAIN
};

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let Json::List(list) = Json::parse(body.trim().as_bytes()).ok()? else {
        return None;
    };
    let call = |one: Json| {
        let Json::Object(one) = one else {
            return None;
        };
        let mut entries = one.iter();
        let (name, arguments) = entries.next()?;
        match (arguments, entries.next()) {
            (Json::Object(arguments), None) => Call::new(None, name, arguments.clone()),
            _ => None,
        }
    };
    list.into_iter().map(call).collect()
}

/// `{"NAME": ` behind the list's beginning or the call before.
fn head(text: &str) -> Option<Head> {
    let mut at = Cursor(text.trim_start_matches([' ', '\n', '[', ',', '}']));
    at.take("{").then_some(())?;
    let name = json::string(&mut at)?;
    json::colon(&mut at)?;
    Head::before_object(text, &name, None, text.len().saturating_sub(at.0.len()))
}
