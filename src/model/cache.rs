//! Caches of keys and values: one that keeps every token, and one that rotates over a window.

use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels::Visible;
use crate::mlx::fast::Place;
use crate::mlx::ops;
use crate::mlx::Array;

/// Tokens by which a cache grows.
const STEP: i32 = 256;

/// What the queries of one pass may look at in one cache.
pub enum AttentionMask {
    None,
    Causal,
    /// The last `size` keys up to the query's own; as a bool mask `[queries, keys]` too.
    Window {
        mask: Array,
        size: i32,
    },
}

impl AttentionMask {
    /// For `n` tokens that follow `before` others, of which a window of that many is seen.
    pub fn new(n: i32, before: i32, window: Option<i32>) -> Result<Self> {
        if n == 1 {
            return Ok(AttentionMask::None);
        }
        let Some(size) = window else {
            return Ok(AttentionMask::Causal);
        };
        let held = before.min(size - 1);
        if held + n <= size {
            return Ok(AttentionMask::Causal);
        }
        let mask = windowed_mask(n, held, size)?;
        Ok(AttentionMask::Window { mask, size })
    }

    /// For the CPU's kernels.
    pub fn visible(&self) -> Visible {
        match self {
            AttentionMask::None => Visible::All,
            AttentionMask::Causal => Visible::Causal { window: None },
            AttentionMask::Window { size, .. } => Visible::Causal {
                window: usize::try_from(*size).ok(),
            },
        }
    }
}

/// One layer's keys and values, `[1, kv_heads, capacity, head_dim]` each.
pub struct Cache {
    /// Tokens seen, which is the position of the next one.
    offset: i32,
    /// Tokens that are known to come, those seen included: it grows to take them at once.
    expected: i32,
    tensors: Option<(Array, Array)>,
    window: Option<Window>,
}

/// Keeps the first `keep` tokens and the newest of the rest, `size` in all.
struct Window {
    size: i32,
    keep: i32,
    /// Where the next token is written.
    index: i32,
}

impl Cache {
    /// Every token is kept.
    pub fn full() -> Self {
        Cache {
            offset: 0,
            expected: 0,
            tensors: None,
            window: None,
        }
    }

    /// `size` tokens at most (at least 1), the first `keep` (fewer than `size`) for ever.
    pub fn rotating(size: i32, keep: i32) -> Self {
        Cache {
            offset: 0,
            expected: 0,
            tensors: None,
            window: Some(Window {
                size,
                keep,
                index: 0,
            }),
        }
    }

    pub fn offset(&self) -> i32 {
        self.offset
    }

    /// When it grows next, it takes so many tokens at once. One that rotates grows by its own rule.
    pub fn expect(&mut self, tokens: i32) {
        self.expected = tokens;
    }

    /// Bytes that the cache holds, its spare room included.
    pub fn nbytes(&self) -> u64 {
        self.tensors
            .as_ref()
            .map_or(0, |(keys, values)| keys.nbytes() + values.nbytes())
    }

    /// Tokens that it has room for once `n` more are in.
    fn capacity_after(&self, n: i32) -> i32 {
        let capacity = self.tensors.as_ref().map_or(0, |(keys, _)| keys.dim(2));
        match &self.window {
            None if self.offset + n <= capacity => capacity,
            None => self.offset + self.growth(n),
            Some(window) if n == 1 && self.offset >= capacity && capacity < window.size => {
                capacity + STEP.min(window.size - self.offset)
            }
            Some(window) if n == 1 => capacity.min(window.size),
            Some(window) => self.offset.min(window.size - 1) + n,
        }
    }

    /// Tokens that room is made for when `n` more do not fit, where none are dropped.
    fn growth(&self, n: i32) -> i32 {
        let n = n.max(self.expected - self.offset);
        (n + STEP - 1) / STEP * STEP
    }

    /// Tokens that `n` more see at most, they themselves included.
    pub fn length_after(&self, n: i32) -> i32 {
        (self.offset + n).min(self.capacity_after(n))
    }

    /// Bytes that it would hold with `n` more tokens, of `token_bytes` each.
    pub fn nbytes_after(&self, n: i32, token_bytes: u64) -> u64 {
        u64::try_from(self.capacity_after(n)).unwrap_or(0) * token_bytes
    }

    pub fn clear(&mut self) {
        self.offset = 0;
        self.tensors = None;
        if let Some(window) = &mut self.window {
            window.index = 0;
        }
    }

