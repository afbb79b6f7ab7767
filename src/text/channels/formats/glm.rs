//! GLM 4.5 and later, and Laguna: `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…`; LongCat the same with markers of its
//! own. A value is JSON, unless the tool's schema wants a text.

use super::json;
use super::value::{self, Kind};
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape, Values};

pub(super) const GLM: Format = Format {
    name: "glm47",
    open: &["<tool_call>"],
    close: &["</tool_call>"],
    is_of: |signs| signs.writes("<arg_key>"),
    parts: &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    parse: |body, tools| parse(body, tools, &GLM_TAGS),
    comes: Comes::Tagged {
        head: |text| head(text, &GLM_TAGS),
        close: "</arg_value>",
        read: |text, tool, tools| argument(text, tool, tools, &GLM_TAGS),
    },
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Name,
                Part::Space,
                Part::Arguments(Arguments::Tagged {
                    before: "<arg_key>",
                    between: ("</arg_key>", "<arg_value>"),
                    behind: "</arg_value>",
                    values: Values::Glm,
                }),
            ],
            list: None,
        })
    },
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
    comes: Comes::Tagged {
        head: |text| head(text, &LONGCAT_TAGS),
        close: "</longcat_arg_value>",
        read: |text, tool, tools| argument(text, tool, tools, &LONGCAT_TAGS),
    },
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Name,
                Part::Space,
                Part::Arguments(Arguments::Tagged {
                    before: "<longcat_arg_key>",
                    between: ("</longcat_arg_key>", "<longcat_arg_value>"),
                    behind: "</longcat_arg_value>",
                    values: Values::Glm,
                }),
            ],
            list: None,
        })
    },
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
    let [key_start, _] = tags.key;
    let [_, value_end] = tags.value;
    let Some((tool, _)) = body.split_once(key_start) else {
        return without_arguments(body, tools);
    };
    let tool = tool.trim();
    let mut rest = body;
    let mut arguments = Object::default();
    let mut count = 0;
    while rest.contains(key_start) {
        let (one, behind) = rest.split_once(value_end)?;
        let (key, value) = argument(one, tool, tools, tags)?;
        value::set(&mut arguments, &mut count, &key, value)?;
        rest = behind;
    }
    is_name(tool).then(|| Call::new(None, tool, arguments).map(|call| vec![call]))?
}

/// The tags of a key, and its value without the last one.
fn argument(text: &str, tool: &str, tools: &Tools, tags: &Tags) -> Option<(String, Json)> {
    let [key_start, key_end] = tags.key;
    let [value_start, _] = tags.value;
    let (_, behind) = text.split_once(key_start)?;
    let (key, behind) = behind.split_once(key_end)?;
    let behind = behind.trim_start().trim_start_matches("\\n").trim_start();
    let (key, text) = (key.trim(), behind.strip_prefix(value_start)?.trim());
    let schema = tools.schema(tool, key);
    let value = match schema.and_then(value::kind_of) {
        Some(Kind::Text) => Json::Text(text.to_owned()),
        _ => value::json_or_text(text),
    };
    Some((key.to_owned(), value))
}

fn head(text: &str, tags: &Tags) -> Option<Head> {
    let (tool, _) = text.split_once(tags.key[0])?;
    is_name(tool.trim()).then(|| Head {
        name: tool.trim().to_owned(),
        id: None,
        length: tool.len(),
    })
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
