//! DeepSeek V3 and R1: `function<｜tool▁sep｜>NAME`, then the arguments in a fence of JSON; V3.1 and later:
//! `NAME<｜tool▁sep｜>{…}`.

use crate::template::Json;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};

const SEPARATOR: &str = "<｜tool▁sep｜>";

pub(super) const DEEPSEEK: Format = Format {
    name: "deepseek",
    open: &["<｜tool▁call▁begin｜>"],
    close: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
    sections: &["<｜tool▁calls▁begin｜>"],
    parts: &[SEPARATOR],
    is_of: |signs| signs.writes("<｜tool▁calls▁begin｜>"),
    parse,
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
