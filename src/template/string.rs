//! Strings whose characters know who wrote them.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::budget::{Budget, Charge};
use super::error::Result;
use super::scan;

/// Who wrote a character of a prompt, the most trusted first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The chat template itself: its special tokens are control tokens.
    #[default]
    Template,
    /// An earlier answer of the model: markers such as `<think>` are tokens, special tokens are text.
    Assistant,
    /// Everything else (system and user messages, tools, tool results): always text.
    Content,
}

/// A stretch of one origin, up to `end` (in bytes).
#[derive(Clone, Copy, Debug)]
struct Run {
    end: usize,
    origin: Origin,
}

const RUN_BYTES: usize = std::mem::size_of::<Run>();

/// Text and where its parts came from.
#[derive(Clone, Debug)]
pub(super) struct Text {
    text: String,
    /// Of the whole text where `runs` is empty.
    origin: Origin,
    /// Empty, or two and more runs that cover the text; neighbours differ.
    runs: Vec<Run>,
    /// The most and the least trusted origin of the runs, which are too many to be asked each time.
    bounds: (Origin, Origin),
}

impl Text {
    pub fn new(text: impl Into<String>, origin: Origin) -> Text {
        Text {
            text: text.into(),
            origin,
            runs: Vec::new(),
            bounds: (origin, origin),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Bytes that a copy takes.
    pub fn cost(&self) -> usize {
        self.text
            .len()
            .saturating_add(self.runs.len().saturating_mul(RUN_BYTES))
    }

    /// The origin of the whole, where it has one.
    pub fn single(&self) -> Option<Origin> {
        self.runs.is_empty().then_some(self.origin)
    }

    /// The least trusted origin in it, for what cannot be followed character by character.
    pub fn least_trusted(&self) -> Origin {
        match self.runs.is_empty() {
            true => self.origin,
            false => self.bounds.1,
        }
    }

    pub fn most_trusted(&self) -> Origin {
        match self.runs.is_empty() {
            true => self.origin,
            false => self.bounds.0,
        }
    }

    /// The least trusted origin within a range of bytes.
    pub fn least_trusted_in(&self, range: Range<usize>) -> Origin {
        let within = self.segments(range).map(|(_, origin)| origin).max();
        within.unwrap_or(Origin::Template)
    }

    /// The origin of the character at a byte offset.
    pub fn origin_at(&self, at: usize) -> Origin {
        if self.runs.is_empty() {
            return self.origin;
        }
        let index = self.runs.partition_point(|run| run.end <= at);
        self.runs
            .get(index)
            .or(self.runs.last())
            .map_or(self.origin, |run| run.origin)
    }

    fn push(&mut self, text: &str, origin: Origin) {
        let before = self.text.len();
        if text.is_empty() {
            // An empty text, too, says who left it empty.
            if before == 0 {
                self.origin = self.origin.max(origin);
            }
            return;
        }
        self.text.push_str(text);
        let end = self.text.len();
        match self.runs.last_mut() {
            Some(last) if last.origin == origin => last.end = end,
            Some(_) => {
                let (most, least) = self.bounds;
                self.bounds = (most.min(origin), least.max(origin));
                self.runs.push(Run { end, origin });
            }
            None if before == 0 => self.origin = origin,
            None if self.origin == origin => {}
            None => {
                let first = self.origin;
                self.bounds = (first.min(origin), first.max(origin));
                self.runs.push(Run {
                    end: before,
                    origin: first,
                });
                self.runs.push(Run { end, origin });
            }
        }
    }

    /// The stretches of one origin within a range of bytes.
    pub fn segments(&self, range: Range<usize>) -> Segments<'_> {
        let next = self.runs.partition_point(|run| run.end <= range.start);
        Segments {
            text: self,
            at: range.start,
            end: range.end.min(self.text.len()),
            next,
        }
    }

    pub fn pieces(&self) -> Segments<'_> {
        self.segments(0..self.text.len())
    }

    /// How many runs a range touches, at most.
    fn runs_within(&self, range: &Range<usize>) -> usize {
        if self.runs.is_empty() {
            return 0;
        }
        let first = self.runs.partition_point(|run| run.end <= range.start);
        let last = self.runs.partition_point(|run| run.end < range.end);
        last.saturating_sub(first).saturating_add(1)
    }

