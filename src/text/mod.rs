//! Text on both sides of the model: messages to prompt pieces, text to token ids, token ids to text.
//!
//! Everything here treats its input as hostile: sizes are capped, arithmetic is checked, and the `tokenizers`
//! crate is called only behind [`guarded`]. Nothing here knows of arrays or threads.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod added;
mod channels;
mod chat;
mod chat_template;
mod continuation;
mod control;
mod conversation;
mod declared;
mod detokenize;
mod extend;
mod growth;
mod messages;
mod newer;
mod parts;
mod pattern;
mod pyjson;
mod sanitise;
mod steps;
mod stop;
mod stream;
mod table;
mod template_files;
mod tokenizer;
mod words;

#[cfg(test)]
mod tests;

pub use channels::{shape, Channel, Channels, Splitter, Tools};
pub use chat::{ChatFormat, RenderOptions};
pub use chat_template::{ChatTemplate, TemplateOptions};
pub use continuation::continued_text;
pub use declared::TokenFiles;
pub use messages::{left_out, Message, MAX_BYTES};
pub use stop::{StopStrings, MOST_STOP_STRINGS};
pub use stream::{Budget, Chunk, Finish, Kind, StreamOptions, TextStream, Token};
pub use template_files::TemplateFiles;
pub use tokenizer::{Origin, Piece, Specials, Tokenizer, MAX_TEXT};
