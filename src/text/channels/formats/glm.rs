//! GLM 4.5 and later, and Laguna: `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…`; LongCat the same with markers of its
//! own. A value is JSON, unless the tool's schema wants a text.

use super::json;
use super::value::{self, Kind};
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};

pub(super) const GLM: Format = Format {
    name: "glm47",
    open: &["<tool_call>"],
    close: &["</tool_call>"],
    is_of: |signs| signs.writes("<arg_key>"),
    parts: &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    parse: |body, tools| parse(body, tools, &GLM_TAGS),
    // Half a call has fewer arguments.
    ends_itself: false,
    ..PLAIN
};

pub(super) const LONGCAT: Format = Format {
    name: "longcat",
    open: &["<longcat_tool_call>"],
    close: &["</longcat_tool_call>"],
    is_of: |signs| signs.writes("<longcat_tool_call>"),
    parts: &[
        "<longcat_arg_key>",
        "</longcat_arg_key>",
        "<longcat_arg_value>",
        "</longcat_arg_value>",
    ],
    parse: |body, tools| parse(body, tools, &LONGCAT_TAGS),
    ends_itself: false,
    ..PLAIN
};

struct Tags {
    key: [&'static str; 2],
    value: [&'static str; 2],
}

const GLM_TAGS: Tags = Tags {
    key: ["<arg_key>", "</arg_key>"],
    value: ["<arg_value>", "</arg_value>"],
};

const LONGCAT_TAGS: Tags = Tags {
    key: ["<longcat_arg_key>", "</longcat_arg_key>"],
    value: ["<longcat_arg_value>", "</longcat_arg_value>"],
};

fn parse(body: &str, tools: &Tools, tags: &Tags) -> Option<Vec<Call>> {
    let body = body.trim();
    let [key_start, key_end] = tags.key;
    let [value_start, value_end] = tags.value;
    let Some((tool, _)) = body.split_once(key_start) else {
        return without_arguments(body, tools);
    };
    let tool = tool.trim();
    let mut rest = body;
    let mut arguments = Object::default();
    let mut count = 0;
    while let Some((_, behind)) = rest.split_once(key_start) {
        let (key, behind) = behind.split_once(key_end)?;
        let behind = behind.trim_start().trim_start_matches("\\n").trim_start();
        let (text, behind) = behind.strip_prefix(value_start)?.split_once(value_end)?;
        let (key, text) = (key.trim(), text.trim());
        let schema = tools.schema(tool, key);
        let value = match schema.and_then(value::kind_of) {
            Some(Kind::Text) => Json::Text(text.to_owned()),
            _ => value::json_or_text(text),
        };
        value::set(&mut arguments, &mut count, key, value)?;
        rest = behind;
    }
    is_name(tool).then(|| Call::new(None, tool, arguments).map(|call| vec![call]))?
}

/// A name alone, or what Hermes writes.
fn without_arguments(body: &str, tools: &Tools) -> Option<Vec<Call>> {
    match is_name(body) {
        true => Some(vec![Call::new(None, body, Object::default())?]),
        false => json::parse(body, tools),
    }
}

fn is_name(text: &str) -> bool {
    let is = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    !text.is_empty() && text.chars().all(is)
}
