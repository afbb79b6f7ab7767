//! Apertus: a list of `{"NAME": {…}}`, the key the tool's name.

use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};

pub(super) const APERTUS: Format = Format {
    name: "apertus",
    open: &["<|tools_prefix|>"],
    close: &["<|tools_suffix|>"],
    is_of: |signs| signs.writes("<|tools_prefix|>"),
    parse,
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
