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
    parts: &parts(&GLM_TAGS),
    parse: |body, tools| parse(body, tools, &GLM_TAGS),
    comes: Comes::Tagged {
        head: |text| head(text, &GLM_TAGS),
        close: GLM_TAGS.value[1],
        read: |text, tool, tools| argument(text, tool, tools, &GLM_TAGS),
    },
    shape: |_| Some(GLM_SHAPE),
    // Half a call has fewer arguments.
    ends_itself: false,
    ..PLAIN
};

pub(super) const LONGCAT: Format = Format {
    name: "longcat",
    open: &["<longcat_tool_call>"],
    close: &["</longcat_tool_call>"],
    is_of: |signs| signs.writes("<longcat_tool_call>"),
    parts: &parts(&LONGCAT_TAGS),
    parse: |body, tools| parse(body, tools, &LONGCAT_TAGS),
    comes: Comes::Tagged {
        head: |text| head(text, &LONGCAT_TAGS),
        close: LONGCAT_TAGS.value[1],
        read: |text, tool, tools| argument(text, tool, tools, &LONGCAT_TAGS),
    },
    shape: |_| Some(LONGCAT_SHAPE),
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

const fn parts(tags: &Tags) -> [&'static str; 4] {
    [tags.key[0], tags.key[1], tags.value[0], tags.value[1]]
}

const fn call(tags: &Tags) -> [Part; 3] {
    let arguments = Arguments::Tagged {
        before: tags.key[0],
        between: (tags.key[1], tags.value[0]),
        behind: tags.value[1],
        values: Values::Glm,
    };
    [Part::Name, Part::Space, Part::Arguments(arguments)]
}

const GLM_SHAPE: Shape = Shape {
    call: &call(&GLM_TAGS),
    list: None,
};

const LONGCAT_SHAPE: Shape = Shape {
    call: &call(&LONGCAT_TAGS),
    list: None,
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
