//! What a model writes beside its answer: its thinking, and calls of tools, each between markers of its family's.
//!
//! `find` looks up which markers a model has, in its chat template and its vocabulary. `Splitter` takes the decoded text and
//! the markers as they are generated, and says of each byte where it belongs. A marker that is one token of the vocabulary is
//! known by its id alone: text that merely looks like it is text. What stands between the markers of a call goes to the
//! parser of its format, one file each; what does not parse is text.

mod call;
mod deltas;
mod find;
mod formats;
mod harmony;
pub mod shape;
mod splitter;
mod thinking;
mod xtml;

pub use call::Tools;
pub use find::Channels;
pub use splitter::Splitter;
#[cfg(test)]
pub(super) use splitter::MOST_CALL;
pub(super) use splitter::{Show, Span};

/// Where a piece of an answer belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channel {
    #[default]
    Text,
    Thinking,
    ToolCall,
    /// A piece of a call that is not complete: for who wants it early, and no part of the answer.
    ToolDelta,
}
