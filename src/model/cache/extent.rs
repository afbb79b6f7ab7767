//! Where a cache's tokens lie, in numbers only: what a cache will take is known before it does, and before there is one.

use std::ops::Range;

use super::tokens::WINDOW_MARKS;

/// The first room, and what others are multiples of: a session of a few tokens holds little, a longer one is seldom copied
/// (each time costs as much as a token or two), and none has room for more than 256 tokens too many.
const ROOMS: [i32; 2] = [32, 256];

/// The numbers of one cache.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Tokens seen, which is the position of the next one.
    offset: i32,
    /// Tokens that there is room for.
    capacity: i32,
    /// Where the next token is written, in a window that is full modulo its size.
    index: i32,
    window: Option<Window>,
    /// Tokens that are known to come, those seen included: it grows to take them at once.
    expected: i32,
    /// Tokens that will ever come: no room is made for more.
    most: i32,
}

/// Keeps the first `keep` tokens and the newest of the rest, `size` in all.
#[derive(Clone, Copy, Debug)]
struct Window {
    size: i32,
    keep: i32,
}

/// Where new tokens go.
#[derive(Debug, PartialEq)]
pub struct Place {
    /// Tokens that there is room for then.
    pub capacity: i32,
    /// Where the first new token is written.
    pub at: i32,
    /// Where the room is another: what is taken over from the old one, to the front of the new one in this order.
    pub moved: Option<[Range<i32>; 3]>,
}

/// Bytes of a cache while tokens come.
#[derive(Default)]
pub struct Room {
    pub before: u64,
    pub after: u64,
    /// What is there twice while it is copied or made anew: keys or values, one after the other, or a state.
    pub copied: u64,
}

impl Extent {
    /// Every token is kept.
    pub fn full() -> Self {
        Extent {
            offset: 0,
            capacity: 0,
            index: 0,
            window: None,
            expected: 0,
            most: i32::MAX,
        }
    }

    /// `size` tokens at most (at least 1), the first `keep` (fewer than `size`) for ever.
    pub fn rotating(size: i32, keep: i32) -> Self {
        Extent {
            window: Some(Window { size, keep }),
            ..Extent::full()
        }
    }

    /// One that was written to a file: with `capacity` tokens, spare room included, the next of which goes to `index`. None: there
    /// is none like that.
    pub fn restored(&self, offset: i32, index: i32, capacity: i32) -> Option<Extent> {
        let as_put_in = index == offset && offset <= capacity;
        let is_possible = match self.window {
            None => as_put_in,
            Some(Window { size, keep }) => {
                let before = as_put_in && (capacity <= size || capacity == offset);
                let in_order = index == capacity && capacity < offset && capacity >= size;
                let turned = capacity == size && keep < index && index < size && size < offset;
                before || in_order || turned
            }
        };
        let restored = Extent {
            offset,
            capacity,
            index,
            ..self.clone()
        };
        (is_possible && offset > 0).then_some(restored)
    }

    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// Where the next token is written, in a window that is full modulo its size.
    pub fn index(&self) -> i32 {
        self.index
    }

    /// Tokens from the front on that there is something in.
    pub fn filled_to(&self) -> i32 {
        match self.is_rotated() {
            true => self.capacity,
            false => self.index,
        }
    }

    pub fn capacity(&self) -> i32 {
        self.capacity
    }

    pub fn window(&self) -> Option<i32> {
        self.window.map(|window| window.size)
    }

    /// The first that are kept for ever.
    pub fn keep(&self) -> i32 {
        self.window.map_or(0, |window| window.keep)
    }

    /// Tokens of the sequence with `n` more, as far as it is known.
    pub fn length(&self, n: i32) -> i32 {
        self.expected.max(self.offset.saturating_add(n))
    }

    /// Has room for so many tokens at once when it grows, and never for more than `most`.
    pub fn expect(&mut self, tokens: i32, most: i32) {
        (self.expected, self.most) = (tokens, most);
    }

    /// Without any token.
    pub fn clear(&mut self) {
        (self.offset, self.capacity, self.index) = (0, 0, 0);
    }

    /// Without the last `n` tokens; only where `is_trimmable`.
    pub fn trim(&mut self, n: i32) {
        self.offset -= n;
        self.index -= n;
    }

