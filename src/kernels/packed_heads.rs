//! Keys and values that are packed: numbers of 4 or 8 bits in groups with a scale and a bias, as MLX packs rows.

#![allow(unsafe_op_in_unsafe_fn)]

use std::marker::PhantomData;

use super::float::{load, with_element, Element};
use super::heads::{HeadShape, Heads, HeadsMut};
use super::simd::{Kernel, Simd};
use super::Kernels;
use crate::dtype::{Mode, Scheme};

/// Bytes of a word of codes.
const WORD: usize = 4;
/// Scales are no smaller than this, as in MLX.
const SMALLEST: f32 = 1e-7;
const LARGEST_GROUP: usize = 128;

/// `[heads, tokens, dim]` packed numbers somewhere in memory.
#[derive(Clone, Copy)]
pub struct PackedHeads<'a> {
    /// u32 `[heads, tokens, dim * bits / 32]`
    codes: *const u8,
    words: HeadShape,
    /// `[heads, tokens, dim / group]`
    scales: Heads<'a>,
    /// The same.
    biases: Heads<'a>,
    scheme: Scheme,
    borrow: PhantomData<&'a [u8]>,
}

/// The same, to be written.
pub struct PackedHeadsMut<'a> {
    codes: *mut u8,
    words: HeadShape,
    scales: HeadsMut<'a>,
    biases: HeadsMut<'a>,
    scheme: Scheme,
    borrow: PhantomData<&'a mut [u8]>,
}

/// Keys or values in one of the two ways.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    Floats(Heads<'a>),
    Packed(PackedHeads<'a>),
}

/// The same, to be written.
pub enum StoredMut<'a> {
    Floats(HeadsMut<'a>),
    Packed(PackedHeadsMut<'a>),
}

// SAFETY: it is a shared borrow of plain numbers.
unsafe impl Send for PackedHeads<'_> {}
// SAFETY: the same.
unsafe impl Sync for PackedHeads<'_> {}
// SAFETY: it is a unique borrow of plain numbers.
unsafe impl Send for PackedHeadsMut<'_> {}
// SAFETY: threads share it only to write tokens that they do not share.
unsafe impl Sync for PackedHeadsMut<'_> {}

/// Whether codes and scales are of the same rows, in a scheme that the kernels know.
fn fits(words: HeadShape, scales: HeadShape, biases: HeadShape, scheme: Scheme) -> bool {
    let [bits, group] = [scheme.bits, scheme.group_size].map(|n| n.unsigned_abs() as usize);
    scheme.mode == Mode::Affine
        && matches!((bits, group), (4 | 8, 32 | 64 | 128))
        && (words.heads, words.tokens) == (scales.heads, scales.tokens)
        && (scales.heads, scales.tokens, scales.dim) == (biases.heads, biases.tokens, biases.dim)
        && scales.dim * group * bits == words.dim * 8 * WORD
}

impl<'a> PackedHeads<'a> {
    /// Panics where the shapes do not fit together, or the scheme is no affine one of 4 or 8 bits.
    ///
    /// # Safety
    /// All words of the shape can be read, and nobody writes them, for as long as `'a`.
    pub unsafe fn from_raw(
        codes: *const u8,
        words: HeadShape,
        [scales, biases]: [Heads<'a>; 2],
        scheme: Scheme,
    ) -> PackedHeads<'a> {
        let fits = fits(words, scales.shape(), biases.shape(), scheme);
        assert!(
            fits && scales.dtype() == biases.dtype(),
            "packed heads: {words:?} by {:?} in {scheme:?}",
            scales.shape()
        );
        PackedHeads {
            codes,
            words,
            scales,
            biases,
            scheme,
            borrow: PhantomData,
        }
    }

    /// Of numbers.
    pub fn shape(&self) -> HeadShape {
        let in_word = 8 * WORD / self.bits();
        HeadShape {
            heads: self.words.heads,
            tokens: self.words.tokens,
            dim: self.words.dim * in_word,
            head_stride: self.words.head_stride * in_word,
            token_stride: self.words.token_stride * in_word,
        }
    }

    pub fn bits(&self) -> usize {
        self.scheme.bits.unsigned_abs() as usize
    }

    pub fn group(&self) -> usize {
        self.scheme.group_size.unsigned_abs() as usize
    }

    pub(super) fn codes(&self, head: usize, token: usize) -> *const u8 {
        let at = head * self.words.head_stride + token * self.words.token_stride;
        self.codes.wrapping_add(at * WORD)
    }

    fn first_tokens(self, tokens: usize) -> PackedHeads<'a> {
        PackedHeads {
            scales: self.scales.some_tokens(0, tokens),
            biases: self.biases.some_tokens(0, tokens),
            words: HeadShape {
                tokens,
                ..self.words
            },
            ..self
        }
    }

    /// Scales and biases.
    pub(super) fn factors(&self) -> [&Heads<'a>; 2] {
        [&self.scales, &self.biases]
    }
}

