//! Keys and values as attention goes over them: the tokens of one head, a block at a time.

#![allow(unsafe_op_in_unsafe_fn)]

use std::marker::PhantomData;
use std::ops::Range;

use super::float::{load, store, with_element, Element};
use super::heads::Heads;
use super::numbers::{Numbers, PackedRow};
use super::packed_heads::PackedHeads;
use super::simd::Simd;

/// `[heads, tokens, dim]`
pub(super) trait Rows: Copy {
    type Numbers: Numbers;

    /// The rows of some tokens of a head, the first of them. What they need beside memory is made in `factors`, and holds until
    /// that is used again.
    ///
    /// # Safety
    /// The processor has S's instructions; the tokens exist.
    unsafe fn block<S: Simd>(
        &self,
        head: usize,
        tokens: Range<usize>,
        factors: &mut Factors,
    ) -> Self::Numbers;

    /// Numbers from one token to the next.
    fn stride(&self) -> usize;
}

/// Scales and biases of a block as f32.
#[derive(Default)]
pub(super) struct Factors {
    scales: Vec<f32>,
    biases: Vec<f32>,
}

#[derive(Clone, Copy)]
pub(super) struct FloatRows<'a, E> {
    heads: &'a Heads<'a>,
    element: PhantomData<E>,
}

impl<'a, E> FloatRows<'a, E> {
    pub fn new(heads: &'a Heads<'a>) -> Self {
        FloatRows {
            heads,
            element: PhantomData,
        }
    }
}

impl<E: Element> Rows for FloatRows<'_, E> {
    type Numbers = *const E;

    #[inline(always)]
    unsafe fn block<S: Simd>(
        &self,
        head: usize,
        tokens: Range<usize>,
        _: &mut Factors,
    ) -> Self::Numbers {
        self.heads.row::<E>(head, tokens.start)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.heads.shape().token_stride
    }
}

#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a, const BITS: usize>(&'a PackedHeads<'a>);

impl<'a, const BITS: usize> PackedRows<'a, BITS> {
    pub fn new(heads: &'a PackedHeads<'a>) -> Self {
        debug_assert!(heads.bits() == BITS);
        PackedRows(heads)
    }
}

impl<const BITS: usize> Rows for PackedRows<'_, BITS> {
    type Numbers = PackedRow<BITS>;

    #[inline(always)]
    unsafe fn block<S: Simd>(
        &self,
        head: usize,
        tokens: Range<usize>,
        factors: &mut Factors,
    ) -> Self::Numbers {
        let [scales, biases] = self.0.factors();
        widen::<S>(scales, head, tokens.clone(), &mut factors.scales);
        widen::<S>(biases, head, tokens.clone(), &mut factors.biases);
        PackedRow {
            codes: self.0.codes(head, tokens.start),
            scales: factors.scales.as_ptr(),
            biases: factors.biases.as_ptr(),
            groups: scales.shape().dim,
            shift: self.0.group().trailing_zeros(),
        }
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.0.shape().token_stride
    }
}

/// Some tokens of a head, one after the other.
#[inline(always)]
unsafe fn widen<S: Simd>(x: &Heads, head: usize, tokens: Range<usize>, to: &mut Vec<f32>) {
    let shape = x.shape();
    to.resize(tokens.len() * shape.dim, 0.0);
    // Where they follow each other, they are one row.
    let (rows, width) = match shape.token_stride == shape.dim {
        true => (1, to.len()),
        false => (tokens.len(), shape.dim),
    };
    with_element!(x.dtype(), E => {
        for row in 0..rows {
            let from = x.row::<E>(head, tokens.start + row);
            let to = to.as_mut_ptr().add(row * width);
            for at in (0..width).step_by(S::LANES) {
                let left = width - at;
                store::<S, f32>(to.add(at), left, load::<S, E>(from.add(at), left));
            }
        }
    });
}
