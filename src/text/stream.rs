//! From generated tokens to events: whole code points, stop strings and markers that never leak, and every token in the
//! event that completes its text.

use std::collections::VecDeque;
use std::sync::Arc;

use super::channels::{Channel, Show, Span, Splitter};
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

#[derive(Debug, Default)]
pub struct StreamOptions {
    /// Chunks carry tokens and no text, and all are text.
    pub tokens_only: bool,
    /// Tells thinking and calls from text, where the model has markers.
    pub splitter: Option<Splitter>,
    /// Ends thinking after so many tokens.
    pub budget: Option<Budget>,
}

/// How much a model may think.
#[derive(Clone, Debug)]
pub struct Budget {
    pub tokens: u64,
    /// What ends thinking.
    pub end: Arc<[i32]>,
}

/// What one event holds. The arrays have one entry per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    pub channel: Channel,
    /// How many of the tokens are thinking, and no marker of it.
    pub thinking: u64,
    pub text: String,
    pub tokens: Vec<i32>,
    pub logprobs: Vec<f32>,
    pub tops: Vec<Vec<(i32, f32)>>,
}

impl Chunk {
    fn of(channel: Channel) -> Self {
        Chunk {
            channel,
            ..Chunk::default()
        }
    }

    fn push(&mut self, waiting: Waiting) {
        let token = waiting.token;
        self.thinking = self.thinking.saturating_add(waiting.thinks.into());
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
    /// It is thinking, and no marker of it.
    thinks: bool,
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
    splitter: Option<Splitter>,
    budget: Option<Budget>,
    /// Tokens of thinking so far, markers not counted.
    thought: u64,
    /// The end of thinking is forced just now.
    ending: bool,
    /// Parts of the text that is not delivered yet, up to where their channel is known.
    spans: VecDeque<Span>,
    known: usize,
    /// Where the text began that the matcher has seen.
    run: usize,
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
            splitter: options.splitter,
            budget: options.budget,
            thought: 0,
            ending: false,
            known: 0,
            run: 0,
            spans: VecDeque::new(),
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

    /// Begins behind these tokens of the prompt: they may have opened the model's thinking.
    pub fn begin(&mut self, prompt: &[i32], detokenizer: Detokenizer) {
        if let Some(splitter) = &mut self.splitter {
            splitter.read(prompt, detokenizer);
            splitter.begin();
        }
    }

    /// What tells channels apart, as it is now.
    pub fn splitter(&self) -> Option<&Splitter> {
        self.splitter.as_ref()
    }

    /// Takes the next token. Ignored after a stop string or [`finish`](Self::finish).
    pub fn push(&mut self, token: Token, kind: Kind) {
        if self.finished {
            return;
        }
        let id = token.id;
        let marker = self.splitter.as_ref().and_then(|s| s.marker(id));
        let marker = marker.map(str::to_owned);
        let thinks = marker.is_none() && !self.ending && self.is_thinking() && kind == Kind::Normal;
        self.thought = self.thought.saturating_add(thinks.into());
        self.waiting.push_back(Waiting {
            token,
            kind: marker.as_ref().map_or(kind, |_| Kind::Normal),
            bytes: self.bytes_in..self.bytes_in,
            start: None,
            end: None,
            thinks,
        });
        match marker {
            Some(marker) => self.push_marker(id, &marker),
            // Without text to show or to search there is nothing to decode.
            None if kind == Kind::Normal && self.decodes() => {
                let mut units = Vec::new();
                let length = self
                    .detokenizer
                    .feed(id, |bytes, text| units.push((bytes, text.to_string())));
                self.grow(length);
                self.decoded(&units);
            }
            None => {}
        }
        self.ending &= self.is_thinking();
        self.give();
    }

    /// Makes chunks of what is complete.
    fn give(&mut self) {
        if self.tokens_only && self.matcher.is_none() {
            self.release_tokens();
        } else {
            self.release();
        }
    }

    /// Whether the model thinks at this place.
    pub fn is_thinking(&self) -> bool {
        self.splitter.as_ref().is_some_and(Splitter::is_thinking)
    }

    /// The call that is open just now; see the splitter.
    pub fn open_call(&self) -> Option<(Option<&str>, &str)> {
        self.splitter.as_ref().and_then(Splitter::open_call)
    }

    /// The call that is open is none.
    pub fn refuse_call(&mut self) {
        if let Some(splitter) = &mut self.splitter {
            splitter.refuse_call();
        }
        self.take_spans();
        self.give();
    }

    fn decodes(&self) -> bool {
        !self.tokens_only || self.matcher.is_some() || self.splitter.is_some()
    }

    /// The token that came last has so many bytes.
    fn grow(&mut self, length: usize) {
        self.bytes_in = self.bytes_in.saturating_add(length);
        if let Some(last) = self.waiting.back_mut() {
            last.bytes.end = self.bytes_in;
        }
    }

    /// A marker is a part of the text that is not shown. A character that was not complete before it never will be.
    fn push_marker(&mut self, id: i32, marker: &str) {
        self.flush();
        if self.stopped.is_some() {
            return;
        }
        let before = self.bytes_decoded;
        self.grow(marker.len());
        self.bytes_decoded = before.saturating_add(marker.len());
        self.place(before..self.bytes_decoded, marker);
        self.text.push_str(marker);
        if let Some(splitter) = &mut self.splitter {
            splitter.take_marker(id);
        }
        self.take_spans();
    }

    fn flush(&mut self) {
        let mut units = Vec::new();
        self.detokenizer
            .flush(|bytes, text| units.push((bytes, text.to_string())));
        self.decoded(&units);
    }

    /// What the model has to say next: the end of its thinking, once there was enough of it.
    pub fn forced(&mut self) -> Vec<i32> {
        match &self.budget {
            Some(budget) if !self.ending && self.is_thinking() && self.thought >= budget.tokens => {
                self.ending = true;
                budget.end.to_vec()
            }
            _ => Vec::new(),
        }
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
            self.flush();
        }
        if self.stopped.is_none() {
            if let Some(splitter) = &mut self.splitter {
                splitter.finish();
            }
            self.take_spans();
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
            match &mut self.splitter {
                Some(splitter) => splitter.take_text(text),
                None => self.add_span(Span {
                    end: self.text_end(),
                    channel: Channel::Text,
                    show: Show::Itself,
                }),
            }
            self.take_spans();
            if self.stopped.is_some() {
                return;
            }
        }
    }