impl<'a> PackedHeadsMut<'a> {
    /// As `PackedHeads::from_raw`.
    ///
    /// # Safety
    /// All words of the shape can be written, no two of them are the same, and nobody else reads or writes them, for as long
    /// as `'a`.
    pub unsafe fn from_raw(
        codes: *mut u8,
        words: HeadShape,
        [scales, biases]: [HeadsMut<'a>; 2],
        scheme: Scheme,
    ) -> PackedHeadsMut<'a> {
        let fits = fits(words, scales.shape(), biases.shape(), scheme);
        assert!(
            fits && scales.dtype() == biases.dtype(),
            "packed heads: {words:?} by {:?} in {scheme:?}",
            scales.shape()
        );
        PackedHeadsMut {
            codes,
            words,
            scales,
            biases,
            scheme,
            borrow: PhantomData,
        }
    }

    /// What has been written.
    fn read(&self) -> PackedHeads<'_> {
        PackedHeads {
            codes: self.codes,
            words: self.words,
            scales: self.scales.read(),
            biases: self.biases.read(),
            scheme: self.scheme,
            borrow: PhantomData,
        }
    }

    fn some_tokens(&mut self, first: usize, tokens: usize) -> PackedHeadsMut<'_> {
        let at = first * self.words.token_stride * WORD;
        PackedHeadsMut {
            scales: self.scales.some_tokens(first, tokens),
            biases: self.biases.some_tokens(first, tokens),
            codes: self.codes.wrapping_add(at),
            words: HeadShape {
                tokens,
                ..self.words
            },
            scheme: self.scheme,
            borrow: PhantomData,
        }
    }

    fn codes(&self, head: usize, token: usize) -> *mut u8 {
        let at = head * self.words.head_stride + token * self.words.token_stride;
        self.codes.wrapping_add(at * WORD)
    }
}

impl<'a> From<&Heads<'a>> for Stored<'a> {
    fn from(heads: &Heads<'a>) -> Self {
        Stored::Floats(*heads)
    }
}

impl<'a> Stored<'a> {
    pub(super) fn as_floats(&self) -> Option<&Heads<'a>> {
        match self {
            Stored::Floats(heads) => Some(heads),
            Stored::Packed(_) => None,
        }
    }

    pub(super) fn as_packed(&self) -> Option<&PackedHeads<'a>> {
        match self {
            Stored::Packed(packed) => Some(packed),
            Stored::Floats(_) => None,
        }
    }

    /// Of numbers.
    pub fn shape(&self) -> HeadShape {
        match self {
            Stored::Floats(heads) => heads.shape(),
            Stored::Packed(packed) => packed.shape(),
        }
    }

    /// Panics where there are fewer.
    pub(super) fn first_tokens(self, tokens: usize) -> Stored<'a> {
        match self {
            Stored::Floats(heads) => Stored::Floats(heads.some_tokens(0, tokens)),
            Stored::Packed(packed) => Stored::Packed(packed.first_tokens(tokens)),
        }
    }
}

impl StoredMut<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.read().shape().tokens
    }

    /// What has been written.
    pub(super) fn read(&self) -> Stored<'_> {
        match self {
            StoredMut::Floats(heads) => Stored::Floats(heads.read()),
            StoredMut::Packed(packed) => Stored::Packed(packed.read()),
        }
    }

    /// The tokens from `first` on, `tokens` of them.
    pub(super) fn some_tokens(&mut self, first: usize, tokens: usize) -> StoredMut<'_> {
        match self {
            StoredMut::Floats(heads) => StoredMut::Floats(heads.some_tokens(first, tokens)),
            StoredMut::Packed(packed) => StoredMut::Packed(packed.some_tokens(first, tokens)),
        }
    }
}

