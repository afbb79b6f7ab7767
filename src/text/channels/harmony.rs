//! gpt-oss: `<|start|>ROLE<|channel|>NAME<|message|>TEXT<|end|>`. The channel `analysis` is thinking; a message with a
//! recipient, as in `to=functions.NAME`, is a call.

use super::call::Call;
use crate::template::Json;

/// The markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Start,
    /// Stands between Start and Message.
    Header,
    Message,
    End,
}

pub(super) const MARKERS: &[(&str, Role)] = &[
    ("<|start|>", Role::Start),
    ("<|channel|>", Role::Header),
    ("<|constrain|>", Role::Header),
    ("<|message|>", Role::Message),
    ("<|end|>", Role::End),
    ("<|return|>", Role::End),
    ("<|call|>", Role::End),
];

/// What ends thinking.
pub(super) const END_OF_THINKING: &str = "<|end|><|start|>assistant<|channel|>final<|message|>";

/// Bytes of a header. A longer one is text.
pub(super) const MOST_HEADER: usize = 1024;

/// Words of a header.
fn words(header: &str) -> impl Iterator<Item = &str> {
    header
        .split(|c: char| c.is_ascii_whitespace() || c == '<' || c == '>')
        .filter(|word| !word.is_empty())
}

pub(super) fn is_analysis(header: &str) -> bool {
    let channel = header.split("<|channel|>").nth(1).unwrap_or("");
    words(channel).next() == Some("analysis")
}

/// The tool that a message is for.
pub(super) fn recipient(header: &str) -> Option<String> {
    let to = words(header).find_map(|word| word.strip_prefix("to="))?;
    match to {
        "" | "user" | "assistant" | "all" => None,
        to => Some(to.strip_prefix("functions.").unwrap_or(to).to_owned()),
    }
}

/// A message for a tool: its arguments.
pub(super) fn parse(tool: &str, body: &str) -> Option<Vec<Call>> {
    match Json::parse(body.as_bytes()) {
        Ok(Json::Object(arguments)) => Call::new(None, tool, arguments).map(|call| vec![call]),
        _ => None,
    }
}