    /// Whether the last tokens can be cut: a window that has dropped tokens cannot get them back.
    pub fn is_trimmable(&self) -> bool {
        self.window
            .as_ref()
            .is_none_or(|window| self.offset < window.size)
    }

    /// Whether what it holds depends on how it was filled: a prompt's tokens do not see the kept ones beyond the window,
    /// generated ones do (as in mlx-lm), so from a full window on nothing goes on as a fresh prompt of the same tokens would.
    pub fn is_path_dependent(&self) -> bool {
        self.window
            .as_ref()
            .is_some_and(|window| window.keep > 0 && self.offset >= window.size)
    }

    /// Cuts the last `n` tokens; only where `is_trimmable`.
    pub fn trim(&mut self, n: i32) {
        self.offset -= n;
        if let Some(window) = &mut self.window {
            window.index -= n;
        }
    }

    /// What has to be evaluated for the cache to be.
    pub fn state(&self) -> impl Iterator<Item = &Array> {
        self.tensors
            .iter()
            .flat_map(|(keys, values)| [keys, values])
    }

    /// The mask for `n` new tokens, before they are put in.
    pub fn mask(&self, n: i32) -> Result<AttentionMask> {
        let size = self.window.as_ref().map(|window| window.size);
        AttentionMask::new(n, self.offset, size)
    }

    /// Appends keys and values `[1, kv_heads, n, head_dim]` and gives all that the queries see.
    pub fn update_and_fetch(&mut self, keys: Array, values: Array) -> Result<(Array, Array)> {
        let (n, growth) = (keys.dim(2), self.growth(keys.dim(2)));
        // Taken, so that the old buffers have no other owner and can be written in place.
        let old = self.tensors.take();
        let (keys, values) = match &mut self.window {
            Some(window) if n > 1 => window.concatenate(old, self.offset, keys, values)?,
            window => {
                let like = [Like::of(&keys), Like::of(&values)];
                let (room, at) = room(window.as_mut(), old, self.offset, [n, growth], like)?;
                (
                    write_tokens(room.0, &keys, at)?,
                    write_tokens(room.1, &values, at)?,
                )
            }
        };
        self.offset += n;
        let seen = if self.offset < keys.dim(2) {
            (
                take_tokens(&keys, 0, self.offset)?,
                take_tokens(&values, 0, self.offset)?,
            )
        } else {
            (keys.clone(), values.clone())
        };
        self.tensors = Some((keys, values));
        Ok(seen)
    }

    /// Room for `n` more tokens, which whoever asks writes: at once, before anything else is queued for this cache. None
    /// where they do not go in one place.
    pub fn place(&mut self, n: i32, like: Like) -> Result<Option<Place>> {
        if self.window.is_some() && n > 1 {
            return Ok(None);
        }
        let sizes = [n, self.growth(n)];
        let old = self.tensors.take();
        let ((keys, values), at) = room(self.window.as_mut(), old, self.offset, sizes, [like; 2])?;
        self.tensors = Some((keys.clone(), values.clone()));
        let offset = self.offset;
        self.offset += n;
        Ok(Some(Place {
            at,
            seen: self.offset.min(keys.dim(2)),
            offset,
            keys,
            values,
        }))
    }
}

/// true where `key <= query` and the query is less than `window` after the key; the queries follow `held` keys.
/// `[n, held + n]`
fn windowed_mask(n: i32, held: i32, window: i32) -> Result<Array> {
    let keys = ops::arange(0, held + n)?;
    let queries = ops::reshape(&ops::arange(held, held + n)?, &[n, 1])?;
    let causal = ops::greater_equal(&queries, &keys)?;
    let near = ops::less(&queries, &ops::add(&keys, &Array::from_i32(&[window])?)?)?;
    ops::logical_and(&causal, &near)
}

/// Tokens `from..to` of `[1, heads, tokens, head_dim]`.
fn take_tokens(x: &Array, from: i32, to: i32) -> Result<Array> {
    ops::slice(x, &[0, 0, from, 0], &[1, x.dim(1), to, x.dim(3)])
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
}

/// Room for `tokens` more.
fn grown(old: Option<Array>, tokens: i32, like: Like) -> Result<Array> {
    let room = ops::zeros(&[1, like.heads, tokens, like.head_dim], like.dtype)?;
    match old {
        Some(old) => ops::concatenate(&[&old, &room], 2),
        None => Ok(room),
    }
}

