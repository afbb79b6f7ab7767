//! Keys and values of tokens: a cache that keeps every one, and one that rotates over a window.

use std::ops::Range;
use std::rc::Rc;

use crate::dtype::{Dtype, Scheme};
use crate::error::{Error, Result};
use crate::mlx::fast::Place;
use crate::mlx::nn::AttentionMask;
use crate::mlx::stored::{take_tokens, write_tokens, Stored};
use crate::mlx::{self, fast, memory, ops, Array};

use super::extent::{self, Extent, Room};
use super::TokenBytes;

/// Places that a window remembers at most. Each may take as much as the window.
pub const WINDOW_MARKS: usize = 2;

/// One layer's keys and values, `[1, kv_heads, capacity, head_dim]` each.
pub struct Tokens {
    extent: Extent,
    /// How they are packed; none: they are floats.
    scheme: Option<Scheme>,
    /// Those from the front on that the last tokens saw.
    seen: i32,
    tensors: Option<(Stored, Stored)>,
    /// Held by all whose tensors these are too; none where nobody ever shared them.
    shared: Option<Rc<()>>,
    /// Of a window, in the order of their offsets.
    marks: Vec<Mark>,
    /// Of a window that has turned, while nobody knows whether its last tokens stay.
    held: Option<Held>,
}

/// A place that a window can go back to after it has dropped what it saw there.
struct Mark {
    offset: i32,
    /// What there was, without marks. None: the cache can still be cut to it, or is there.
    kept: Option<Tokens>,
}

/// What tokens that came one at a time have written over.
#[derive(Clone)]
struct Held {
    /// As it was before them, with room for each.
    before: Extent,
    /// How many they are.
    tokens: i32,
    /// Of the last of them, which have written over something: `[1, kv_heads, tokens, …]`.
    lost: Option<(Stored, Stored)>,
}

impl Held {
    fn arrays(&self) -> impl Iterator<Item = &Array> {
        let lost = self.lost.iter();
        lost.flat_map(|(keys, values)| keys.arrays().chain(values.arrays()))
    }
}

impl Tokens {
    pub fn new(extent: Extent) -> Self {
        Tokens {
            extent,
            scheme: None,
            seen: 0,
            tensors: None,
            shared: None,
            marks: Vec::new(),
            held: None,
        }
    }

    /// From a file: the arrays of keys and of values, of which the extent says where tokens lie; and the marks in their order, with
    /// what those have that the cache cannot be cut to.
    pub fn restored(
        extent: Extent,
        scheme: Option<Scheme>,
        [keys, values]: [Vec<Array>; 2],
        marks: Vec<(i32, Option<Tokens>)>,
    ) -> Result<Self> {
        let tensors = (
            Stored::from_arrays(keys, scheme)?,
            Stored::from_arrays(values, scheme)?,
        );
        let marks = marks.into_iter();
        let marks = marks.map(|(offset, kept)| Mark { offset, kept });
        Ok(Tokens {
            seen: extent.filled_to(),
            extent,
            scheme,
            tensors: Some(tensors),
            shared: None,
            marks: marks.collect(),
            held: None,
        })
    }

    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// Places that it can go back to, in their order, and what it has of those that it cannot be cut to.
    pub fn marks(&self) -> impl Iterator<Item = (i32, Option<&Tokens>)> {
        let marks = self.marks.iter();
        marks.map(|mark| (mark.offset, mark.kept.as_ref()))
    }

    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// How tokens are packed from now on; before there are any.
    pub fn pack_in(&mut self, scheme: Option<Scheme>) {
        self.scheme = scheme;
    }

