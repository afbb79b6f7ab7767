//! Arguments that are written as text: what the tool's schema makes of them.

use crate::template::{Json, Object};

/// Arguments of one call; more are no call.
pub(super) const MOST_ARGUMENTS: usize = 1024;

/// Sets an argument; None where there are too many.
pub(super) fn set(
    arguments: &mut Object,
    count: &mut usize,
    name: &str,
    value: Json,
) -> Option<()> {
    *count = count.saturating_add(1);
    if *count > MOST_ARGUMENTS || name.is_empty() {
        return None;
    }
    arguments.set(name, value);
    Some(())
}

/// JSON where it is JSON, else the text itself.
pub(super) fn json_or_text(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap_or_else(|_| literal(text))
}

/// Python's words for three of JSON's values; else the text itself.
fn literal(text: &str) -> Json {
    match text {
        "True" => Json::Bool(true),
        "False" => Json::Bool(false),
        "None" => Json::Null,
        text => Json::Text(text.to_owned()),
    }
}

/// What a value is to be by its schema.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Text,
    Whole,
    Number,
    Bool,
    /// Lists, objects, and what is not said.
    Any,
}

/// None where the schema says nothing.
pub(super) fn kind_of(schema: &Object) -> Option<Kind> {
    let name = schema.get("type")?.as_text()?.trim().to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    Some(match name.as_str() {
        "string" | "str" | "text" | "varchar" | "char" | "enum" => Kind::Text,
        "boolean" | "bool" | "binary" => Kind::Bool,
        _ if begins(&["int", "uint", "long", "short", "unsigned"]) => Kind::Whole,
        _ if begins(&["num", "float"]) => Kind::Number,
        _ => Kind::Any,
    })
}

/// A number as text; None where it is none, or, with `whole`, has a fraction.
pub(super) fn number(text: &str, whole: bool) -> Option<Json> {
    if let Ok(value @ (Json::Int(_) | Json::Big(_))) = Json::parse(text.trim().as_bytes()) {
        return Some(value);
    }
    let float: f64 = text
        .trim()
        .parse()
        .ok()
        .filter(|float: &f64| float.is_finite())?;
    match float.fract() == 0.0 && float.abs() < 9e15 {
        true => Some(Json::Int(float as i64)),
        false if whole => None,
        false => Some(Json::Float(float)),
    }
}
