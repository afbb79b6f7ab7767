//! Keys and values of tokens: a cache that keeps every one, and one that rotates over a window.

mod held;
mod marks;
mod room;

use std::rc::Rc;

use crate::dtype::Scheme;
use crate::error::{Error, Result};
use crate::mlx::fast::Place;
use crate::mlx::nn::AttentionMask;
use crate::mlx::stored::Stored;
use crate::mlx::Array;

use super::extent::{self, Extent, Room};
use super::TokenBytes;
use held::Held;
use marks::Mark;
pub use marks::WINDOW_MARKS;
pub use room::Like;
use room::{in_order, moved, unless};

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

    /// Whether there is something that `n` more tokens turn.
    pub fn is_turned_by(&self, n: i32) -> bool {
        self.tensors.is_some() && self.extent.turns(n)
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
