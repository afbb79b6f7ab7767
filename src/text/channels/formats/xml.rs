//! Qwen3-Coder, Qwen 3.5 and StepFun: `<function=NAME><parameter=NAME>VALUE</parameter>…</function>`; Seed-OSS the same between
//! markers of its own. A value is text; the tool's schema says what it is.

use super::value::{self, Kind};
use crate::template::{Json, Object};
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape, Values};

const SHAPE: Option<Shape> = Some(Shape {
    call: &[
        Part::Space,
        Part::Text("<function="),
        Part::Name,
        Part::Text(">\n"),
        Part::Arguments(Arguments::Tagged {
            before: "<parameter=",
            between: (">\n", ""),
            behind: "\n</parameter>\n",
            values: Values::Coder,
        }),
        Part::Text("</function>"),
        Part::Space,
    ],
    list: None,
});

pub(super) const QWEN3_CODER: Format = Format {
    name: "qwen3_coder",
    open: &["<tool_call>"],
    close: &["</tool_call>"],
    is_of: |signs| {
        signs.writes("<tool_call>\n<function=") || signs.writes("<tool_call>\\n<function=")
    },
    parse,
    comes: COMES,
    shape: |_| SHAPE,
    ..PLAIN
};

pub(super) const SEED: Format = Format {
    name: "seed_oss",
    open: &["<seed:tool_call>"],
    close: &["</seed:tool_call>"],
    is_of: |signs| signs.writes("<seed:tool_call>"),
    parse,
    comes: COMES,
    shape: |_| SHAPE,
    ..PLAIN
};

fn parse(body: &str, tools: &Tools) -> Option<Vec<Call>> {
    let (_, mut rest) = body.split_once("<function=")?;
    rest = rest.trim_end().strip_suffix("</function>")?;
    let (tool, mut rest) = name(rest)?;
    let mut arguments = Object::default();
    let mut count = 0;
    while let Some((_, behind)) = rest.split_once("<parameter=") {
        let (inner, behind) = behind.split_once("</parameter>")?;
        let (name, value) = argument(inner, tool, tools)?;
        value::set(&mut arguments, &mut count, &name, value)?;
        rest = behind;
    }
    Some(vec![Call::new(None, tool, arguments)?])
}

/// A name up to `>`, and what is behind it.
fn name(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = text.find(|c: char| c.is_whitespace() || c == '<' || c == '>')?;
    let (name, rest) = text.split_at_checked(end)?;
    (!name.is_empty()).then(|| (name, rest.strip_prefix('>').unwrap_or(rest)))
}

/// None where the schema wants a number and this is none.
fn typed(text: &str, schema: Option<&Object>) -> Option<Json> {
    if text.eq_ignore_ascii_case("null") {
        return Some(Json::Null);
    }
    let own = || Json::Text(text.to_owned());
    let Some(schema) = schema else {
        return Some(own());
    };
    Some(match value::kind_of(schema).unwrap_or(Kind::Text) {
        Kind::Text => own(),
        Kind::Whole => value::number(text, true)?,
        Kind::Number => value::number(text, false)?,
        Kind::Bool => Json::Bool(text.eq_ignore_ascii_case("true")),
        Kind::Any => value::json_or_text(text),
    })
}

const COMES: Comes = Comes::Tagged {
    head,
    close: "</parameter>",
    read: |text, tool, tools| argument(text.split_once("<parameter=")?.1, tool, tools),
};

fn head(text: &str) -> Option<Head> {
    let (before, behind) = text.split_once("<function=")?;
    let (tool, _) = behind.split_once('>')?;
    let length = before.len().checked_add("<function=>".len())?;
    (!tool.is_empty()).then(|| Head {
        name: tool.trim().to_owned(),
        id: None,
        length: length.saturating_add(tool.len()),
    })
}

/// `NAME>VALUE`
fn argument(text: &str, tool: &str, tools: &Tools) -> Option<(String, Json)> {
    let (argument, text) = name(text)?;
    let text = text.strip_prefix('\n').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    let schema = tools.schema(tool, argument);
    Some((argument.to_owned(), typed(text, schema)?))
}