/// Tensors with room for `n` more tokens, one where there is a window, and where they go. `growth` as in `append`.
fn room(
    window: Option<&mut Window>,
    old: Option<(Array, Array)>,
    offset: i32,
    [n, growth]: [i32; 2],
    like: [Like; 2],
) -> Result<((Array, Array), i32)> {
    match window {
        None => Ok((append(old, offset, [n, growth], like)?, offset)),
        Some(window) => window.rotate_in(old, offset, like),
    }
}

/// Room for `n` tokens behind `offset`: where there is none, for `growth`.
fn append(
    old: Option<(Array, Array)>,
    offset: i32,
    [n, growth]: [i32; 2],
    [keys, values]: [Like; 2],
) -> Result<(Array, Array)> {
    match old {
        Some((old_keys, old_values)) if offset + n > old_keys.dim(2) => {
            let old_keys = take_tokens(&old_keys, 0, offset)?;
            let old_values = take_tokens(&old_values, 0, offset)?;
            Ok((
                grown(Some(old_keys), growth, keys)?,
                grown(Some(old_values), growth, values)?,
            ))
        }
        Some(enough) => Ok(enough),
        None => Ok((grown(None, growth, keys)?, grown(None, growth, values)?)),
    }
}

impl Window {
    /// Room for one token: that of the oldest which may go, once the window is full.
    fn rotate_in(
        &mut self,
        old: Option<(Array, Array)>,
        offset: i32,
        [keys, values]: [Like; 2],
    ) -> Result<((Array, Array), i32)> {
        let tensors = match old {
            Some((old_keys, old_values)) => {
                let capacity = old_keys.dim(2);
                if offset >= capacity && capacity < self.size {
                    let room = STEP.min(self.size - offset);
                    self.index = offset;
                    (
                        grown(Some(old_keys), room, keys)?,
                        grown(Some(old_values), room, values)?,
                    )
                } else if capacity > self.size {
                    // A prefill left more than the window; from here on exactly the window is kept.
                    self.index = self.size;
                    let drop = capacity - self.size;
                    (
                        self.without(&old_keys, drop, None)?,
                        self.without(&old_values, drop, None)?,
                    )
                } else {
                    (old_keys, old_values)
                }
            }
            None => {
                let room = STEP.min(self.size - offset);
                self.index = offset;
                (grown(None, room, keys)?, grown(None, room, values)?)
            }
        };
        if self.index == self.size {
            self.index = self.keep;
        }
        let at = self.index;
        self.index += 1;
        Ok((tensors, at))
    }

    /// Several tokens: in order of time behind what is left, of which each of them sees a full window.
    fn concatenate(
        &mut self,
        old: Option<(Array, Array)>,
        offset: i32,
        keys: Array,
        values: Array,
    ) -> Result<(Array, Array)> {
        let joined = match old {
            None => (keys, values),
            Some((old_keys, old_values)) => {
                let old_keys = self.in_order(old_keys, offset)?;
                let old_values = self.in_order(old_values, offset)?;
                let drop = old_keys.dim(2) - self.size + 1;
                (
                    self.without(&old_keys, drop, Some(&keys))?,
                    self.without(&old_values, drop, Some(&values))?,
                )
            }
        };
        self.index = joined.0.dim(2);
        Ok(joined)
    }

    /// Undoes the rotation and leaves out unused room.
    fn in_order(&self, x: Array, offset: i32) -> Result<Array> {
        let capacity = x.dim(2);
        if self.index == capacity {
            Ok(x)
        } else if self.index < offset {
            let parts = [
                take_tokens(&x, 0, self.keep)?,
                take_tokens(&x, self.index, capacity)?,
                take_tokens(&x, self.keep, self.index)?,
            ];
            ops::concatenate(&parts.each_ref(), 2)
        } else {
            take_tokens(&x, 0, self.index)
        }
    }

    /// `x` without the `drop` tokens after the kept ones (none when `drop` is not positive), then `more`.
    fn without(&self, x: &Array, drop: i32, more: Option<&Array>) -> Result<Array> {
        let mut parts = Vec::with_capacity(3);
        if drop > 0 {
            parts.push(take_tokens(x, 0, self.keep)?);
            parts.push(take_tokens(x, drop + self.keep, x.dim(2))?);
        } else {
            parts.push(x.clone());
        }
        parts.extend(more.cloned());
        ops::concatenate(&parts.iter().collect::<Vec<_>>(), 2)
    }
}
