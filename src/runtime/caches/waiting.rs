//! Rows that came out of a model's last block and wait for the head that predicts further tokens to take them in, each with the token
//! behind its own (`worker/heads.rs`).

use std::collections::VecDeque;
use std::ops::Range;

use super::SessionCache;
use crate::error::{Error, Result};
use crate::mlx::{ops, Array};

/// So many rows that nobody has are taken for zeros; with more missing a head begins anew behind them.
const MOST_MISSING: usize = 16;

/// What a head's cache has beside the keys and values of its layers. Of all other caches it is empty.
#[derive(Clone, Default)]
pub(super) struct Waiting {
    /// Tokens at the front that the layers know nothing of.
    pub skipped: usize,
    /// Those of the rows but the first, whose token is the cache's last.
    pub tokens: Vec<i32>,
    rows: VecDeque<OutRows>,
}

/// Rows that came out of the last block.
#[derive(Clone)]
pub struct OutRows {
    /// `[1, rows, hidden]`; none: nobody has them.
    array: Option<Array>,
    /// Some of them.
    range: Range<i32>,
}

impl OutRows {
    /// Some rows of `[1, rows, hidden]`.
    pub fn new(array: Array, range: Range<i32>) -> Self {
        OutRows {
            array: Some(array),
            range,
        }
    }

    fn missing(count: usize) -> Self {
        OutRows {
            array: None,
            range: 0..i32::try_from(count).unwrap_or(0),
        }
    }

    pub fn len(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(0)
    }

    /// The first `n`.
    pub fn cut(&mut self, n: usize) {
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        self.range.end = self.range.start.saturating_add(n).min(self.range.end);
    }

    fn skip(&mut self, n: usize) {
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        self.range.start = self.range.start.saturating_add(n).min(self.range.end);
    }

    fn nbytes(&self) -> u64 {
        let row = |array: &Array| array.nbytes() / u64::try_from(array.dim(1)).unwrap_or(1).max(1);
        self.array.as_ref().map_or(0, row) * self.len() as u64
    }

    /// `[1, n, hidden]`, of this width; those that are missing like `like`.
    fn array(&self, like: &Array) -> Result<Array> {
        let Range { start, end } = self.range;
        let width = like.dim(2);
        match &self.array {
            None => ops::zeros(&[1, end - start, width], like.dtype()),
            Some(array) if end - start == array.dim(1) => Ok(array.clone()),
            Some(array) => ops::slice(array, &[0, start, 0], &[1, end, width]),
        }
    }
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.rows.iter().map(OutRows::len).sum()
    }

    pub fn nbytes(&self) -> u64 {
        self.rows.iter().map(OutRows::nbytes).sum()
    }

    /// The first `n` rows stay.
    pub fn cut(&mut self, n: usize) {
        let mut left = n;
        for rows in &mut self.rows {
            rows.cut(left);
            left -= rows.len();
        }
        self.rows.retain(|rows| rows.len() > 0);
        self.tokens.truncate(n.saturating_sub(1));
    }

    /// The first `n` rows go → `[1, n, hidden]`
    fn take(&mut self, n: usize) -> Result<Array> {
        let like = self.rows.iter().find_map(|rows| rows.array.clone());
        let like = like.ok_or_else(|| Error::internal("rows that nobody has"))?;
        let (mut parts, mut left) = (Vec::new(), n);
        while left > 0 {
            let Some(first) = self.rows.front_mut() else {
                return Err(Error::internal("fewer rows than were wanted"));
            };
            let mut part = first.clone();
            part.cut(left);
            left -= part.len();
            parts.push(part.array(&like)?);
            first.skip(part.len());
            if first.len() == 0 {
                self.rows.pop_front();
            }
        }
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            parts => ops::concatenate(&parts.iter().collect::<Vec<_>>(), 1),
        }
    }
}

impl SessionCache {
    /// Rows that a head has not taken in.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The place of the next row that a head wants. None: of whichever comes.
    fn next_row(&self) -> Option<usize> {
        let none = usize::from(self.waiting.rows.is_empty());
        (!self.tokens.is_empty()).then(|| self.known() - none)
    }

    /// Of a head's cache: what came out of the model for the tokens from place `first` on, the session's by `token`.
    pub fn wait(&mut self, first: usize, mut rows: OutRows, token: impl Fn(usize) -> Option<i32>) {
        let end = first + rows.len();
        let from = match self.next_row() {
            Some(next) if next >= end => return,
            Some(next) if next >= first => {
                rows.skip(next - first);
                next
            }
            Some(next) if first - next <= MOST_MISSING => next,
            _ => {
                self.clear();
                self.tokens = (0..=first).map_while(&token).collect();
                self.waiting.skipped = self.tokens.len();
                first
            }
        };
        let own = usize::from(self.waiting.rows.is_empty());
        let tokens = (from + own..end).map_while(token);
        self.waiting.tokens.extend(tokens);
        if from < first {
            self.waiting.rows.push_back(OutRows::missing(first - from));
        }
        self.waiting.rows.push_back(rows);
    }

    /// The first `n` rows that wait go into the head with these tokens, which are those behind them → `[1, n, hidden]`
    pub fn take_waiting(&mut self, tokens: &[i32]) -> Result<Array> {
        let hidden = self.waiting.take(tokens.len())?;
        let known = self.waiting.tokens.len().min(tokens.len());
        self.waiting.tokens.drain(..known);
        self.tokens.extend_from_slice(tokens);
        Ok(hidden)
    }
}
