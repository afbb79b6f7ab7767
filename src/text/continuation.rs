//! An answer that goes on: the prompt ends where the text of the last message ends.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::chat::{is_space, strip};
use super::messages::{part_text, Message};
use super::tokenizer::{Origin, Piece};
use crate::error::{Error, Result};

/// Goes into a template behind the last text and shows where that ends. The space at its own end shows whether the
/// template trims. Nobody can have written it before: it is another one every time.
pub(super) fn end_mark() -> String {
    format!("MLXRT_END_{:016X} ", RandomState::new().hash_one(0))
}

/// Errors: the last message is not the assistant's, or has no text.
pub(super) fn check(messages: &[Message]) -> Result<()> {
    let last = messages.last().filter(|last| last.role == "assistant");
    let Some(last) = last else {
        return Err(Error::invalid(
            "the last message must be the assistant's to be continued",
        ));
    };
    match last.has_content() {
        true => Ok(()),
        false => Err(nothing_to_continue()),
    }
}

pub(super) fn nothing_to_continue() -> Error {
    Error::invalid("the last message has no content: there is nothing to continue")
}

/// Cuts a prompt at the mark. As in transformers: where the template trimmed the text, so is the prompt's end.
///
/// Errors: `Unsupported` where the template altered the text, or wrote it twice.
pub(super) fn cut(pieces: &mut Vec<Piece>, last: &Message, end_mark: &str) -> Result<()> {
    let mark = end_mark.trim_end();
    let places = pieces.iter().enumerate();
    let mut places = places.filter_map(|(index, piece)| Some((index, piece.text.find(mark)?)));
    let (place, more) = (places.next(), places.next());
    let altered = || {
        Error::unsupported("the chat template alters the last message, so it cannot be continued")
    };
    let (index, at) = place.filter(|_| more.is_none()).ok_or_else(altered)?;
    let after: String = pieces
        .iter()
        .skip(index)
        .map(|piece| piece.text.as_str())
        .collect();
    let after = after.get(at..).unwrap_or("");
    // A space of the template's behind the text counts as well, in transformers too.
    let trimmed = !after.starts_with(end_mark);
    if after.matches(mark).nth(1).is_some() {
        return Err(altered());
    }
    pieces.truncate(index.saturating_add(1));
    if let Some(piece) = pieces.last_mut() {
        piece.text.truncate(at);
    }
    // What stands between parts is the template's matter.
    let end = match last.parts() {
        Some(parts) => Cow::Borrowed(parts.iter().filter_map(part_text).next_back().unwrap_or("")),
        None => last.text(),
    };
    let prompt = joined(pieces);
    if !prompt.trim_end_matches(is_space).ends_with(strip(&end)) {
        return Err(altered());
    }
    while let Some(piece) = pieces.last_mut() {
        if trimmed {
            let kept = piece.text.trim_end_matches(is_space).len();
            piece.text.truncate(kept);
        }
        if !piece.text.is_empty() {
            break;
        }
        pieces.pop();
    }
    Ok(())
}

/// The text of the last message, as far as it stands at the end of a prompt that continues it: less what was trimmed.
pub fn continued_text(messages: &[Message], pieces: &[Piece]) -> String {
    let Some(last) = messages.last() else {
        return String::new();
    };
    let text = last.text();
    let start = text.trim_start_matches(is_space);
    let candidates = [&text, start, text.trim_end_matches(is_space), strip(&text)];
    let own = pieces
        .last()
        .filter(|piece| piece.origin == Origin::Assistant);
    let own = own.map_or("", |piece| piece.text.as_str());
    let kept = |end: &str| candidates.into_iter().find(|kept| end.ends_with(kept));
    kept(own)
        .or_else(|| kept(&joined(pieces)))
        .unwrap_or(&text)
        .to_owned()
}

fn joined(pieces: &[Piece]) -> String {
    pieces.iter().map(|piece| piece.text.as_str()).collect()
}
