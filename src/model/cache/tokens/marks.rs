//! Places that a window can go back to.

use std::rc::Rc;

use super::room::unless;
use super::{Room, Tokens};
use crate::error::Result;

/// Places that a window remembers at most. Each may take as much as the window.
pub const WINDOW_MARKS: usize = 2;

/// A place that a window can go back to after it has dropped what it saw there.
pub(super) struct Mark {
    pub offset: i32,
    /// What there was, without marks. None: the cache can still be cut to it, or is there.
    pub kept: Option<Tokens>,
}

impl Tokens {
    /// Places that it can go back to, in their order, and what it has of those that it cannot be cut to.
    pub fn marks(&self) -> impl Iterator<Item = (i32, Option<&Tokens>)> {
        let marks = self.marks.iter();
        marks.map(|mark| (mark.offset, mark.kept.as_ref()))
    }

    /// Of its marks. Those that were made before the window turned have the same tensors.
    pub(super) fn marked_bytes(&self) -> u64 {
        let kept = || self.marks.iter().filter_map(|mark| mark.kept.as_ref());
        let before = std::iter::once(None).chain(kept().map(Some));
        let bytes = kept().zip(before).map(|(kept, before)| match before {
            Some(before) if kept.has_tensors_of(before) => 0,
            _ => kept.own_bytes(),
        });
        bytes.fold(0, u64::saturating_add)
    }

    pub(super) fn has_tensors_of(&self, other: &Tokens) -> bool {
        let pair = self.shared.as_ref().zip(other.shared.as_ref());
        pair.is_some_and(|(own, other)| Rc::ptr_eq(own, other))
    }

    /// What `n` more tokens take where a mark keeps what there is.
    pub(super) fn room_beside_a_mark(&self, n: i32, singly: bool, token: [u64; 2]) -> Room {
        let mut extent = self.extent.clone();
        let settling = extent.settled().map(|place| {
            let room = extent.room_for(&place, token);
            extent.advance(0, &place);
            unless(self.is_shared(), room)
        });
        let place = match singly {
            true => extent.each_in(n, true),
            false => extent.anew(extent.place(n), n),
        };
        let room = extent.room_for(&place, token);
        let copied = settling.as_ref().map_or(0, |settling| settling.copied);
        Room {
            before: settling.map_or(room.before, |settling| settling.before),
            after: room.before.saturating_add(room.after),
            copied,
        }
    }

    /// To the last mark.
    pub(super) fn go_back(&mut self) {
        let mut marks = std::mem::take(&mut self.marks);
        let Some(kept) = marks.last_mut().and_then(|mark| mark.kept.take()) else {
            return self.clear();
        };
        *self = kept;
        if self.extent.is_trimmable() {
            marks.iter_mut().for_each(|mark| mark.kept = None);
        }
        self.marks = marks;
    }

    /// See `Cache::mark`. Where first tokens are kept, only before the window has turned: behind that, what it holds depends on how
    /// it was filled.
    pub fn mark(&mut self, at: i32) {
        let is_there = at == self.offset() || (at < self.offset() && self.extent.is_trimmable());
        let rotates = self.extent.window().is_some();
        if at <= 0 || !rotates || !is_there || self.is_path_dependent() {
            return;
        }
        let place = (self.marks).binary_search_by_key(&at, |mark| mark.offset);
        let Err(place) = place else {
            return;
        };
        let mark = Mark {
            offset: at,
            kept: None,
        };
        self.marks.insert(place, mark);
        if self.marks.len() > WINDOW_MARKS {
            self.marks.remove(0);
        }
    }

    /// False: there were none.
    pub fn drop_marks(&mut self) -> bool {
        let any = !self.marks.is_empty();
        self.marks.clear();
        any
    }

    /// Whether a mark among the next `n` tokens is only made where it is.
    pub fn marks_in_passing(&self, n: i32) -> bool {
        self.extent.keep() == 0 && self.extent.turns(n)
    }

    /// With `n` more tokens the cache cannot be cut to some mark any more.
    pub(super) fn loses_marks(&self, n: i32) -> bool {
        self.extent.turns(n) && self.marks.iter().any(|mark| mark.kept.is_none())
    }

    /// Before `n` more tokens are put in. What marks keep is no more than the window, and nothing is copied for it but by the
    /// tokens that are put in then.
    pub(super) fn keep_marks(&mut self, n: i32) -> Result<()> {
        if !self.loses_marks(n) {
            return Ok(());
        }
        if let Some(place) = self.extent.settled() {
            self.move_to(&place)?;
        }
        let mut marks = std::mem::take(&mut self.marks);
        for mark in marks.iter_mut().filter(|mark| mark.kept.is_none()) {
            let mut kept = self.fork();
            kept.held = None;
            kept.extent.trim(kept.offset() - mark.offset);
            mark.kept = Some(kept);
        }
        self.marks = marks;
        Ok(())
    }
}
