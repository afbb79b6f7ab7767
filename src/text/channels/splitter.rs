//! The state machine: text and markers in, spans of one channel each out. It does not matter where the pieces are cut.

use std::collections::VecDeque;
use std::sync::Arc;

use super::call::{Format, Tools};
use super::deltas::{Comes, Deltas};
use super::find::{Channels, Role, Scanned};
use super::{harmony, xtml, Channel};
use crate::text::detokenize::Detokenizer;
use crate::text::stop::StopMatcher;

/// White space next to a marker is the marker's, up to so many bytes: text is held back no longer than that.
const MOST_SPACE: usize = 16;
/// Bytes of a call. A longer one is text.
pub(in crate::text) const MOST_CALL: usize = 1 << 20;

/// What is shown of a span.
#[derive(Clone, Debug, PartialEq)]
pub enum Show {
    Itself,
    /// White space next to a marker.
    Space,
    Marker,
    /// A finished call, as JSON.
    Call(String),
}

/// A part of the text, from where the span before ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub end: usize,
    pub channel: Channel,
    pub show: Show,
}

#[derive(Clone, Debug)]
enum State {
    Text,
    Thinking {
        /// Of the word that some families write behind the first marker: how much of it has come.
        label: Option<usize>,
    },
    Call(Open),
    /// What gpt-oss writes in front of each message: its author, channel and recipient.
    Header(Open),
}

/// What is held back until it is complete.
#[derive(Clone, Debug, Default)]
struct Open {
    /// The text, with the markers in it.
    body: String,
    /// Where these markers are in `body`.
    parts: Vec<std::ops::Range<usize>>,
    /// Where `body` begins in all of the text.
    start: usize,
    /// No marker begins it: it is a call while it looks like one.
    bare: bool,
    /// The tool, where a header said it.
    tool: Option<String>,
    /// Of a header: what stands in the prompt.
    before: String,
    /// The model was thinking when it came: what is no call is thought.
    thought: bool,
    /// What was told of it.
    deltas: Deltas,
}

/// `Clone`: one that has seen the end of a prompt is where answers begin.
#[derive(Clone, Debug)]
pub struct Splitter {
    channels: Arc<Channels>,
    tools: Arc<Tools>,
    state: State,
    /// Looks for the markers of the state that are no tokens.
    matcher: StopMatcher,
    /// What came and has no span yet, but for what is open: what may become a marker, and white space before it.
    pending: String,
    /// White space that may still follow a marker.
    space_left: usize,
    /// Bytes that have come, and those that have spans.
    at: usize,
    spanned: usize,
    /// Calls are told while they come.
    tells: bool,
    /// Calls of the answer so far.
    calls: usize,
    out: VecDeque<Span>,
}

impl Splitter {
    pub fn new(channels: Arc<Channels>, tools: Arc<Tools>) -> Self {
        Splitter {
            matcher: channels.scan(Scanned::Text).matcher(),
            channels,
            tools,
            state: State::Text,
            pending: String::new(),
            space_left: 0,
            at: 0,
            spanned: 0,
            tells: false,
            calls: 0,
            out: VecDeque::new(),
        }
    }

    /// Whether it tells of calls that are not complete, too.
    pub fn telling(self, tells: bool) -> Self {
        Splitter { tells, ..self }
    }

    /// Takes tokens of which nothing is shown.
    pub fn read(&mut self, ids: &[i32], mut detokenizer: Detokenizer) {
        for id in ids {
            match self.marker(*id) {
                Some(_) => {
                    detokenizer.flush(|_, text| self.take_text(text));
                    self.take_marker(*id);
                }
                None => {
                    detokenizer.feed(*id, |_, text| self.take_text(text));
                }
            }
            self.out.clear();
        }
    }

