//! Kimi K3's sections: `<|open|>NAME<|sep|>…<|close|>NAME<|sep|>`, of which `think` is thinking, `tools` calls, and all others text.

/// The markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Open,
    Close,
    Separator,
}

pub(super) const MARKERS: &[(&str, Role)] = &[
    ("<|open|>", Role::Open),
    ("<|close|>", Role::Close),
    ("<|sep|>", Role::Separator),
];
/// A vocabulary that has this one too is Kimi K3's.
pub(super) const END_OF_MESSAGE: &str = "<|end_of_msg|>";

/// What ends thinking.
pub(super) const END_OF_THINKING: &str = "<|close|>think<|sep|><|open|>response<|sep|>";
/// What ends a section of calls.
pub(super) const END_OF_CALLS: &str = "<|close|>tools<|sep|>";

/// Whether a tag opens its section, and its name.
pub(super) fn read(tag: &str) -> (bool, &str) {
    let opens = tag.starts_with("<|open|>");
    let name = tag.split_once("|>").map_or("", |(_, name)| name);
    let end = name.find(|c: char| c.is_ascii_whitespace() || c == '<');
    (opens, name.get(..end.unwrap_or(name.len())).unwrap_or(""))
}