    /// The text, and where the parts of one origin end.
    pub fn into_parts(self) -> (String, Vec<(usize, Origin)>) {
        let runs = match self.runs.is_empty() {
            true => vec![(self.text.len(), self.origin)],
            false => self.runs.iter().map(|run| (run.end, run.origin)).collect(),
        };
        (self.text, runs)
    }
}

pub(super) struct Segments<'a> {
    text: &'a Text,
    at: usize,
    end: usize,
    next: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = (&'a str, Origin);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let (end, origin) = match self.text.runs.get(self.next) {
            Some(run) => (run.end.min(self.end), run.origin),
            None => (self.end, self.text.origin),
        };
        let part = self.text.text.get(self.at..end)?;
        self.at = end;
        self.next = self.next.saturating_add(1);
        Some((part, origin))
    }
}

/// A string value: shared, with what it costs. `Markup` of markupsafe is a string with the flag set.
#[derive(Clone, Debug)]
pub struct Str(Arc<StrInner>);

#[derive(Debug)]
struct StrInner {
    text: Text,
    markup: bool,
    charge: Charge,
}

impl Str {
    /// A string of the caller or of the template, charged to nobody.
    pub fn new(text: impl Into<String>, origin: Origin) -> Str {
        Str(Arc::new(StrInner {
            text: Text::new(text, origin),
            markup: false,
            charge: Charge::default(),
        }))
    }

    pub fn as_str(&self) -> &str {
        self.0.text.as_str()
    }

    pub(super) fn text(&self) -> &Text {
        &self.0.text
    }

    pub(super) fn markup(&self) -> bool {
        self.0.markup
    }

    pub(super) fn len(&self) -> usize {
        self.0.text.text.len()
    }

    pub(super) fn same(&self, other: &Str) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A part of the string; the whole of it is not copied.
    pub(super) fn slice(&self, range: Range<usize>, budget: &mut Budget) -> Result<Str> {
        if range.start == 0 && range.end >= self.len() {
            return Ok(self.clone());
        }
        let mut out = Builder::new(budget)?;
        out.push("", self.text().least_trusted(), budget)?;
        out.push_range(self.text(), range, budget)?;
        Ok(out.finish_as(self.markup()))
    }

    /// The string with no character more trusted than `origin`.
    pub(super) fn painted(&self, origin: Origin, budget: &mut Budget) -> Result<Str> {
        if self.text().most_trusted() >= origin {
            return Ok(self.clone());
        }
        let mut out = Builder::under(origin, budget)?;
        out.push_text(self.text(), budget)?;
        Ok(out.finish_as(self.markup()))
    }

    pub(super) fn with_markup(&self, markup: bool, budget: &mut Budget) -> Result<Str> {
        if self.markup() == markup {
            return Ok(self.clone());
        }
        let mut out = Builder::new(budget)?;
        out.push_text(self.text(), budget)?;
        Ok(out.finish_as(markup))
    }

    /// Appends in place where nobody else holds the string: building a text piece by piece stays linear.
    pub(super) fn append(
        mut self,
        parts: &[Str],
        budget: &mut Budget,
    ) -> Result<std::result::Result<Str, Str>> {
        let Some(inner) = Arc::get_mut(&mut self.0).filter(|inner| inner.charge.is_metered())
        else {
            return Ok(Err(self));
        };
        let mut out = Builder {
            text: std::mem::replace(&mut inner.text, Text::new("", Origin::Template)),
            charge: std::mem::take(&mut inner.charge),
            floor: Origin::Template,
        };
        for part in parts {
            out.push_text(part.text(), budget)?;
        }
        inner.text = out.text;
        inner.charge = out.charge;
        Ok(Ok(self))
    }
}

impl PartialEq for Str {
    fn eq(&self, other: &Str) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Str {}

impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// A string in the making: pays before it grows.
#[derive(Debug)]
pub(super) struct Builder {
    text: Text,
    charge: Charge,
    /// Nothing that is pushed counts as more trusted.
    floor: Origin,
}

/// What one string costs beside its bytes.
const STR_BYTES: usize = std::mem::size_of::<StrInner>() + 48;

impl Builder {
    pub fn new(budget: &mut Budget) -> Result<Builder> {
        Ok(Builder {
            text: Text::new(String::new(), Origin::Template),
            charge: budget.charge(STR_BYTES)?,
            floor: Origin::Template,
        })
    }

