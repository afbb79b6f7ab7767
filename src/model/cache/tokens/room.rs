//! What a cache's tensors are made of, and how they go to other room.

use std::ops::Range;

use super::extent::{self, Room};
use crate::dtype::{Dtype, Scheme};
use crate::error::Result;
use crate::mlx::stored::{take_tokens, write_tokens, Stored};
use crate::mlx::{self, fast, memory, ops, Array};

/// What it takes to copy tensors, unless others have them, too: what was there stays, for those.
pub(super) fn unless(is_shared: bool, room: Room) -> Room {
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
pub(super) fn moved(old: Array, place: &extent::Place) -> Result<Array> {
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
pub(super) fn in_order(stored: &Stored, parts: &[Range<i32>; 3]) -> Result<Array> {
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
    pub(super) fn of(x: &Array) -> Self {
        Like {
            heads: x.dim(1),
            head_dim: x.dim(3),
            dtype: x.dtype(),
        }
    }

    /// Room for so many tokens: `[1, heads, tokens, head_dim]`
    pub(super) fn room(self, tokens: i32, scheme: Option<Scheme>) -> Result<Stored> {
        Stored::zeros([self.heads, tokens, self.head_dim], self.dtype, scheme)
    }
}