    /// Whether the last tokens can be cut: a window that has dropped tokens cannot get them back.
    pub fn is_trimmable(&self) -> bool {
        self.window.is_none_or(|window| self.offset < window.size)
    }

    /// Whether `n` more tokens end that: it cannot be cut then.
    pub fn turns(&self, n: i32) -> bool {
        (self.window).is_some_and(|window| self.offset.saturating_add(n) >= window.size)
    }

    /// Tokens that its marks hold at most (`Tokens::mark`). Where first tokens are kept there are none behind the turn, and those
    /// before it hold the same.
    pub fn most_marked(&self) -> i32 {
        let marks = |window: Window| match window.keep {
            0 => WINDOW_MARKS as i32,
            _ => 1,
        };
        (self.window).map_or(0, |window| window.size.saturating_mul(marks(window)))
    }

    /// Where the tokens of a window go without those that none sees any more; none: there are no such.
    pub fn settled(&self) -> Option<Place> {
        let Window { size, .. } = self.window?;
        (self.held() > size).then(|| Place {
            capacity: size,
            at: size,
            moved: Some(self.in_order()),
        })
    }

    /// Whether what it holds depends on how it was filled: a prompt's tokens do not see the kept ones beyond the window,
    /// generated ones do (as in mlx-lm), so from a full window on nothing goes on as a fresh prompt of the same tokens would.
    pub fn is_path_dependent(&self) -> bool {
        self.keep() > 0 && !self.is_trimmable()
    }

    /// Where `n` more tokens go. In a window a single one takes the place of the oldest that may go; several are put in order
    /// of time behind what is left, of which each of them sees a full window.
    pub fn place(&self, n: i32) -> Place {
        let Some(Window { size, keep }) = self.window else {
            return match self.offset + n <= self.capacity {
                true => self.stay(self.offset),
                false => self.grow([0..self.offset, 0..0, 0..0], n, i32::MAX),
            };
        };
        let (rotated, length) = (self.is_rotated(), self.held());
        if n == 1 && length <= size {
            return match length == self.capacity && length < size {
                true => self.grow([0..length, 0..0, 0..0], 1, size),
                false if self.index == size => self.stay(keep),
                false => self.stay(self.index),
            };
        }
        // What each of them sees beside itself; alone, a token takes the place of another.
        let left = length.min(if n == 1 { size } else { size - 1 });
        let drop = length - left;
        let kept = match (rotated, drop) {
            (true, _) => [0..keep, self.index + drop..length, keep..self.index],
            (false, 0) => [0..length, 0..0, 0..0],
            (false, _) => [0..keep, keep + drop..length, 0..0],
        };
        if n == 1 {
            return Place {
                capacity: size,
                at: keep,
                moved: Some(kept),
            };
        }
        match !rotated && drop == 0 && length + n <= self.capacity {
            true => self.stay(length),
            false => self.grow(kept, n, size),
        }
    }

    /// In a window the room that `n` tokens need that come one at a time, with all that is there; `anew`: in any case another one.
    pub fn each_in(&self, n: i32, anew: bool) -> Place {
        let length = self.held();
        let size = self.window.map_or(i32::MAX, |window| window.size);
        let more = n.min(size.saturating_sub(length));
        let place = match more {
            ..0 => self.settled(),
            _ if length + more > self.capacity => {
                Some(self.grow([0..length, 0..0, 0..0], more, size))
            }
            _ => None,
        };
        place.unwrap_or_else(|| Place {
            moved: anew.then_some([0..self.capacity, 0..0, 0..0]),
            ..self.stay(self.index)
        })
    }

    /// Where each of `n` tokens goes that come one at a time, where there is room for them; and what is written over there.
    pub fn each_place(&self, n: i32) -> Vec<(Place, bool)> {
        let mut extent = self.clone();
        let places = (0..n).map(|_| {
            let (place, over) = (extent.place(1), extent.is_full());
            extent.advance(1, &place);
            (place, over)
        });
        places.collect()
    }

    /// Between which places a window turns: behind the last one the next token goes to the first.
    pub fn ring(&self) -> Option<Range<i32>> {
        self.window.map(|window| window.keep..window.size)
    }

    /// A window whose next token takes the place of another.
    fn is_full(&self) -> bool {
        self.window.is_some_and(|window| self.offset >= window.size)
    }

