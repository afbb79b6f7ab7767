//! FunctionGemma: `call:NAME{KEY:<escape>TEXT<escape>,KEY:VALUE,…}`; a value without those markers is JSON, or a text.

use super::cursor::Cursor;
use super::value;
use crate::template::Json;
use crate::template::Object;
use crate::text::channels::call::{Call, Format, Tools, PLAIN};
use crate::text::channels::shape::{Arguments, Part, Shape};

const ESCAPE: &str = "<escape>";

pub(super) const FUNCTION_GEMMA: Format = Format {
    name: "function_gemma",
    open: &["<start_function_call>"],
    close: &["<end_function_call>"],
    parts: &[ESCAPE],
    is_of: |signs| signs.writes("<start_function_call>"),
    parse,
    shape: |_| {
        Some(Shape {
            call: &[
                Part::Text("call:"),
                Part::Name,
                Part::Arguments(Arguments::Gemma { nested: false }),
            ],
            list: None,
        })
    },
    ..PLAIN
};

fn parse(body: &str, _: &Tools) -> Option<Vec<Call>> {
    let mut at = Cursor(body.trim());
    at.take("call:").then_some(())?;
    let tool = at.word(|c| c.is_alphanumeric() || c == '_')?;
    at.take("{").then_some(())?;
    let mut arguments = Object::default();
    let mut count = 0;
    while !at.take("}") {
        let key = at.word(|c| !matches!(c, ':' | ',' | '}'))?;
        at.take(":").then_some(())?;
        let value = if at.take(ESCAPE) {
            Json::Text(at.until(ESCAPE)?.to_owned())
        } else {
            let text = at.word(|c| !matches!(c, ',' | '}'))?;
            Json::parse(text.as_bytes()).unwrap_or_else(|_| Json::Text(text.to_owned()))
        };
        value::set(&mut arguments, &mut count, key.trim(), value)?;
        if !at.take(",") && at.peek() != Some('}') {
            return None;
        }
    }
    at.0.is_empty()
        .then(|| Call::new(None, tool, arguments).map(|call| vec![call]))?
}