    /// A string of which every character has the origin or a less trusted one.
    pub fn under(floor: Origin, budget: &mut Budget) -> Result<Builder> {
        let mut out = Builder::new(budget)?;
        out.text.origin = floor;
        out.floor = floor;
        Ok(out)
    }

    /// From here on, what is pushed has the origin or a less trusted one. Gives what held before, for `sink`.
    pub fn raise(&mut self, origin: Origin) -> Origin {
        let before = self.floor;
        self.floor = before.max(origin);
        before
    }

    /// Back to what `raise` gave.
    pub fn sink(&mut self, before: Origin) {
        self.floor = before;
    }

    /// Makes room for so many bytes, paid for first; grows by doubling while that fits the limit.
    fn grow(&mut self, bytes: usize, budget: &mut Budget) -> Result<()> {
        let text = &mut self.text.text;
        let needed = text.len().saturating_add(bytes);
        if needed > text.capacity() {
            let more = budget.growth(text.capacity(), needed);
            self.charge.grow(more.saturating_sub(text.capacity()))?;
            text.reserve_exact(more.saturating_sub(text.len()));
        }
        Ok(())
    }

    /// Room for the two runs that a change of origin can add.
    fn grow_runs(&mut self, budget: &mut Budget) -> Result<()> {
        let runs = &mut self.text.runs;
        let needed = runs.len().saturating_add(2);
        if needed > runs.capacity() {
            let more = budget.growth(runs.capacity(), needed);
            let added = more.saturating_sub(runs.capacity());
            self.charge.grow(added.saturating_mul(RUN_BYTES))?;
            runs.reserve_exact(more.saturating_sub(runs.len()));
        }
        Ok(())
    }

    /// Pays for bytes that are about to be pushed, so that what cannot be paid is refused at once.
    pub fn reserve(&mut self, bytes: usize, budget: &mut Budget) -> Result<()> {
        self.grow(bytes, budget)
    }

    pub fn push(&mut self, text: &str, origin: Origin, budget: &mut Budget) -> Result<()> {
        if text.len() > scan::PIECE {
            self.grow(text.len(), budget)?;
            return scan::pieces(text).try_for_each(|piece| self.push(piece, origin, budget));
        }
        let origin = origin.max(self.floor);
        budget.bytes(text.len())?;
        self.grow(text.len(), budget)?;
        let changes = match self.text.runs.last() {
            Some(last) => last.origin != origin,
            None => self.text.origin != origin && !self.text.text.is_empty(),
        };
        if changes {
            self.grow_runs(budget)?;
        }
        self.text.push(text, origin);
        Ok(())
    }

    /// Pushes a text so many times.
    pub fn push_times(
        &mut self,
        text: &str,
        times: usize,
        origin: Origin,
        budget: &mut Budget,
    ) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.grow(text.len().saturating_mul(times), budget)?;
        // A short one is written by the piece.
        let most = scan::PIECE.checked_div(text.len()).unwrap_or(1).max(1);
        let many = text.repeat(most.min(times));
        let mut left = times;
        while left > 0 {
            let now = left.min(most);
            let bytes = text.len().saturating_mul(now);
            self.push(many.get(..bytes).unwrap_or(text), origin, budget)?;
            left = left.saturating_sub(now);
        }
        Ok(())
    }

    pub fn push_char(&mut self, c: char, origin: Origin, budget: &mut Budget) -> Result<()> {
        self.push(c.encode_utf8(&mut [0; 4]), origin, budget)
    }

    pub fn push_text(&mut self, text: &Text, budget: &mut Budget) -> Result<()> {
        match text.single() {
            Some(origin) => self.push(text.as_str(), origin, budget),
            None => self.push_range(text, 0..text.text.len(), budget),
        }
    }

    pub fn push_range(
        &mut self,
        text: &Text,
        range: Range<usize>,
        budget: &mut Budget,
    ) -> Result<()> {
        if let Some(origin) = text.single() {
            let part = text.text.get(range).unwrap_or("");
            return self.push(part, origin, budget);
        }
        budget.steps(text.runs_within(&range))?;
        for (piece, origin) in text.segments(range) {
            self.push(piece, origin, budget)?;
        }
        Ok(())
    }

    pub fn into_text(self) -> Text {
        self.text
    }

    pub fn finish(self) -> Str {
        self.finish_as(false)
    }

    pub fn finish_as(self, markup: bool) -> Str {
        Str(Arc::new(StrInner {
            text: self.text,
            markup,
            charge: self.charge,
        }))
    }
}
