//! A state that all tokens went into. It cannot be cut, so it remembers some of the places where it was.

use std::collections::VecDeque;

use super::extent::Room;
use crate::mlx::Array;

/// Places that a state remembers at most: of a chat's last turns the end of what the user said, of the prompt, and of the
/// answer before.
pub const MARKS: usize = 4;

/// One layer's state. A clone shares the arrays, which nobody writes to.
#[derive(Clone, Default)]
pub struct State {
    /// Tokens seen.
    offset: i32,
    /// Empty: there were none.
    arrays: Vec<Array>,
    /// The oldest first.
    marks: VecDeque<Mark>,
    /// What it was before tokens that may be taken back: no mark, since it is for the next moment and not for the next turn.
    before: Option<Mark>,
    /// Behind so many tokens there come such.
    hold_at: Option<i32>,
}

#[derive(Clone)]
struct Mark {
    offset: i32,
    arrays: Vec<Array>,
}

impl State {
    /// From a file; `marks`, the oldest first, lie before `offset`.
    pub fn restored(offset: i32, arrays: Vec<Array>, marks: Vec<(i32, Vec<Array>)>) -> Self {
        let marks = marks.into_iter();
        let marks = marks.map(|(offset, arrays)| Mark { offset, arrays });
        State {
            offset,
            arrays,
            marks: marks.collect(),
            before: None,
            hold_at: None,
        }
    }

    /// Where it was, the oldest first.
    pub fn marks(&self) -> impl Iterator<Item = (i32, &[Array])> {
        let marks = self.marks.iter();
        marks.map(|mark| (mark.offset, mark.arrays.as_slice()))
    }

    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// None before the first token.
    pub fn get(&self, index: usize) -> Option<&Array> {
        self.arrays.get(index)
    }

    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// After `n` more tokens.
    pub fn advance(&mut self, n: i32, arrays: Vec<Array>) {
        // Nobody asked for it until now, and what it was made for is over.
        self.before.take_if(|before| before.offset != self.offset);
        self.offset = self.offset.saturating_add(n);
        self.arrays = arrays;
        if self.hold_at == Some(self.offset) {
            self.before = Some(Mark {
                offset: self.offset,
                arrays: self.arrays.clone(),
            });
        }
    }

    pub fn nbytes(&self) -> u64 {
        // A mark of where it is now is the state itself.
        let marks = self.marks.iter().filter(|mark| mark.offset != self.offset);
        let before = self.before.iter();
        let before =
            before.filter(|before| before.offset != self.offset && !self.is_marked(before));
        marks
            .chain(before)
            .map(|mark| bytes(&mark.arrays))
            .fold(bytes(&self.arrays), u64::saturating_add)
    }

    /// Without marks.
    pub fn bytes(&self) -> u64 {
        bytes(&self.arrays)
    }

    /// Whether a mark is there, too, which has the same arrays.
    fn is_marked(&self, before: &Mark) -> bool {
        self.marks.iter().any(|mark| mark.offset == before.offset)
    }

    /// While tokens come. `state`: bytes of a state.
    pub fn room(&self, state: u64) -> Room {
        let marks = self.marks.iter().map(|mark| bytes(&mark.arrays));
        Room {
            before: self.nbytes(),
            after: marks.fold(state, u64::saturating_add),
            copied: state,
        }
    }

    pub fn reach(&self, n: i32) -> i32 {
        if n >= self.offset {
            return self.offset;
        }
        let places = self.marks.iter().chain(&self.before);
        let places = places.map(|mark| mark.offset);
        places.filter(|&offset| offset <= n).max().unwrap_or(0)
    }

    /// Only to what `reach` gave.
    pub fn cut(&mut self, n: i32) {
        if n == self.offset {
            return;
        }
        self.marks.retain(|mark| mark.offset <= n);
        let before = self.before.take();
        self.hold_at = None;
        let places = self.marks.back().into_iter().chain(&before);
        let place = places.into_iter().find(|mark| mark.offset == n);
        (self.offset, self.arrays) = match place {
            Some(mark) => (n, mark.arrays.clone()),
            None => (0, Vec::new()),
        };
    }

    /// See `Cache::mark`.
    pub fn mark(&mut self, at: i32) {
        let known = self.marks.back().map(|mark| mark.offset);
        if self.arrays.is_empty() || known == Some(self.offset) || at != self.offset {
            return;
        }
        if self.marks.len() >= MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(Mark {
            offset: self.offset,
            arrays: self.arrays.clone(),
        });
    }

    /// Behind `sure` more tokens it remembers what it is, until those that come then are known to stay.
    pub fn hold(&mut self, sure: i32) {
        self.hold_at = Some(self.offset.saturating_add(sure));
    }

    /// Nothing is taken back any more.
    pub fn settle(&mut self) {
        (self.before, self.hold_at) = (None, None);
    }

    /// False: there were none.
    pub fn drop_marks(&mut self) -> bool {
        let any = !self.marks.is_empty();
        self.marks.clear();
        any
    }
}

fn bytes(arrays: &[Array]) -> u64 {
    arrays.iter().map(Array::nbytes).sum()
}
