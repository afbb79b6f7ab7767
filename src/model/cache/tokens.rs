//! Keys and values of tokens: a cache that keeps every one, and one that rotates over a window.

use std::ops::Range;
use std::rc::Rc;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::fast::Place;
use crate::mlx::nn::AttentionMask;
use crate::mlx::{self, fast, memory, ops, Array};

use super::extent::{self, Extent, Room};

/// One layer's keys and values, `[1, kv_heads, capacity, head_dim]` each.
pub struct Tokens {
    extent: Extent,
    /// Those from the front on that the last tokens saw.
    seen: i32,
    tensors: Option<(Array, Array)>,
    /// Held by all whose tensors these are too; none where nobody ever shared them.
    shared: Option<Rc<()>>,
}

impl Tokens {
    pub fn new(extent: Extent) -> Self {
        Tokens {
            extent,
            seen: 0,
            tensors: None,
            shared: None,
        }
    }

    /// From a file: keys and values `[1, kv_heads, capacity, head_dim]`, of which the extent says where tokens lie.
    pub fn restored(extent: Extent, keys: Array, values: Array) -> Self {
        Tokens {
            seen: extent.filled_to(),
            extent,
            tensors: Some((keys, values)),
            shared: None,
        }
    }

    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// The same tokens in the same tensors. Whichever of the two writes first makes its own.
    pub fn fork(&mut self) -> Tokens {
        let shared = match self.tensors {
            Some(_) => Some(self.shared.get_or_insert_default().clone()),
            None => None,
        };
        Tokens {
            extent: self.extent.clone(),
            seen: self.seen,
            tensors: self.tensors.clone(),
            shared,
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

    /// Bytes that the cache holds, its spare room included.
    pub fn nbytes(&self) -> u64 {
        self.tensors
            .as_ref()
            .map_or(0, |(keys, values)| keys.nbytes() + values.nbytes())
    }

    /// What `n` more tokens take. `token`: bytes of a token's keys and of its values, before there are any.
    pub fn room_for(&self, n: i32, token: [u64; 2]) -> Room {
        let capacity = u64::try_from(self.extent.capacity()).unwrap_or(0);
        let of = |array: &Array| array.nbytes().checked_div(capacity);
        let known = self
            .tensors
            .as_ref()
            .and_then(|(keys, values)| Some([of(keys)?, of(values)?]));
        let room = (self.extent).room_for(&self.place_for(n), known.unwrap_or(token));
        match self.is_shared() {
            // What was there stays, for the others.
            true => Room {
                before: 0,
                copied: 0,
                ..room
            },
            false => room,
        }
    }

    /// Tokens that `n` more see at most, they themselves included.
    pub fn length_after(&self, n: i32) -> i32 {
        self.extent.seen(n, &self.extent.place(n))
    }

    pub fn clear(&mut self) {
        self.extent.clear();
        (self.tensors, self.shared) = (None, None);
    }

    /// See `Cache::reach`.
    pub fn reach(&self, n: i32) -> i32 {
        match self.extent.is_trimmable() {
            true => n.min(self.offset()),
            false if n >= self.offset() => self.offset(),
            false => 0,
        }
    }

    /// Whether what it holds depends on how it was filled.
    pub fn is_path_dependent(&self) -> bool {
        self.extent.is_path_dependent()
    }

    /// See `Cache::cut`.
    pub fn cut(&mut self, n: i32) {
        match n {
            0 => self.clear(),
            n => self.extent.trim(self.offset().saturating_sub(n)),
        }
    }

    /// What has to be evaluated for the cache to be.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.tensors
            .iter()
            .flat_map(|(keys, values)| [keys, values])
    }

    /// The mask for `n` new tokens, before they are put in.
    pub fn mask(&self, n: i32) -> Result<AttentionMask> {
        AttentionMask::new(n, self.offset(), self.extent.window())
    }

    /// Appends keys and values `[1, kv_heads, n, head_dim]` and gives all that the queries see.
    pub fn update_and_fetch(&mut self, keys: Array, values: Array) -> Result<(Array, Array)> {
        let n = keys.dim(2);
        let place = self.place_for(n);
        let seen = self.extent.seen(n, &place);
        // Given away, so that the old buffers have no other owner and can be written in place.
        let (old_keys, old_values) =
            self.with_room(&place, [Like::of(&keys), Like::of(&values)])?;
        let keys = write_tokens(old_keys, &keys, place.at)?;
        let values = write_tokens(old_values, &values, place.at)?;
        self.extent.advance(n, &place);
        self.seen = seen;
        let visible = match seen < place.capacity {
            true => (take_tokens(&keys, 0..seen)?, take_tokens(&values, 0..seen)?),
            false => (keys.clone(), values.clone()),
        };
        self.tensors = Some((keys, values));
        Ok(visible)
    }

    /// What the last tokens that were put in saw.
    pub fn fetch(&self) -> Result<(Array, Array)> {
        let missing = || Error::internal("keys of an earlier layer that are not there");
        let (keys, values) = self.tensors.as_ref().ok_or_else(missing)?;
        Ok((
            take_tokens(keys, 0..self.seen)?,
            take_tokens(values, 0..self.seen)?,
        ))
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

    /// Room for `n` more tokens, which whoever asks writes: at once, before anything else is queued for this cache.
    pub fn place(&mut self, n: i32, like: Like) -> Result<Place> {
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
    ) -> Result<(Array, Array)> {
        if place.moved.is_some() {
            self.shared = None;
        }
        match self.tensors.take() {
            Some(old) if place.moved.is_none() => Ok(old),
            Some((old_keys, old_values)) if place.copies() => Ok((
                moved(old_keys, place, keys)?,
                moved(old_values, place, values)?,
            )),
            _ => Ok((keys.room(place.capacity)?, values.room(place.capacity)?)),
        }
    }
}

/// What a place takes over of `[1, heads, tokens, head_dim]`, in the room of the place.
fn moved(old: Array, place: &extent::Place, like: Like) -> Result<Array> {
    let (mut new, mut at) = (like.room(place.capacity)?, 0);
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

/// These tokens of `[1, heads, tokens, head_dim]`, one part behind the other.
fn in_order(x: &Array, parts: &[Range<i32>; 3]) -> Result<Array> {
    let parts = parts.iter().filter(|part| part.start < part.end);
    let parts = parts.map(|part| take_tokens(x, part.clone()));
    let parts: Vec<Array> = parts.collect::<Result<_>>()?;
    match parts.as_slice() {
        [] => take_tokens(x, 0..0),
        [one] => Ok(one.clone()),
        parts => ops::concatenate(&parts.iter().collect::<Vec<_>>(), 2),
    }
}

/// Some of the tokens of `[1, heads, tokens, head_dim]`.
fn take_tokens(x: &Array, tokens: Range<i32>) -> Result<Array> {
    let stop = [1, x.dim(1), tokens.end, x.dim(3)];
    ops::slice(x, &[0, 0, tokens.start, 0], &stop)
}

/// `x` with `update` written over its tokens from `at` on; in place, as `x` is given away.
fn write_tokens(x: Array, update: &Array, at: i32) -> Result<Array> {
    let (heads, n, dim) = (x.dim(1), update.dim(2), x.dim(3));
    ops::slice_update(&x, update, &[0, 0, at, 0], &[1, heads, at + n, dim])
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
    fn room(self, tokens: i32) -> Result<Array> {
        ops::zeros(&[1, self.heads, tokens, self.head_dim], self.dtype)
    }
}