    fn take_spans(&mut self) {
        while self.stopped.is_none() {
            match self.splitter.as_mut().and_then(Splitter::pop) {
                Some(span) => self.add_span(span),
                None => return,
            }
        }
    }

    /// The channel of more of the text is known. Stop strings are looked for in runs of text that is shown.
    fn add_span(&mut self, span: Span) {
        let from = self.known.saturating_sub(self.text_start);
        let to = span.end.saturating_sub(self.text_start);
        self.known = span.end;
        if let Some(matcher) = &mut self.matcher {
            if span.channel == Channel::Text && span.show == Show::Itself {
                let text = self.text.get(from..to).unwrap_or("");
                if let Some(found) = matcher.push(text.as_bytes()) {
                    let start = self.run.saturating_add(found.start);
                    self.stopped = Some((found.index, start));
                    self.finished = true;
                }
            } else {
                matcher.reset();
                self.run = span.end;
            }
        }
        match self.spans.back_mut() {
            Some(last)
                if last.show == Show::Itself
                    && (last.channel, &last.show) == (span.channel, &span.show) =>
            {
                last.end = span.end;
            }
            _ => self.spans.push_back(span),
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
        let end = self.text_end().min(self.known);
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
            .map(|w| w.start.unwrap_or(self.text_end()));
        end.saturating_sub(held).min(open.unwrap_or(end))
    }

    fn release(&mut self) {
        let limit = self.limit();
        let mut chunk = Chunk::default();
        let mut shown = self.text_start;
        loop {
            let span = self.spans.front();
            let (channel, until) = span.map_or((Channel::Text, shown), |span| {
                (span.channel, span.end.min(limit))
            });
            let is_call = channel == Channel::ToolCall;
            let is_delta = channel == Channel::ToolDelta;
            if is_call && span.is_some_and(|span| span.end > limit) {
                break;
            }
            if channel != chunk.channel || is_call || is_delta {
                self.emit(std::mem::replace(&mut chunk, Chunk::of(channel)));
            }
            let last = match is_delta {
                // Its tokens come with the call.
                true => Some(0),
                false => is_call.then(|| self.completed_by(until)),
            };
            let mut taken = 0_usize;
            while let Some(next) = self.waiting.front() {
                let end = match next.end {
                    _ if last.is_some_and(|last| taken >= last) => break,
                    _ if !next.has_bytes() => shown,
                    Some(end) if end <= until => end,
                    _ => break,
                };
                let Some(next) = self.waiting.pop_front() else {
                    break;
                };
                taken = taken.saturating_add(1);
                if next.kind == Kind::Silent && !is_call {
                    self.show(&mut chunk, shown);
                    self.emit(std::mem::replace(&mut chunk, Chunk::of(channel)));
                    let mut silent = Chunk::default();
                    silent.push(next);
                    self.emit(silent);
                } else {
                    chunk.push(next);
                    shown = end.max(shown);
                }
            }
            self.show(&mut chunk, until);
            shown = shown.max(until);
            let done = self.spans.front().is_none_or(|span| span.end > limit);
            if done {
                break;
            }
            self.spans.pop_front();
            if self.spans.is_empty() && self.waiting.front().is_none_or(Waiting::has_bytes) {
                break;
            }
        }
        self.emit(chunk);
    }

    /// Without text every token comes at once.
    fn release_tokens(&mut self) {
        self.text_start = self.text_end();
        self.text.clear();
        self.spans.clear();
        while let Some(next) = self.waiting.pop_front() {
            let mut chunk = Chunk::default();
            chunk.push(next);
            self.emit(chunk);
        }
    }

    /// How many of the first waiting tokens are complete at the end of a call.
    fn completed_by(&self, until: usize) -> usize {
        let complete = |w: &Waiting| w.has_bytes() && w.end.is_some_and(|end| end <= until);
        let last = self.waiting.iter().rposition(complete);
        last.map_or(0, |last| last.saturating_add(1))
    }

    /// Gives a chunk what is shown of the first span up to `end`.
    fn show(&mut self, chunk: &mut Chunk, end: usize) {
        let length = end.saturating_sub(self.text_start);
        let Some(text) = self.text.get(..length) else {
            return;
        };
        match self.spans.front().map(|span| &span.show) {
            _ if self.tokens_only => {}
            None | Some(Show::Itself) => chunk.text.push_str(text),
            Some(Show::Call(call)) => chunk.text.push_str(call),
            Some(Show::Space | Show::Marker) => {}
        }
        self.text.drain(..length);
        self.text_start = self.text_start.max(end);
    }

    fn emit(&mut self, chunk: Chunk) {
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
