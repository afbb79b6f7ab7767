//! Rows of numbers that products read, as they lie in memory: floats, or packed numbers.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, Element};
use super::simd::Simd;

/// Numbers one after the other, read as vectors of f32.
pub(super) trait Numbers: Copy {
    /// How many of them lie in what memory gives at a time.
    const LINE: usize;

    /// `S::LANES` numbers from the i-th on.
    ///
    /// # Safety
    /// The processor has S's instructions; the numbers can be read.
    unsafe fn load<S: Simd>(self, i: usize) -> S::F;

    /// The first `n` of them (at most `S::LANES` count), the other lanes zero.
    ///
    /// # Safety
    /// As for `load`.
    unsafe fn some<S: Simd>(self, i: usize, n: usize) -> S::F;

    /// A hint that the numbers from the i-th on, which need not exist, are wanted soon.
    ///
    /// # Safety
    /// The processor has S's instructions.
    unsafe fn prefetch<S: Simd>(self, i: usize);

    /// The row so many rows further, each `stride` numbers behind the one before.
    fn skip(self, rows: usize, stride: usize) -> Self;
}

impl<E: Element> Numbers for *const E {
    const LINE: usize = 64 / size_of::<E>();

    #[inline(always)]
    unsafe fn load<S: Simd>(self, i: usize) -> S::F {
        E::load::<S>(self.add(i))
    }
    #[inline(always)]
    unsafe fn some<S: Simd>(self, i: usize, n: usize) -> S::F {
        load::<S, E>(self.add(i), n)
    }
    #[inline(always)]
    unsafe fn prefetch<S: Simd>(self, i: usize) {
        S::prefetch(self.wrapping_add(i).cast());
    }
    #[inline(always)]
    fn skip(self, rows: usize, stride: usize) -> Self {
        self.wrapping_add(rows * stride)
    }
}

/// Codes of 4 or 8 bits, in whole groups of which each has a scale and a bias: `code * scale + bias`.
#[derive(Clone, Copy)]
pub(super) struct PackedRow<const BITS: usize> {
    pub codes: *const u8,
    /// One for each group.
    pub scales: *const f32,
    /// The same.
    pub biases: *const f32,
    /// Of a row.
    pub groups: usize,
    /// The group of the i-th number is `i >> shift`; it has at least 32.
    pub shift: u32,
}

impl<const BITS: usize> Numbers for PackedRow<BITS> {
    const LINE: usize = 64 * 8 / BITS;

    #[inline(always)]
    unsafe fn load<S: Simd>(self, i: usize) -> S::F {
        let group = i >> self.shift;
        let codes = self.codes.add(i * BITS / 8);
        let codes = match BITS {
            4 => S::load_nibbles(codes),
            _ => S::load_u8(codes),
        };
        let scale = S::splat(*self.scales.add(group));
        let bias = S::splat(*self.biases.add(group));
        S::fma(S::to_float(codes), scale, bias)
    }
    /// Groups are whole vectors.
    #[inline(always)]
    unsafe fn some<S: Simd>(self, i: usize, n: usize) -> S::F {
        debug_assert!(n >= S::LANES);
        self.load::<S>(i)
    }
    #[inline(always)]
    unsafe fn prefetch<S: Simd>(self, i: usize) {
        S::prefetch(self.codes.wrapping_add(i * BITS / 8));
    }
    #[inline(always)]
    fn skip(self, rows: usize, stride: usize) -> Self {
        PackedRow {
            codes: self.codes.wrapping_add(rows * stride * BITS / 8),
            scales: self.scales.wrapping_add(rows * self.groups),
            biases: self.biases.wrapping_add(rows * self.groups),
            ..self
        }
    }
}