    /// Begins an answer behind what has come: whether the model thinks stays, and a header of a message; all else is
    /// forgotten.
    pub fn begin(&mut self) {
        self.pending.clear();
        self.out.clear();
        (self.at, self.spanned, self.space_left) = (0, 0, 0);
        self.calls = 0;
        let state = match std::mem::replace(&mut self.state, State::Text) {
            State::Thinking { .. } => {
                self.space_left = MOST_SPACE;
                State::Thinking { label: None }
            }
            State::Header(open) => State::Header(Open {
                before: open.before + &open.body,
                ..Open::default()
            }),
            _ => State::Text,
        };
        self.enter(state);
        let bare = self
            .channels
            .format()
            .is_some_and(|format| format.bare.is_some());
        if bare && matches!(self.state, State::Text) && !self.tools.is_empty() {
            self.enter(State::Call(Open {
                bare: true,
                ..Open::default()
            }));
        }
    }

    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::Thinking { .. })
    }

    /// The call that is open: the tool, where a header named it, and what has come of the rest.
    pub fn open_call(&self) -> Option<(Option<&str>, &str)> {
        match &self.state {
            State::Call(open) => Some((open.tool.as_deref(), &open.body)),
            _ => None,
        }
    }

    /// What is open is text after all.
    pub fn refuse_call(&mut self) {
        self.give_up();
    }

    /// What `take_marker` will take for a token, if the token is a marker.
    pub fn marker(&self, id: i32) -> Option<&str> {
        let marker = self.channels.of_token(id)?;
        Some(marker.text.as_str())
    }

    /// Takes a token that is a marker.
    pub fn take_marker(&mut self, id: i32) {
        let channels = self.channels.clone();
        let Some(marker) = channels.of_token(id) else {
            return;
        };
        self.settle();
        self.at = self.at.saturating_add(marker.text.len());
        self.on_marker(marker.role, &marker.text);
    }

    /// Takes the next piece of text.
    pub fn take_text(&mut self, mut text: &str) {
        while !text.is_empty() {
            text = self.take_some(text);
        }
    }

    /// The answer has ended: what was held back comes out.
    pub fn finish(&mut self) {
        let held = self.matcher.held();
        self.settle();
        if self.pending.is_empty() {
            self.end_open(self.at, Some(held));
        } else {
            self.pending.clear();
            self.span(self.at, Show::Itself);
        }
    }

    /// Bytes that have come and have no span.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.at.saturating_sub(self.spanned)
    }

    pub fn pop(&mut self) -> Option<Span> {
        self.out.pop_front()
    }

    /// Takes some of the text; gives the rest.
    fn take_some<'t>(&mut self, text: &'t str) -> &'t str {
        if self.space_left > 0 && self.pending.is_empty() {
            match self.skip_space(text) {
                Some(rest) => return rest,
                None => self.space_left = 0,
            }
        }
        if let State::Thinking { label: Some(come) } = self.state {
            return self.take_label(text, come);
        }
        let before = self.matcher.position();
        let found = self.matcher.push(text.as_bytes());
        let length = found.map_or(text.len(), |found| found.end.saturating_sub(before));
        let (taken, rest) = text.split_at_checked(length).unwrap_or((text, ""));
        self.at = self.at.saturating_add(taken.len());
        match &mut self.state {
            State::Call(open) | State::Header(open) => open.body.push_str(taken),
            _ => self.pending.push_str(taken),
        }
        let Some(found) = found else {
            self.release(self.matcher.held());
            self.look_at_open();
            return rest;
        };
        let length = found.end.saturating_sub(found.start);
        let held = match &mut self.state {
            State::Call(open) | State::Header(open) => &mut open.body,
            _ => &mut self.pending,
        };
        let start = held.len().saturating_sub(length);
        let marker = held.get(start..).unwrap_or("").to_owned();
        held.truncate(start);
        let end = self.at;
        self.at = end.saturating_sub(length);
        self.release(0);
        self.matcher.reset();
        self.at = end;
        match self.channels.role_of(self.scanned(), found.index) {
            Some(role) => self.on_marker(role, &marker),
            None => self.span(self.at, Show::Itself),
        }
        rest
    }

    /// White space right behind a marker is hidden.
    fn skip_space<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let space = text.bytes().take_while(u8::is_ascii_whitespace);
        let space = space.take(self.space_left).count();
        if space == 0 {
            return None;
        }
        self.space_left = self.space_left.saturating_sub(space);
        self.at = self.at.saturating_add(space);
        self.span(self.at, Show::Space);
        text.get(space..)
    }

    /// The word behind the first marker of thinking, of which `come` bytes have come.
    fn take_label<'t>(&mut self, text: &'t str, come: usize) -> &'t str {
        let left = self.channels.label().get(come..).unwrap_or("");
        let same = left.bytes().zip(text.bytes());
        let same = same.take_while(|(a, b)| a == b).count();
        let (taken, rest) = text.split_at_checked(same).unwrap_or(("", text));
        self.pending.push_str(taken);
        self.at = self.at.saturating_add(taken.len());
        let label = if taken.len() == left.len() {
            self.pending.clear();
            self.span(self.at, Show::Marker);
            self.space_left = MOST_SPACE;
            None
        } else {
            // Another word is thought.
            rest.is_empty().then(|| come.saturating_add(taken.len()))
        };
        self.state = State::Thinking { label };
        rest
    }

    /// Gives what is pending its span, but for the last `held` bytes, and white space before them.
    fn release(&mut self, held: usize) {
        let shown = self.pending.len().saturating_sub(held);
        let space = self.pending.bytes().take(shown).rev();
        let space = space.take_while(u8::is_ascii_whitespace);
        let shown = shown.saturating_sub(space.take(MOST_SPACE).count());
        if shown > 0 && self.pending.is_char_boundary(shown) {
            let left = self.pending.len().saturating_sub(shown);
            self.pending.drain(..shown);
            self.span(self.at.saturating_sub(left), Show::Itself);
        }
    }

    /// A token or the end comes: what looked like the beginning of a marker is text.
    fn settle(&mut self) {
        if let State::Thinking { label } = &mut self.state {
            *label = None;
        }
        self.release(0);
        self.matcher.reset();
    }

    /// A marker has come to its end at `at`; white space that is pending is its.
    fn on_marker(&mut self, role: Role, text: &str) {
        let start = self.at.saturating_sub(text.len());
        self.pending.clear();
        self.space_left = MOST_SPACE;
        if let Role::Harmony(role) = role {
            return self.on_harmony(role, text);
        }
        if let Role::Xtml(role) = role {
            return self.on_xtml(role, text);
        }
        if let State::Call(open) = &mut self.state {
            match role {
                Role::CallClose => return self.end_open(self.at, None),
                Role::CallOpen => self.end_open(start, None),
                Role::ThinkEnd if open.thought => self.give_up_until(start),
                _ => {
                    self.space_left = 0;
                    add_part(open, text);
                    return self.look_at_open();
                }
            }
        }
        self.span(start, Show::Space);
        match role {
            Role::CallOpen => {
                self.space_left = 0;
                let thought = self.is_thinking();
                self.enter(State::Call(Open {
                    start: self.at,
                    thought,
                    ..Open::default()
                }));
            }
            Role::ThinkStart => {
                let label = (!self.channels.label().is_empty()).then_some(0);
                if label.is_some() {
                    self.space_left = 0;
                }
                self.enter(State::Thinking { label });
                self.span(self.at, Show::Marker);
            }
            Role::ThinkEnd => {
                self.span(self.at, Show::Marker);
                self.enter(State::Text);
            }
            _ => self.span(self.at, Show::Marker),
        }
    }

    fn on_harmony(&mut self, role: harmony::Role, text: &str) {
        use harmony::Role::*;
        let start = self.at.saturating_sub(text.len());
        match (&mut self.state, role) {
            (State::Header(open), Header) => {
                self.space_left = 0;
                add_part(open, text);
                return self.look_at_open();
            }
            (State::Header(open), Message) => {
                add_part(open, text);
                let open = std::mem::take(open);
                return self.open_message(open);
            }
            (State::Header(_) | State::Call(_), Start | Header) => self.end_open(start, None),
            (State::Header(_) | State::Call(_), _) => self.end_open(self.at, None),
            _ => self.span(start, Show::Space),
        }
        match role {
            Start | Header => {
                self.space_left = 0;
                let mut open = Open {
                    start,
                    ..Open::default()
                };
                add_part(&mut open, text);
                self.enter(State::Header(open));
            }
            Message | End => {
                self.span(self.at, Show::Marker);
                self.enter(State::Text);
            }
        }
    }

    fn on_xtml(&mut self, role: xtml::Role, text: &str) {
        let start = self.at.saturating_sub(text.len());
        let ends = role == xtml::Role::Separator;
        match &mut self.state {
            State::Call(open) => {
                self.space_left = 0;
                add_part(open, text);
                let body = open.body.strip_suffix(xtml::END_OF_CALLS).map(str::len);
                let Some(body) = body.filter(|_| ends) else {
                    return self.look_at_open();
                };
                open.body.truncate(body);
                open.parts.retain(|part| part.end <= body);
                self.space_left = MOST_SPACE;
                return self.end_open(self.at, None);
            }
            State::Header(open) if ends => {
                add_part(open, text);
                let tag = std::mem::take(open);
                return self.on_tag(tag);
            }
            State::Header(_) => self.give_up_until(start),
            _ => self.span(start, Show::Space),
        }
        if ends {
            return self.span(self.at, Show::Marker);
        }
        self.space_left = 0;
        let mut open = Open {
            start,
            thought: self.is_thinking(),
            ..Open::default()
        };
        add_part(&mut open, text);
        self.enter(State::Header(open));
    }

    /// A tag of Kimi K3's is complete.
    fn on_tag(&mut self, tag: Open) {
        let text = tag.before + &tag.body;
        match (xtml::read(&text), tag.thought) {
            ((true, "tools"), thought) => {
                self.space_left = 0;
                self.enter(State::Call(Open {
                    start: self.at,
                    thought,
                    ..Open::default()
                }));
            }
            ((true, "think"), _) | ((_, _), true) if text != "<|close|>think<|sep|>" => {
                self.enter(State::Thinking { label: None });
                self.span(self.at, Show::Marker);
            }
            (_, thought) => {
                if thought {
                    self.state = State::Thinking { label: None };
                }
                self.span(self.at, Show::Marker);
                self.enter(State::Text);
            }
        }
    }

    /// The header of a message is complete.
    fn open_message(&mut self, header: Open) {
        let text = header.before + &header.body;
        match (harmony::recipient(&text), harmony::is_analysis(&text)) {
            (Some(tool), _) => {
                self.space_left = 0;
                self.enter(State::Call(Open {
                    start: self.at,
                    tool: Some(tool),
                    ..Open::default()
                }));
            }
            (None, true) => {
                self.enter(State::Thinking { label: None });
                self.span(self.at, Show::Marker);
            }
            (None, false) => {
                self.enter(State::Text);
                self.span(self.at, Show::Marker);
            }
        }
    }

    /// What is open must not grow for ever.
    fn look_at_open(&mut self) {
        let hopeless = match &self.state {
            State::Call(open) if open.body.len() > MOST_CALL => true,
            State::Call(open) if open.bare => {
                let looks = self.channels.format().and_then(|format| format.bare);
                !looks.is_some_and(|looks| looks(&open.body))
            }
            State::Header(open) => open.body.len() > harmony::MOST_HEADER,
            _ => false,
        };
        if hopeless {
            return self.give_up();
        }
        if self.tells && !self.tools.are_forbidden() {
            self.tell();
        }
    }

    /// Tells what has come of a call.
    fn tell(&mut self) {
        // What may become a marker is no part of it.
        let held = self.matcher.held();
        let comes = self
            .channels
            .format()
            .map_or(Comes::Whole, |format| format.comes);
        let State::Call(open) = &mut self.state else {
            return;
        };
        let body = open.body.get(..open.body.len().saturating_sub(held));
        let told = open.deltas.take(
            body.unwrap_or(""),
            open.tool.as_deref(),
            comes,
            &self.tools,
            self.calls,
        );
        self.add_deltas(told);
    }

    fn add_deltas(&mut self, told: Vec<String>) {
        for delta in told {
            self.out.push_back(Span {
                end: self.spanned,
                channel: Channel::ToolDelta,
                show: Show::Call(delta),
            });
        }
    }

    /// A call or a header ends at `end`, with its last marker or, `cut`, without one but for so many bytes of it.
    fn end_open(&mut self, end: usize, cut: Option<usize>) {
        let mut open = match &mut self.state {
            State::Call(open) => std::mem::take(open),
            State::Header(_) => return self.give_up_until(end),
            _ => return,
        };
        let format: Option<&Format> = self.channels.format();
        let calls = match (&open.tool, format) {
            _ if self.tools.are_forbidden() => None,
            (Some(tool), _) => harmony::parse(tool, &open.body),
            (None, Some(format)) if cut.is_none() || format.ends_itself => {
                let length = open.body.len().saturating_sub(cut.unwrap_or(0));
                let body = open.body.get(..length);
                body.and_then(|body| (format.parse)(body, &self.tools))
            }
            _ => None,
        };
        let Some(mut calls) = calls.filter(|calls| !calls.is_empty()) else {
            self.state = State::Call(open);
            return self.give_up_until(end);
        };
        let mut told = match self.tells {
            true => open.deltas.finish(&mut calls, self.calls),
            false => Vec::new(),
        };
        let last = calls.len().saturating_sub(1);
        for (index, call) in calls.into_iter().enumerate() {
            self.calls = self.calls.saturating_add(1);
            let deltas = told.get_mut(index).map(std::mem::take);
            self.add_deltas(deltas.unwrap_or_default());
            // The tokens are those of the last one, which they complete.
            let end = if index == last { end } else { self.spanned };
            self.out.push_back(Span {
                end,
                channel: Channel::ToolCall,
                show: Show::Call(call.write()),
            });
        }
        self.spanned = self.spanned.max(end);
        self.enter(State::Text);
    }

    fn give_up(&mut self) {
        self.give_up_until(self.at);
    }

    /// What is open is text, but for the markers around it and in it.
    fn give_up_until(&mut self, end: usize) {
        let (State::Call(open) | State::Header(open)) = &mut self.state else {
            return;
        };
        let open = std::mem::take(open);
        self.enter(match open.thought {
            true => State::Thinking { label: None },
            false => State::Text,
        });
        self.span(open.start, Show::Marker);
        for part in &open.parts {
            self.span(open.start.saturating_add(part.start), Show::Itself);
            self.span(open.start.saturating_add(part.end), Show::Marker);
        }
        self.span(open.start.saturating_add(open.body.len()), Show::Itself);
        self.span(end, Show::Marker);
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.matcher = self.channels.scan(self.scanned()).matcher();
    }

    fn scanned(&self) -> Scanned {
        match self.state {
            State::Text => Scanned::Text,
            State::Thinking { .. } => Scanned::Thinking,
            State::Call(_) | State::Header(_) => Scanned::Call,
        }
    }

    /// All up to `end` that has no span gets one.
    fn span(&mut self, end: usize, show: Show) {
        if end > self.spanned {
            let channel = match self.state {
                State::Thinking { .. } => Channel::Thinking,
                _ => Channel::Text,
            };
            self.out.push_back(Span { end, channel, show });
            self.spanned = end;
        }
    }
}

fn add_part(open: &mut Open, text: &str) {
    let start = open.body.len();
    open.body.push_str(text);
    open.parts.push(start..open.body.len());
}