    /// The newest token is not the last in its room.
    fn is_rotated(&self) -> bool {
        self.index < self.offset && self.index != self.capacity
    }

    /// Tokens that are there. Of a window some may be more than its size, behind several that came at once.
    fn held(&self) -> i32 {
        match self.is_rotated() {
            true => self.capacity,
            false => self.index,
        }
    }

    /// Where tokens lie that one more can see, in the order of time: in a window the first that are kept and the newest.
    pub fn in_order(&self) -> [Range<i32>; 3] {
        let length = self.held();
        let (keep, size) = match self.window {
            Some(Window { size, keep }) => (keep.min(length), size),
            None => (0, i32::MAX),
        };
        let first = keep + (length - size).max(0);
        match self.is_rotated() {
            true => [0..keep, self.index..length, keep..self.index],
            false => [0..keep, first..length, 0..0],
        }
    }

    /// A place for `n` tokens in room of its own: what would stay where it is, is taken over.
    pub fn anew(&self, place: Place, n: i32) -> Place {
        match (&place.moved, self.window) {
            (Some(_), _) => place,
            (None, None) => self.grow([0..self.offset, 0..0, 0..0], n, i32::MAX),
            (None, Some(_)) => Place {
                moved: Some([0..self.capacity, 0..0, 0..0]),
                ..place
            },
        }
    }

    fn stay(&self, at: i32) -> Place {
        Place {
            capacity: self.capacity,
            at,
            moved: None,
        }
    }

    /// Room for `n` tokens behind what is kept, and for some more as long as there are not `size` of them.
    fn grow(&self, kept: [Range<i32>; 3], n: i32, size: i32) -> Place {
        let at = kept.iter().map(|part| part.len() as i32).sum::<i32>();
        let need = at + n;
        Place {
            capacity: room(need.max(self.expected))
                .min(self.most)
                .min(size)
                .max(need),
            at,
            moved: Some(kept),
        }
    }

    /// The `n` tokens are there.
    pub fn advance(&mut self, n: i32, place: &Place) {
        self.offset += n;
        self.capacity = place.capacity;
        self.index = place.at + n;
    }

    /// Tokens from the front on that the last of `n` more sees at most, it itself included.
    pub fn seen(&self, n: i32, place: &Place) -> i32 {
        (self.offset + n).min(place.capacity)
    }

    /// What it takes to put tokens in a place, of so many bytes of keys and of values each.
    pub fn room_for(&self, place: &Place, token: [u64; 2]) -> Room {
        let bytes = |tokens: i32, of: u64| u64::try_from(tokens).unwrap_or(0).saturating_mul(of);
        let both = token[0].saturating_add(token[1]);
        let copied = match &place.moved {
            Some(_) if place.at > 0 => {
                bytes(self.capacity.min(place.capacity), token[0].max(token[1]))
            }
            _ => 0,
        };
        Room {
            before: bytes(self.capacity, both),
            after: bytes(place.capacity, both),
            copied,
        }
    }

    /// As it is with `tokens` in it that came `chunk` at a time, and with room for `capacity` where nothing is dropped.
    pub fn filled(&self, tokens: i32, capacity: i32, chunk: i32) -> Extent {
        let (capacity, index) = match self.window {
            Some(Window { size, .. }) if tokens > size => {
                let held = if chunk > 1 { size - 1 + chunk } else { size };
                (held, held)
            }
            Some(Window { size, .. }) => (capacity.min(size).max(tokens), tokens),
            None => (capacity.max(tokens), tokens),
        };
        Extent {
            offset: tokens,
            capacity,
            index,
            ..self.clone()
        }
    }
}

impl Place {
    /// Something of the old room is in the new one.
    pub fn copies(&self) -> bool {
        self.moved
            .iter()
            .flatten()
            .any(|part| part.start < part.end)
    }
}

/// The room that is made for so many tokens.
fn room(tokens: i32) -> i32 {
    let [least, step] = ROOMS;
    match tokens <= least {
        true => least,
        false => tokens.saturating_add(step - 1) / step * step,
    }
}

/// The largest room that is smaller than `most`.
pub fn room_below(most: i32) -> i32 {
    let [least, step] = ROOMS;
    match most - 1 {
        tokens if tokens >= step => tokens / step * step,
        tokens if tokens >= least => least,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
