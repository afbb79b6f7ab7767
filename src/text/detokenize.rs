//! Token ids to text, one at a time, without ever splitting a code point.
//!
//! The text of a token list is the lossy UTF-8 of its tokens' bytes joined, each maximal broken part one
//! U+FFFD, as `String::from_utf8_lossy` has it. Whether the ids come at once or one by one makes no difference.

use std::sync::Arc;

use super::table::{Standing, Table};

/// Turns ids into text one at a time. Costs a table look-up and a copy per token.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    table: Arc<Table>,
    skip_special: bool,
    first: bool,
    strip: Option<(char, usize)>,
    /// The bytes of a code point that is not complete yet, at most three.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// With `continuing` the ids go on in the middle of a text, so a leading space is kept.
    pub(super) fn new(table: Arc<Table>, skip_special: bool, continuing: bool) -> Self {
        let strip = if continuing { None } else { table.strip };
        Detokenizer {
            table,
            skip_special,
            first: !continuing,
            strip,
            pending: Vec::new(),
        }
    }

    /// The text that this token completes; empty inside a code point, and for ids without a token.
    #[cfg(test)]
    pub fn push(&mut self, id: i32) -> String {
        let mut out = String::new();
        self.feed(id, |_, text| out.push_str(text));
        out
    }

    /// What is left: U+FFFD for a code point that was never completed.
    #[cfg(test)]
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.flush(|_, text| out.push_str(text));
        out
    }

    /// Like [`push`](Self::push), in units `(bytes consumed, text)`: a run of whole characters, one broken
    /// part with its U+FFFD, or stripped bytes with no text. Returns the number of bytes that the token has.
    pub(super) fn feed(&mut self, id: i32, mut unit: impl FnMut(usize, &str)) -> usize {
        match self.table.standing(id) {
            Standing::Unknown => return 0,
            Standing::Special if self.skip_special => return 0,
            _ => {}
        }
        let table = Arc::clone(&self.table);
        let bytes = table.bytes(id, self.first);
        self.first = false;
        if self.pending.is_empty() {
            self.decode(bytes, &mut unit);
        } else {
            let mut joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(bytes);
            self.decode(&joined, &mut unit);
        }
        bytes.len()
    }

    pub(super) fn flush(&mut self, mut unit: impl FnMut(usize, &str)) {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            unit(rest.len(), "\u{fffd}");
        }
    }

    fn decode(&mut self, mut bytes: &[u8], unit: &mut impl FnMut(usize, &str)) {
        while !bytes.is_empty() {
            let (valid, broken) = match std::str::from_utf8(bytes) {
                Ok(text) => (text, None),
                Err(e) => {
                    let valid = bytes
                        .get(..e.valid_up_to())
                        .and_then(|b| std::str::from_utf8(b).ok());
                    (valid.unwrap_or(""), Some(e.error_len()))
                }
            };
            bytes = bytes.get(valid.len()..).unwrap_or(&[]);
            self.emit(valid, unit);
            match broken {
                None => {}
                Some(None) => {
                    self.pending.extend_from_slice(bytes);
                    return;
                }
                Some(Some(length)) => {
                    self.strip = None;
                    unit(length, "\u{fffd}");
                    bytes = bytes.get(length..).unwrap_or(&[]);
                }
            }
        }
    }

    fn emit(&mut self, mut text: &str, unit: &mut impl FnMut(usize, &str)) {
        if text.is_empty() {
            return;
        }
        while let Some((content, left)) = self.strip {
            let Some(rest) = text.strip_prefix(content).filter(|_| left > 0) else {
                if !text.is_empty() {
                    self.strip = None;
                }
                break;
            };
            unit(content.len_utf8(), "");
            self.strip = Some((content, left.saturating_sub(1)));
            text = rest;
        }
        if !text.is_empty() {
            unit(text.len(), text);
        }
    }
}