impl Kernels {
    /// Packs x `[heads, tokens, dim]` to the bits that MLX's `quantize` gives, with two differences. Codes go by the scale and the
    /// bias as these are stored; MLX takes them before they are rounded to 16 bits, which puts numbers up to a step farther off.
    /// And of a group with a number that is not finite all is NaN, so that it shows. Panics where the shapes differ.
    pub fn pack_heads(&self, x: &Heads, to: &mut PackedHeadsMut) {
        let (from, own) = (x.shape(), to.read().shape());
        assert!(
            (from.heads, from.tokens, from.dim) == (own.heads, own.tokens, own.dim),
            "packing: {from:?} to {own:?}"
        );
        let to = &*to;
        self.rows(from.tokens, from.heads * from.dim, |token| {
            for head in 0..from.heads {
                with_element!(x.dtype(), X => with_element!(to.scales.dtype(), F => {
                    self.path.run(Pack {
                        x: x.row::<X>(head, token),
                        codes: to.codes(head, token),
                        scales: to.scales.row::<F>(head, token),
                        biases: to.biases.row::<F>(head, token),
                        groups: to.scales.shape().dim,
                        group: to.scheme.group_size.unsigned_abs() as usize,
                        bits: to.scheme.bits.unsigned_abs(),
                    });
                }));
            }
        });
    }
}

/// One row.
struct Pack<X, F> {
    x: *const X,
    codes: *mut u8,
    scales: *mut F,
    biases: *mut F,
    groups: usize,
    group: usize,
    bits: u32,
}

impl<X: Element, F: Element> Kernel for Pack<X, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (group, bytes) = (self.group, self.group * self.bits as usize / 8);
        let top = ((1_u32 << self.bits) - 1) as f32;
        for g in 0..self.groups {
            let x = self.x.add(g * group);
            let (scale, bias) = factors::<S, X>(x, group, top);
            let (stored_scale, stored_bias) = (F::from_f32(scale), F::from_f32(bias));
            let (scale, bias) = (stored_scale.to_f32(), stored_bias.to_f32());
            let mut codes = [0_u8; LARGEST_GROUP];
            let (scales, biases) = (S::splat(scale), S::splat(bias));
            for at in (0..group).step_by(S::LANES) {
                let x = load::<S, X>(x.add(at), S::LANES);
                let code = S::round(S::div(S::sub(x, biases), scales));
                // NaN becomes 0.
                let code = S::min(S::max(code, S::splat(0.0)), S::splat(top));
                S::store_low_bytes(codes.as_mut_ptr().add(at), S::to_int(code));
            }
            if self.bits == 4 {
                for i in 0..group / 2 {
                    codes[i] = codes[2 * i] | codes[2 * i + 1] << 4;
                }
            }
            let to = self.codes.add(g * bytes);
            std::ptr::copy_nonoverlapping(codes.as_ptr(), to, bytes);
            self.scales.add(g).write_unaligned(stored_scale);
            self.biases.add(g).write_unaligned(stored_bias);
        }
    }
}

/// A group's scale and bias: the end of its range that is farther from zero is met exactly, and zero is a code.
#[inline(always)]
unsafe fn factors<S: Simd, X: Element>(x: *const X, group: usize, top: f32) -> (f32, f32) {
    let first = load::<S, X>(x, S::LANES);
    let (mut high, mut low) = (first, first);
    // NaN as soon as one of them is not finite.
    let mut zero = S::sub(first, first);
    for at in (S::LANES..group).step_by(S::LANES) {
        let x = load::<S, X>(x.add(at), S::LANES);
        high = S::max(high, x);
        low = S::min(low, x);
        zero = S::add(zero, S::sub(x, x));
    }
    if S::sum(zero).is_nan() {
        return (f32::NAN, f32::NAN);
    }
    let (high, low) = (S::largest(high), -S::largest(S::sub(S::splat(0.0), low)));
    let scale = ((high - low) / top).max(SMALLEST);
    let (scale, edge) = match low.abs() > high.abs() {
        true => (scale, low),
        false => (-scale, high),
    };
    match (edge / scale).round_ties_even() {
        0.0 => (scale, 0.0),
        steps => (edge / steps, edge),
    }
}
