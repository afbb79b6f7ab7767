//! From generated tokens to events: whole code points, stop strings that never leak, and every token in the
//! event that completes its text.

use std::collections::VecDeque;

use super::detokenize::Detokenizer;
use super::stop::{StopMatcher, StopStrings};

/// A generated token with what was asked for about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    pub id: i32,
    pub logprob: f32,
    /// The likeliest alternatives, best first.
    pub top: Vec<(i32, f32)>,
}

/// Whether a token has text of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    /// EOS and markers: delivered, with empty text.
    Silent,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// At EOS, a length or the context's end: an incomplete code point arrives as U+FFFD.
    End,
    /// The tokens of an incomplete code point are dropped.
    Cancelled,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct StreamOptions {
    /// Chunks carry tokens and no text.
    pub tokens_only: bool,
}

/// What one event holds. The arrays have one entry per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    pub text: String,
    pub tokens: Vec<i32>,
    pub logprobs: Vec<f32>,
    pub tops: Vec<Vec<(i32, f32)>>,
}

impl Chunk {
    fn push(&mut self, token: Token) {
        self.tokens.push(token.id);
        self.logprobs.push(token.logprob);
        self.tops.push(token.top);
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// A token that is not delivered yet. `bytes` is its place in the stream of bytes, `end` where the last
/// character that it has a part of ends in the stream of text, once that is decoded; `start` is where the first
/// one begins.
#[derive(Debug)]
struct Waiting {
    token: Token,
    kind: Kind,
    bytes: std::ops::Range<usize>,
    start: Option<usize>,
    end: Option<usize>,
}

impl Waiting {
    fn has_bytes(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// A part of its bytes belongs to a code point that is not complete.
    fn is_open(&self) -> bool {
        self.has_bytes() && self.end.is_none()
    }
}

/// Takes tokens as they are generated, gives chunks as they can be shown. After a stop string it takes no more.
#[derive(Debug)]
pub struct TextStream {
    detokenizer: Detokenizer,
    matcher: Option<StopMatcher>,
    tokens_only: bool,
    waiting: VecDeque<Waiting>,
    /// Decoded text that is not delivered yet, and its offset in all text.
    text: String,
    text_start: usize,
    bytes_in: usize,
    bytes_decoded: usize,
    stopped: Option<(usize, usize)>,
    finished: bool,
    ready: VecDeque<Chunk>,
    delivered: usize,
}

impl TextStream {
    pub fn new(detokenizer: Detokenizer, stops: &StopStrings, options: StreamOptions) -> Self {
        TextStream {
            detokenizer,
            matcher: (!stops.is_empty()).then(|| stops.matcher()),
            tokens_only: options.tokens_only,
            waiting: VecDeque::new(),
            text: String::new(),
            text_start: 0,
            bytes_in: 0,
            bytes_decoded: 0,
            stopped: None,
            finished: false,
            ready: VecDeque::new(),
            delivered: 0,
        }
    }

    /// Takes the next token. Ignored after a stop string or [`finish`](Self::finish).
    pub fn push(&mut self, token: Token, kind: Kind) {
        if self.finished {
            return;
        }
        let id = token.id;
        self.waiting.push_back(Waiting {
            token,
            kind,
            bytes: self.bytes_in..self.bytes_in,
            start: None,
            end: None,
        });
        // Without text to show or to search there is nothing to decode.
        if kind == Kind::Normal && !(self.tokens_only && self.matcher.is_none()) {
            let mut units = Vec::new();
            let length = self
                .detokenizer
                .feed(id, |bytes, text| units.push((bytes, text.to_string())));
            self.bytes_in = self.bytes_in.saturating_add(length);
            if let Some(last) = self.waiting.back_mut() {
                last.bytes.end = self.bytes_in;
            }
            self.decoded(&units);
        }
        self.release();
    }

    /// The next chunk, if one is complete.
    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.ready.pop_front()?;
        self.delivered = self.delivered.saturating_add(chunk.tokens.len());
        Some(chunk)
    }

    /// Ends the stream: what was held back becomes chunks.
    pub fn finish(&mut self, how: Finish) {
        if self.finished {
            return;
        }
        if how == Finish::End {
            let mut units = Vec::new();
            self.detokenizer
                .flush(|bytes, text| units.push((bytes, text.to_string())));
            self.decoded(&units);
        }
        self.finished = true;
        self.release();
        self.waiting.clear();
    }

    /// The index of the stop string that ended the text.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped.map(|(index, _)| index)
    }

    /// How many tokens the chunks popped so far had.
    #[cfg(test)]
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    fn text_end(&self) -> usize {
        self.text_start.saturating_add(self.text.len())
    }

    fn decoded(&mut self, units: &[(usize, String)]) {
        for (length, text) in units {
            let bytes = self.bytes_decoded..self.bytes_decoded.saturating_add(*length);
            self.place(bytes.clone(), text);
            self.bytes_decoded = bytes.end;
            self.text.push_str(text);
            if let Some(found) = self.matcher.as_mut().and_then(|m| m.push(text.as_bytes())) {
                self.stopped = Some((found.index, found.start));
                self.finished = true;
                return;
            }
        }
    }

    /// Notes for the tokens with a border inside these bytes where in the text that is.
    fn place(&mut self, bytes: std::ops::Range<usize>, text: &str) {
        let base = self.text_end();
        let unresolved = self
            .waiting
            .iter_mut()
            .rev()
            .take_while(|w| !w.has_bytes() || w.end.is_none());
        for token in unresolved.filter(|w| w.has_bytes()) {
            // A token begins where a unit does, or inside the character that the unit begins with.
            if token.start.is_none() && bytes.contains(&token.bytes.start) {
                token.start = Some(base);
            }
            if bytes.start < token.bytes.end && token.bytes.end <= bytes.end {
                let offset = token.bytes.end.saturating_sub(bytes.start);
                token.end = Some(base.saturating_add(ceil_border(text, offset)));
            }
        }
    }

    /// Up to where text may be shown now.
    fn limit(&self) -> usize {
        if let Some((_, start)) = self.stopped {
            return start;
        }
        let end = self.text_end();
        let held = match &self.matcher {
            Some(matcher) if !self.finished => matcher.held(),
            _ => 0,
        };
        // Text of a token whose last code point is open waits for it, so that text and tokens go together.
        let open = self
            .waiting
            .iter()
            .rev()
            .take_while(|w| !w.has_bytes() || w.is_open());
        let open = open
            .filter(|w| w.has_bytes())
            .last()
            .map(|w| w.start.unwrap_or(end));
        end.saturating_sub(held).min(open.unwrap_or(end))
    }

    fn release(&mut self) {
        let limit = self.limit();
        let mut chunk = Chunk::default();
        let mut shown = self.text_start;
        while let Some(next) = self.waiting.front() {
            let end = match next.end {
                _ if !next.has_bytes() => shown,
                Some(end) if end <= limit => end,
                _ => break,
            };
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            if next.kind == Kind::Silent {
                self.emit(std::mem::take(&mut chunk), shown);
                chunk.push(next.token);
                self.emit(std::mem::take(&mut chunk), shown);
            } else {
                chunk.push(next.token);
                shown = end.max(shown);
            }
        }
        self.emit(chunk, limit);
    }

    /// Gives a chunk the text up to `end`.
    fn emit(&mut self, mut chunk: Chunk, end: usize) {
        let length = end.saturating_sub(self.text_start);
        if let Some(text) = self.text.get(..length) {
            if !self.tokens_only {
                chunk.text.push_str(text);
            }
            self.text.drain(..length);
            self.text_start = self.text_start.max(end);
        }
        if !chunk.is_empty() {
            self.ready.push_back(chunk);
        }
    }
}

fn ceil_border(text: &str, offset: usize) -> usize {
    (offset..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len())
}
