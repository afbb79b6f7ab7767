//! Arrays of heads by tokens: queries, keys, values, and places in a cache.

use std::marker::PhantomData;

use super::float::Element;
use crate::dtype::Dtype;

/// `[heads, tokens, dim]` floats somewhere in memory, each head's token without gaps; the strides say in which order.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    data: *const u8,
    dtype: Dtype,
    shape: HeadShape,
    borrow: PhantomData<&'a [u8]>,
}

/// The same, to be written.
pub struct HeadsMut<'a> {
    data: *mut u8,
    dtype: Dtype,
    shape: HeadShape,
    borrow: PhantomData<&'a mut [u8]>,
}

/// Sizes, and strides in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadShape {
    pub heads: usize,
    pub tokens: usize,
    pub dim: usize,
    pub head_stride: usize,
    pub token_stride: usize,
}

impl HeadShape {
    /// `[heads, tokens, dim]` without gaps.
    pub fn heads_first(heads: usize, tokens: usize, dim: usize) -> HeadShape {
        HeadShape {
            heads,
            tokens,
            dim,
            head_stride: tokens * dim,
            token_stride: dim,
        }
    }

    /// `[tokens, heads, dim]` without gaps.
    pub fn tokens_first(heads: usize, tokens: usize, dim: usize) -> HeadShape {
        HeadShape {
            heads,
            tokens,
            dim,
            head_stride: dim,
            token_stride: heads * dim,
        }
    }

    /// Rows, `stride` elements apart, as tokens with heads of `dim` elements.
    pub(super) fn of_rows(rows: usize, width: usize, stride: usize, dim: usize) -> HeadShape {
        assert!(
            width.checked_rem(dim) == Some(0),
            "heads of {dim} in {width}"
        );
        HeadShape {
            heads: width / dim,
            tokens: rows,
            dim,
            head_stride: dim,
            token_stride: stride,
        }
    }

    /// Elements from the first to the last, both included.
    fn span(&self) -> Option<usize> {
        if self.heads == 0 || self.tokens == 0 {
            return Some(0);
        }
        let heads = (self.heads - 1).checked_mul(self.head_stride)?;
        let tokens = (self.tokens - 1).checked_mul(self.token_stride)?;
        heads.checked_add(tokens)?.checked_add(self.dim)
    }

    fn at(&self, head: usize, token: usize) -> usize {
        debug_assert!(head < self.heads && token < self.tokens);
        head * self.head_stride + token * self.token_stride
    }
}

// SAFETY: it is a shared borrow of plain numbers.
unsafe impl Send for Heads<'_> {}
// SAFETY: the same.
unsafe impl Sync for Heads<'_> {}
// SAFETY: it is a unique borrow of plain numbers.
unsafe impl Send for HeadsMut<'_> {}
// SAFETY: threads share it only to write rows that they do not share.
unsafe impl Sync for HeadsMut<'_> {}

impl<'a> Heads<'a> {
    /// Needs no alignment.
    ///
    /// # Safety
    /// All elements of the shape can be read, and nobody writes them, for as long as `'a`.
    pub unsafe fn from_raw(data: *const u8, dtype: Dtype, shape: HeadShape) -> Heads<'a> {
        assert!(dtype.is_float(), "{} is no float type", dtype.name());
        Heads {
            data,
            dtype,
            shape,
            borrow: PhantomData,
        }
    }

    /// None where `bytes` are too few for the shape, or `dtype` is no float type.
    pub fn new(bytes: &'a [u8], dtype: Dtype, shape: HeadShape) -> Option<Heads<'a>> {
        let len = shape.span()?.checked_mul(dtype.size() as usize)?;
        // SAFETY: the length was compared; the borrow is `bytes`'.
        (dtype.is_float() && len <= bytes.len())
            .then(|| unsafe { Heads::from_raw(bytes.as_ptr(), dtype, shape) })
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn shape(&self) -> HeadShape {
        self.shape
    }
    /// The tokens from `first` on, `tokens` of them.
    pub(super) fn some_tokens(&self, first: usize, tokens: usize) -> Heads<'a> {
        assert!(first <= self.shape.tokens && tokens <= self.shape.tokens - first);
        let at = first * self.shape.token_stride * self.dtype.size() as usize;
        Heads {
            data: self.data.wrapping_add(at),
            shape: HeadShape {
                tokens,
                ..self.shape
            },
            ..*self
        }
    }
    pub(super) fn row<E: Element>(&self, head: usize, token: usize) -> *const E {
        let at = self.shape.at(head, token) * size_of::<E>();
        self.data.wrapping_add(at).cast()
    }
}

impl<'a> HeadsMut<'a> {
    /// Needs no alignment.
    ///
    /// # Safety
    /// All elements of the shape can be written, no two of them are the same, and nobody else reads or writes them, for as
    /// long as `'a`.
    pub unsafe fn from_raw(data: *mut u8, dtype: Dtype, shape: HeadShape) -> HeadsMut<'a> {
        assert!(dtype.is_float(), "{} is no float type", dtype.name());
        HeadsMut {
            data,
            dtype,
            shape,
            borrow: PhantomData,
        }
    }

    /// None where `bytes` are too few for the shape, two elements may share memory, or `dtype` is no float type.
    pub fn new(bytes: &'a mut [u8], dtype: Dtype, shape: HeadShape) -> Option<HeadsMut<'a>> {
        let len = shape.span()?.checked_mul(dtype.size() as usize)?;
        let (heads, tokens) = (shape.head_stride, shape.token_stride);
        let apart = (tokens >= shape.dim && (shape.heads < 2 || heads >= tokens * shape.tokens))
            || (heads >= shape.dim && (shape.tokens < 2 || tokens >= heads * shape.heads));
        // SAFETY: the length was compared, the rows are apart; the borrow is `bytes`'.
        (dtype.is_float() && len <= bytes.len() && apart)
            .then(|| unsafe { HeadsMut::from_raw(bytes.as_mut_ptr(), dtype, shape) })
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
    pub fn shape(&self) -> HeadShape {
        self.shape
    }
    /// What has been written.
    pub(super) fn read(&self) -> Heads<'_> {
        // SAFETY: nobody writes while this borrow lasts.
        unsafe { Heads::from_raw(self.data, self.dtype, self.shape) }
    }
    /// The tokens from `first` on, `tokens` of them.
    pub(super) fn some_tokens(&mut self, first: usize, tokens: usize) -> HeadsMut<'_> {
        assert!(first <= self.shape.tokens && tokens <= self.shape.tokens - first);
        let at = first * self.shape.token_stride * self.dtype.size() as usize;
        HeadsMut {
            data: self.data.wrapping_add(at),
            shape: HeadShape {
                tokens,
                ..self.shape
            },
            ..*self
        }
    }
    /// As `some_tokens`, of what others may have parts of, too.
    ///
    /// # Safety
    /// Nobody else has any of these tokens while the result lives.
    pub(super) unsafe fn shared_tokens(&self, first: usize, tokens: usize) -> HeadsMut<'_> {
        assert!(first <= self.shape.tokens && tokens <= self.shape.tokens - first);
        let at = first * self.shape.token_stride * self.dtype.size() as usize;
        HeadsMut {
            data: self.data.wrapping_add(at),
            shape: HeadShape {
                tokens,
                ..self.shape
            },
            ..*self
        }
    }
    /// Whoever writes through it sees to it that no two threads write the same row.
    pub(super) fn row<E: Element>(&self, head: usize, token: usize) -> *mut E {
        let at = self.shape.at(head, token) * size_of::<E>();
        self.data.wrapping_add(at).cast()
    }
}
