//! Tokens of a window that may be taken back: what they have written over is held until it is known that they stay.

use super::{Extent, Stored, TokenBytes, Tokens};
use crate::error::{Error, Result};
use crate::mlx::{ops, Array};

/// What tokens that came one at a time have written over.
#[derive(Clone)]
pub(super) struct Held {
    /// As it was before them, with room for each.
    pub(super) before: Extent,
    /// How many they are.
    pub(super) tokens: i32,
    /// Of the last of them, which have written over something: `[1, kv_heads, tokens, …]`.
    pub(super) lost: Option<(Stored, Stored)>,
}

impl Held {
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        let lost = self.lost.iter();
        lost.flat_map(|(keys, values)| keys.arrays().chain(values.arrays()))
    }
}

impl Tokens {
    /// Whether the tokens behind the first `n` can be taken back.
    pub(super) fn holds(&self, n: i32) -> bool {
        let before = self.held.as_ref().map(|held| held.before.offset());
        before.is_some_and(|before| before <= n)
    }

    /// Without the tokens behind the first `n`: what they have written over is there again.
    pub(super) fn take_back(&mut self, n: i32) -> Result<()> {
        let missing = || Error::internal("a window without tensors");
        let held = self.held.take().ok_or_else(missing)?;
        let kept = usize::try_from(n - held.before.offset()).unwrap_or(0);
        let places = held.before.each_place(held.tokens);
        let mut extent = held.before;
        for (place, _) in places.iter().take(kept) {
            extent.advance(1, place);
        }
        let first_over = places.iter().position(|(_, over)| *over);
        let first_over = first_over.unwrap_or(places.len());
        if let Some((lost_keys, lost_values)) = held.lost {
            let (mut keys, mut values) = self.tensors.take().ok_or_else(missing)?;
            let mut row = first_over.max(kept);
            let mut written = false;
            while let Some((place, _)) = places.get(row) {
                let behind = places.iter().skip(row);
                let run = behind
                    .zip(place.at..)
                    .take_while(|((place, _), at)| place.at == *at);
                let run = run.count();
                let of = |row: usize| i32::try_from(row - first_over).unwrap_or(0);
                let rows = of(row)..of(row + run);
                keys = keys.write(&lost_keys.take(rows.clone())?, place.at)?;
                values = values.write(&lost_values.take(rows)?, place.at)?;
                (row, written) = (row + run, true);
            }
            if written {
                // What others have is theirs: it was not written in place.
                self.shared = None;
            }
            self.tensors = Some((keys, values));
        }
        self.extent = extent;
        self.seen = self.extent.filled_to();
        if self.extent.is_trimmable() {
            // It can be cut to them again.
            self.marks.iter_mut().for_each(|mark| mark.kept = None);
        }
        Ok(())
    }

    /// See `Cache::hold`.
    pub fn hold(&mut self, n: i32) -> Result<()> {
        let ring = self.extent.ring().filter(|_| self.is_turned_by(n));
        if ring.is_none_or(|ring| n > ring.end - ring.start) {
            return Ok(());
        }
        self.room_for_each(n)?;
        let places = self.extent.each_place(n);
        let over = places.iter().filter(|(_, over)| *over);
        let over: Vec<i32> = over.map(|(place, _)| place.at).collect();
        let lost = match (&self.tensors, over.is_empty()) {
            (Some((keys, values)), false) => {
                // A gather has memory of its own, and a slice may not.
                let over = Array::from_i32(&over)?;
                let taken = |of: &Stored| of.clone().map(|x| ops::take_along(&x, &over, 2));
                Some((taken(keys)?, taken(values)?))
            }
            _ => None,
        };
        self.held = Some(Held {
            before: self.extent.clone(),
            tokens: n,
            lost,
        });
        Ok(())
    }

    /// Bytes of what `hold` of `n` tokens keeps.
    pub fn held_by(&self, n: i32, token: TokenBytes) -> u64 {
        let [keys, values] = self.token_bytes(token);
        let tokens = match self.is_turned_by(n) {
            true => u64::try_from(n).unwrap_or(0),
            false => 0,
        };
        keys.saturating_add(values).saturating_mul(tokens)
    }

    /// What has to be evaluated before anybody writes behind `hold`.
    pub fn held(&self) -> impl Iterator<Item = &Array> {
        self.held.iter().flat_map(Held::arrays)
    }

    /// Nothing is taken back any more.
    pub fn settle(&mut self) {
        self.held = None;
    }

    /// What was held for tokens that are all there is not asked for any more when others come.
    pub(super) fn settle_before(&mut self) {
        let offset = self.offset();
        let all = |held: &mut Held| held.before.offset().saturating_add(held.tokens) <= offset;
        self.held.take_if(all);
    }

    /// Makes room for `n` tokens that come one at a time and turn the window, where there are some before them.
    pub(super) fn room_for_each(&mut self, n: i32) -> Result<()> {
        self.keep_marks(n)?;
        let place = self.extent.each_in(n, self.is_shared());
        match place.moved {
            Some(_) => self.move_to(&place),
            None => Ok(()),
        }
    }

    /// How many of `n` more tokens can be taken back together: in a window that they turn no two take the same place.
    pub fn most_taken_back(&self, n: i32) -> i32 {
        let ring = self.extent.ring().filter(|_| self.is_turned_by(n));
        ring.map_or(n, |ring| n.min(ring.end - ring.start))
    }
}
