//! Kimi K2: `functions.NAME:INDEX<|tool_call_argument_begin|>{…}`; what stands before the arguments is the id.

use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape};

const ARGUMENTS: &str = "<|tool_call_argument_begin|>";

pub(super) const KIMI_K2: Format = Format {
    name: "kimi_k2",
    open: &["<|tool_call_begin|>"],
    close: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
    sections: &["<|tool_calls_section_begin|>"],
    parts: &[ARGUMENTS],
    is_of: |signs| signs.writes("<|tool_calls_section_begin|>"),
    parse,
    comes: Comes::Json { head },
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Text("functions."),
                Part::Name,
                Part::Text(":"),
                Part::Index,
                Part::Text(ARGUMENTS),
                Part::Arguments(Arguments::Json),
            ],
            list: None,
        })
    },
    ..PLAIN
};

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let (id, arguments) = body.split_once(ARGUMENTS)?;
    let id = id.trim();
    let (name, index) = id.rsplit_once(':')?;
    if index.is_empty() || !index.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let name = name.strip_prefix("functions.").unwrap_or(name);
    match Json::parse(arguments.trim().as_bytes()) {
        Ok(Json::Object(arguments)) => Some(vec![Call::new(Some(id.to_owned()), name, arguments)?]),
        _ => None,
    }
}

fn head(text: &str) -> Option<Head> {
    let (id, arguments) = text.split_once(ARGUMENTS)?;
    let id = id.trim();
    let (name, _) = id.rsplit_once(':')?;
    let name = name.strip_prefix("functions.").unwrap_or(name);
    let length = text.len().saturating_sub(arguments.len());
    Head::before_object(text, name, Some(id), length)
}