    /// The same tokens in the same tensors. Whichever of the two writes first makes its own.
    pub fn fork(&mut self) -> Tokens {
        let shared = match self.tensors {
            Some(_) => Some(self.shared.get_or_insert_default().clone()),
            None => None,
        };
        let marks = self.marks.iter_mut().map(|mark| Mark {
            offset: mark.offset,
            kept: mark.kept.as_mut().map(Tokens::fork),
        });
        Tokens {
            extent: self.extent.clone(),
            scheme: self.scheme,
            seen: self.seen,
            tensors: self.tensors.clone(),
            shared,
            marks: marks.collect(),
            held: self.held.clone(),
        }
    }

    /// Others have the same tensors.
    fn is_shared(&self) -> bool {
        let others = self.shared.as_ref().map(Rc::strong_count);
        others.is_some_and(|holders| holders > 1)
    }

    /// Where `n` more tokens go.
    fn place_for(&self, n: i32) -> extent::Place {
        let place = self.extent.place(n);
        match self.is_shared() {
            true => self.extent.anew(place, n),
            false => place,
        }
    }

    pub fn offset(&self) -> i32 {
        self.extent.offset()
    }

    /// Tokens of the sequence with `n` more, as far as it is known.
    pub fn length(&self, n: i32) -> i32 {
        self.extent.length(n)
    }

    /// When it grows next, it takes so many tokens at once, and never room for more than `most`.
    pub fn expect(&mut self, tokens: i32, most: i32) {
        self.extent.expect(tokens, most);
    }

    /// Bytes that the cache holds, its spare room and its marks included.
    pub fn nbytes(&self) -> u64 {
        let held = self.held.iter().flat_map(Held::arrays);
        let held = held.map(Array::nbytes).fold(0, u64::saturating_add);
        let own = self.own_bytes().saturating_add(held);
        own.saturating_add(self.marked_bytes())
    }

    fn own_bytes(&self) -> u64 {
        let arrays = self.arrays().map(Array::nbytes);
        arrays.fold(0, u64::saturating_add)
    }

    /// Of its marks. Those that were made before the window turned have the same tensors.
    fn marked_bytes(&self) -> u64 {
        let kept = || self.marks.iter().filter_map(|mark| mark.kept.as_ref());
        let before = std::iter::once(None).chain(kept().map(Some));
        let bytes = kept().zip(before).map(|(kept, before)| match before {
            Some(before) if kept.has_tensors_of(before) => 0,
            _ => kept.own_bytes(),
        });
        bytes.fold(0, u64::saturating_add)
    }

    fn has_tensors_of(&self, other: &Tokens) -> bool {
        let pair = self.shared.as_ref().zip(other.shared.as_ref());
        pair.is_some_and(|(own, other)| Rc::ptr_eq(own, other))
    }

    /// Bytes of a token's keys and of its values. `token`: before there are any.
    fn token_bytes(&self, token: TokenBytes) -> [u64; 2] {
        let capacity = u64::try_from(self.extent.capacity()).unwrap_or(0);
        let of = |stored: &Stored| stored.nbytes().checked_div(capacity);
        let known = self
            .tensors
            .as_ref()
            .and_then(|(keys, values)| Some([of(keys)?, of(values)?]));
        known.unwrap_or_else(|| token.of(self.scheme))
    }

    /// What `n` more tokens take; `singly` as for `place`. `token`: before there are any.
    pub fn room_for(&self, n: i32, singly: bool, token: TokenBytes) -> Room {
        let token = self.token_bytes(token);
        let marked = self.marked_bytes();
        let singly = singly && n > 1 && self.is_turned_by(n);
        let (extent, is_shared) = (&self.extent, self.is_shared());
        let room = match (self.loses_marks(n), singly) {
            (true, _) => self.room_beside_a_mark(n, singly, token),
            (false, false) => unless(is_shared, extent.room_for(&self.place_for(n), token)),
            (false, true) => unless(
                is_shared,
                extent.room_for(&extent.each_in(n, is_shared), token),
            ),
        };
        Room {
            before: room.before.saturating_add(marked),
            after: room.after.saturating_add(marked),
            ..room
        }
    }

