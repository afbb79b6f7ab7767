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
        self.offset = self.offset.saturating_add(n);
        self.arrays = arrays;
    }

    pub fn nbytes(&self) -> u64 {
        // A mark of where it is now is the state itself.
        let marks = self.marks.iter().filter(|mark| mark.offset != self.offset);
        marks.map(|mark| bytes(&mark.arrays)).sum::<u64>() + bytes(&self.arrays)
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
        let marks = self.marks.iter().map(|mark| mark.offset);
        marks.filter(|&offset| offset <= n).max().unwrap_or(0)
    }

    /// Only to what `reach` gave.
    pub fn cut(&mut self, n: i32) {
        if n == self.offset {
            return;
        }
        self.marks.retain(|mark| mark.offset <= n);
        let mark = self.marks.back().filter(|mark| mark.offset == n);
        (self.offset, self.arrays) = match mark {
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
