//! DeepSeek V3 and R1: `function<｜tool▁sep｜>NAME`, then the arguments in a fence of JSON; V3.1 and later:
//! `NAME<｜tool▁sep｜>{…}`.

use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::deltas::{Comes, Head};
use crate::text::channels::shape::{Arguments, Part, Shape};

const SEPARATOR: &str = "<｜tool▁sep｜>";

const V3: &[Part] = &[
    Part::Text("function<｜tool▁sep｜>"),
    Part::Name,
    Part::Text("\n```json\n"),
    Part::Arguments(Arguments::Json),
    Part::Text("\n```"),
];
const V3_1: &[Part] = &[
    Part::Name,
    Part::Text(SEPARATOR),
    Part::Arguments(Arguments::Json),
];

pub(super) const DEEPSEEK: Format = Format {
    name: "deepseek",
    open: &["<｜tool▁call▁begin｜>"],
    close: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
    sections: &["<｜tool▁calls▁begin｜>"],
    parts: &[SEPARATOR],
    is_of: |signs| signs.writes("<｜tool▁calls▁begin｜>"),
    parse,
    comes: Comes::Json { head },
    shape: |signs| {
        let fenced = signs.writes("```json");
        Some(Shape {
            call: if fenced { V3 } else { V3_1 },
            list: None,
        })
    },
    ..PLAIN
};

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let (before, behind) = body.split_once(SEPARATOR)?;
    let (name, arguments) = match behind.split_once("```json") {
        Some((name, fenced)) => (name, fenced.trim().strip_suffix("```")?),
        None => (before, behind),
    };
    match Json::parse(arguments.trim().as_bytes()) {
        Ok(Json::Object(arguments)) => Some(vec![Call::new(None, name.trim(), arguments)?]),
        _ => None,
    }
}

fn head(text: &str) -> Option<Head> {
    let (before, behind) = text.split_once(SEPARATOR)?;
    let (name, arguments) = match behind.split_once("```json") {
        Some((name, fenced)) => (name, fenced),
        None => (before, behind),
    };
    let length = text.len().saturating_sub(arguments.len());
    Head::before_object(text, name.trim(), None, length)
}