    /// What `n` more tokens take where a mark keeps what there is.
    fn room_beside_a_mark(&self, n: i32, singly: bool, token: [u64; 2]) -> Room {
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

    /// Tokens that `n` more see at most, they themselves included.
    pub fn length_after(&self, n: i32) -> i32 {
        self.extent.seen(n, &self.extent.place(n))
    }

    pub fn clear(&mut self) {
        self.extent.clear();
        (self.tensors, self.shared) = (None, None);
        self.marks.clear();
        self.held = None;
    }

    /// See `Cache::reach`.
    pub fn reach(&self, n: i32) -> i32 {
        match self.extent.is_trimmable() {
            true => n.min(self.offset()),
            false if n >= self.offset() => self.offset(),
            false if self.holds(n) => n,
            false => {
                let marks = self.marks.iter().map(|mark| mark.offset);
                marks.filter(|&offset| offset <= n).max().unwrap_or(0)
            }
        }
    }

    /// Whether what it holds depends on how it was filled.
    pub fn is_path_dependent(&self) -> bool {
        self.extent.is_path_dependent()
    }

    /// See `Cache::cut`.
    pub fn cut(&mut self, n: i32) -> Result<()> {
        let lost = self.offset().saturating_sub(n);
        self.marks.retain(|mark| mark.offset <= n);
        match n {
            _ if lost <= 0 => {}
            0 => self.clear(),
            _ if self.extent.is_trimmable() => self.extent.trim(lost),
            _ if self.holds(n) => self.take_back(n)?,
            _ => self.go_back(),
        }
        if lost > 0 {
            self.held = None;
        }
        Ok(())
    }

    /// Whether the tokens behind the first `n` can be taken back.
    fn holds(&self, n: i32) -> bool {
        let before = self.held.as_ref().map(|held| held.before.offset());
        before.is_some_and(|before| before <= n)
    }

    /// Without the tokens behind the first `n`: what they have written over is there again.
    fn take_back(&mut self, n: i32) -> Result<()> {
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
    fn settle_before(&mut self) {
        let offset = self.offset();
        let all = |held: &mut Held| held.before.offset().saturating_add(held.tokens) <= offset;
        self.held.take_if(all);
    }

    /// Makes room for `n` tokens that come one at a time and turn the window, where there are some before them.
    fn room_for_each(&mut self, n: i32) -> Result<()> {
        self.keep_marks(n)?;
        let place = self.extent.each_in(n, self.is_shared());
        match place.moved {
            Some(_) => self.move_to(&place),
            None => Ok(()),
        }
    }

    /// What there is goes to other room.
    fn move_to(&mut self, place: &extent::Place) -> Result<()> {
        let Some((keys, values)) = self.tensors.take() else {
            return Ok(());
        };
        self.shared = None;
        let keys = keys.map(|old| moved(old, place))?;
        let values = values.map(|old| moved(old, place))?;
        self.tensors = Some((keys, values));
        self.extent.advance(0, place);
        self.seen = self.extent.filled_to();
        Ok(())
    }

    /// To the last mark.
    fn go_back(&mut self) {
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

    /// How many of `n` more tokens can be taken back together: in a window that they turn no two take the same place.
    pub fn most_taken_back(&self, n: i32) -> i32 {
        let ring = self.extent.ring().filter(|_| self.is_turned_by(n));
        ring.map_or(n, |ring| n.min(ring.end - ring.start))
    }

    /// Whether there is something that `n` more tokens turn.
    pub fn is_turned_by(&self, n: i32) -> bool {
        self.tensors.is_some() && self.extent.turns(n)
    }

    /// Whether a mark among the next `n` tokens is only made where it is.
    pub fn marks_in_passing(&self, n: i32) -> bool {
        self.extent.keep() == 0 && self.extent.turns(n)
    }

    /// With `n` more tokens the cache cannot be cut to some mark any more.
    fn loses_marks(&self, n: i32) -> bool {
        self.extent.turns(n) && self.marks.iter().any(|mark| mark.kept.is_none())
    }

    /// Before `n` more tokens are put in. What marks keep is no more than the window, and nothing is copied for it but by the
    /// tokens that are put in then.
    fn keep_marks(&mut self, n: i32) -> Result<()> {
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

    /// What has to be evaluated for the cache to be.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.tensors
            .iter()
            .flat_map(|(keys, values)| keys.arrays().chain(values.arrays()))
    }

    /// The mask for `n` new tokens, before they are put in.
    pub fn mask(&self, n: i32) -> Result<AttentionMask> {
        AttentionMask::new(n, self.offset(), self.extent.window())
    }

    /// Appends keys and values `[1, kv_heads, n, head_dim]` and gives all that the queries see.
    pub fn update_and_fetch(&mut self, keys: Array, values: Array) -> Result<(Stored, Stored)> {
        let n = keys.dim(2);
        self.settle_before();
        self.keep_marks(n)?;
        let place = self.place_for(n);
        let seen = self.extent.seen(n, &place);
        let like = [Like::of(&keys), Like::of(&values)];
        let keys = Stored::of(keys, self.scheme)?;
        let values = Stored::of(values, self.scheme)?;
        // Given away, so that the old buffers have no other owner and can be written in place.
        let (old_keys, old_values) = self.with_room(&place, like)?;
        let keys = old_keys.write(&keys, place.at)?;
        let values = old_values.write(&values, place.at)?;
        self.extent.advance(n, &place);
        self.seen = seen;
        let visible = (keys.take(0..seen)?, values.take(0..seen)?);
        self.tensors = Some((keys, values));
        Ok(visible)
    }

    /// What the last tokens that were put in saw.
    pub fn fetch(&self) -> Result<(Stored, Stored)> {
        let missing = || Error::internal("keys of an earlier layer that are not there");
        let (keys, values) = self.tensors.as_ref().ok_or_else(missing)?;
        Ok((keys.take(0..self.seen)?, values.take(0..self.seen)?))
    }

    /// Keys and values of the tokens that one more can see, in the order of time: `[1, kv_heads, tokens, head_dim]` each. None:
    /// there are none.
    pub fn in_order(&self) -> Result<Option<(Array, Array)>> {
        let Some((keys, values)) = &self.tensors else {
            return Ok(None);
        };
        let parts = self.extent.in_order();
        Ok(Some((in_order(keys, &parts)?, in_order(values, &parts)?)))
    }

    /// The keys of `in_order`, without the values.
    pub fn keys_in_order(&self) -> Result<Option<Array>> {
        // What nobody asks for is not computed.
        Ok(self.in_order()?.map(|(keys, _)| keys))
    }

    /// Room for `n` more tokens, which whoever asks writes: at once, before anything else is queued for this cache. `singly`: they
    /// come as tokens come that are drawn, each of which sees what was there when it came.
    pub fn place(&mut self, n: i32, singly: bool, like: Like) -> Result<Place> {
        self.settle_before();
        let ring = (self.extent.ring()).filter(|_| singly && n > 1 && self.extent.turns(n));
        if let (Some(ring), Some(_)) = (ring, &self.tensors) {
            self.room_for_each(n)?;
            let places = self.extent.each_place(n);
            let offset = self.extent.offset();
            for (place, _) in &places {
                self.extent.advance(1, place);
            }
            self.seen = self.extent.filled_to();
            let missing = || Error::internal("a window without tensors");
            let (keys, values) = self.tensors.clone().ok_or_else(missing)?;
            return Ok(Place {
                at: places.first().map_or(0, |(place, _)| place.at),
                seen: self.seen,
                offset,
                ring: Some(ring),
                keys,
                values,
            });
        }
        self.keep_marks(n)?;
        let place = self.place_for(n);
        let seen = self.extent.seen(n, &place);
        let (keys, values) = self.with_room(&place, [like; 2])?;
        self.seen = seen;
        self.tensors = Some((keys.clone(), values.clone()));
        let offset = self.extent.offset();
        self.extent.advance(n, &place);
        Ok(Place {
            at: place.at,
            seen,
            offset,
            ring: None,
            keys,
            values,
        })
    }

    /// Takes the tensors out, with the room that a place needs. Where they are copied, that is done when this returns, one
    /// after the other: what is there twice is known (`Room::copied`).
    fn with_room(
        &mut self,
        place: &extent::Place,
        [keys, values]: [Like; 2],
    ) -> Result<(Stored, Stored)> {
        if place.moved.is_some() {
            self.shared = None;
        }
        match self.tensors.take() {
            Some(old) if place.moved.is_none() => Ok(old),
            Some((old_keys, old_values)) if place.copies() => Ok((
                old_keys.map(|old| moved(old, place))?,
                old_values.map(|old| moved(old, place))?,
            )),
            _ => Ok((
                keys.room(place.capacity, self.scheme)?,
                values.room(place.capacity, self.scheme)?,
            )),
        }
    }
}

/// What it takes to copy tensors, unless others have them, too: what was there stays, for those.
fn unless(is_shared: bool, room: Room) -> Room {
    match is_shared {
        true => Room {
            before: 0,
            copied: 0,
            ..room
        },
        false => room,
    }
}

/// What a place takes over of `[1, heads, tokens, …]`, in the room of the place.
fn moved(old: Array, place: &extent::Place) -> Result<Array> {
    let room = [1, old.dim(1), place.capacity, old.dim(3)];
    let (mut new, mut at) = (ops::zeros(&room, old.dtype())?, 0);
    let parts = || place.moved.iter().flatten();
    // What is written over all of an array takes its place, as a view of the old room; so that is done in two.
    let whole = parts().any(|part| part.len() as i32 == place.capacity);
    for part in parts() {
        let middle = match whole {
            true => (part.start + part.end) / 2,
            false => part.end,
        };
        for part in [part.start..middle, middle..part.end] {
            let length = part.end - part.start;
            if length > 0 {
                new = write_tokens(new, &take_tokens(&old, part)?, at)?;
                at += length;
            }
        }
    }
    if whole {
        new = ops::contiguous(&new)?;
    }
    mlx::eval(&[&new])?;
    drop(old);
    if fast::active() {
        // Or MLX takes its buffer for some other array, up to 8 KiB smaller, and counts all of it.
        memory::clear_cache();
    }
    Ok(new)
}

/// The numbers of these tokens `[1, heads, tokens, head_dim]`, one part behind the other.
fn in_order(stored: &Stored, parts: &[Range<i32>; 3]) -> Result<Array> {
    let parts = parts.iter().filter(|part| part.start < part.end);
    let parts = parts.map(|part| stored.take(part.clone())?.floats());
    let parts: Vec<Array> = parts.collect::<Result<_>>()?;
    match parts.as_slice() {
        [] => stored.take(0..0)?.floats(),
        [one] => Ok(one.clone()),
        parts => ops::concatenate(&parts.iter().collect::<Vec<_>>(), 2),
    }
}

/// What a cache's tensors are made of.
#[derive(Clone, Copy)]
pub struct Like {
    pub heads: i32,
    pub head_dim: i32,
    pub dtype: Dtype,
}

impl Like {
    /// Of `[1, heads, tokens, head_dim]`.
    fn of(x: &Array) -> Self {
        Like {
            heads: x.dim(1),
            head_dim: x.dim(3),
            dtype: x.dtype(),
        }
    }

    /// Room for so many tokens: `[1, heads, tokens, head_dim]`
    fn room(self, tokens: i32, scheme: Option<Scheme>) -> Result<Stored> {
        Stored::zeros([self.heads, tokens, self.head_dim], self.dtype, scheme)
    }
}
