#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod corpus;
mod cost;
mod differential;
mod hostile;
mod language;
mod origins;
mod provenance;

use serde_json::Value as Json;

use super::*;
use crate::testing::{data, skipped};

const NOON: Now = Now {
    year: 2025,
    month: 7,
    day: 1,
    hour: 12,
    minute: 0,
    second: 0,
    microsecond: 0,
};

fn json(path: &std::path::Path) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn render_with(source: &str, context: &Value) -> Result<Rendered, TemplateError> {
    let limits = Limits::default();
    Template::parse(source, &limits)?.render(context, &|| NOON, &limits)
}

fn render(source: &str, context: Json) -> Result<String, TemplateError> {
    let context = Value::from_json(&context, Origin::Content).unwrap();
    render_with(source, &context).map(|rendered| rendered.text)
}

/// On what a render or a parse may use of a thread's stack, and what the thread takes itself.
pub(super) fn on_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size((192 + 16) << 10);
    thread.spawn(run).unwrap().join().unwrap()
}
