//! Parts of a text of several writers, by their places.
//!
//! A place counts characters, so whoever wrote these has decided what stands there: in `(content ~ 'abc')[2]` the length
//! of the content picks a letter. A character keeps its own origin only where it is in the part whatever less trusted
//! writers wrote, however much or little; else it has theirs.

use std::ops::Range;

use super::budget::Budget;
use super::error::Result;
use super::string::{Builder, Origin, Text};

const ORIGINS: [Origin; 3] = [Origin::Template, Origin::Assistant, Origin::Content];

/// How many characters there are of each origin.
#[derive(Clone, Copy, Default)]
struct Counts([usize; 3]);

impl Counts {
    fn add(&mut self, origin: Origin, count: usize) {
        for (have, sum) in ORIGINS.iter().zip(&mut self.0) {
            if *have == origin {
                *sum = sum.saturating_add(count);
            }
        }
    }

    fn less(&self, other: &Counts) -> Counts {
        let mut rest = *self;
        for (sum, less) in rest.0.iter_mut().zip(&other.0) {
            *sum = sum.saturating_sub(*less);
        }
        rest
    }

    /// Those that are at least as trusted, and the least trusted origin of the others.
    fn beside(&self, origin: Origin) -> (usize, Option<Origin>) {
        let each = || ORIGINS.iter().zip(&self.0);
        let as_trusted = each().filter(|(have, _)| **have <= origin);
        let others = each().filter(|(have, count)| **have > origin && **count > 0);
        let as_trusted = as_trusted.fold(0usize, |sum, (_, count)| sum.saturating_add(*count));
        (as_trusted, others.map(|(have, _)| *have).max())
    }
}

/// Pushes the bytes of a range, which are what Python's `text[start:stop]` gives.
pub(super) fn push_part(
    out: &mut Builder,
    text: &Text,
    range: Range<usize>,
    (start, stop): (Option<i64>, Option<i64>),
    budget: &mut Budget,
) -> Result<()> {
    if text.single().is_some() {
        return out.push_range(text, range, budget);
    }
    let mut all = Counts::default();
    for (piece, origin) in text.pieces() {
        budget.bytes(piece.len())?;
        all.add(origin, piece.chars().count());
    }
    let (mut at, mut before) = (0usize, Counts::default());
    for (piece, origin) in text.pieces() {
        budget.slow_bytes(piece.len())?;
        budget.step()?;
        let begin = at;
        at = at.saturating_add(piece.len());
        let mut here = before;
        here.add(origin, piece.chars().count());
        let kept = range.start.max(begin)..range.end.min(at);
        let part = |range: Range<usize>| {
            let range = range.start.saturating_sub(begin)..range.end.saturating_sub(begin);
            piece.get(range).unwrap_or("")
        };
        if kept.start < kept.end {
            let head = part(begin..kept.start).chars().count();
            let tail = part(kept.end..at).chars().count();
            let (ahead, by_ahead) = before.beside(origin);
            let (behind, by_behind) = all.less(&here).beside(origin);
            let (ahead, behind) = (ahead.saturating_add(head), behind.saturating_add(tail));
            // By whom all of the piece is there, and so many of its first and last characters.
            let mut whole = None;
            let (mut first, mut last) = (0, 0);
            match start.map(usize::try_from) {
                None => {}
                Some(Ok(start)) => first = start.saturating_sub(ahead),
                Some(Err(_)) => whole = whole.max(by_behind),
            }
            match stop {
                None => {}
                Some(stop) if stop >= 0 => whole = whole.max(by_ahead),
                Some(stop) => {
                    let stop = usize::try_from(stop.unsigned_abs()).unwrap_or(usize::MAX);
                    last = stop.saturating_sub(behind);
                }
            }
            let kept = part(kept);
            let count = kept.chars().count();
            let place = |at: usize| kept.char_indices().nth(at).map_or(kept.len(), |(at, _)| at);
            let (first, last) = match (by_ahead, by_behind) {
                (None, None) => (0, kept.len()),
                (None, Some(_)) => (0, place(count.saturating_sub(last))),
                (Some(_), None) => (place(first), kept.len()),
                _ => (place(first), place(count.saturating_sub(last))),
            };
            let origin = whole.map_or(origin, |whole| whole.max(origin));
            let (inner, outer) = (first.min(last), first.max(last));
            for (range, by) in [
                (0..inner, by_ahead),
                (
                    inner..outer,
                    by_ahead.max(by_behind).filter(|_| first > last),
                ),
                (outer..kept.len(), by_behind),
            ] {
                let by = by.map_or(origin, |by| by.max(origin));
                out.push(kept.get(range).unwrap_or(""), by, budget)?;
            }
        }
        before = here;
    }
    Ok(())
}
