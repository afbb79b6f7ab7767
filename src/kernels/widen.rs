//! Rows of any float type as f32.

#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::float::{load, store, with_element, Element, Floats, FloatsMut};
use super::rowwise::same_shape;
use super::scratch::Lent;
use super::simd::{Kernel, Simd};
use super::Kernels;

impl Kernels {
    /// Some rows of x, one after the other.
    pub(super) fn widened(&self, x: &Floats, rows: Range<usize>) -> Lent<'_, Vec<f32>> {
        self.widened_rows(x, rows)
    }

    /// These rows of x, one after the other.
    pub(super) fn widened_rows(
        &self,
        x: &Floats,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Lent<'_, Vec<f32>> {
        let mut wide = self.scratch.floats();
        wide.resize(rows.len() * x.width(), 0.0);
        for (row, to) in rows.zip(wide.chunks_exact_mut(x.width().max(1))) {
            with_element!(x.dtype(), E => self.path.run(Widen { x: x.row::<E>(row), to }));
        }
        wide
    }
}

impl Kernels {
    /// y becomes x, rounded where its type is narrower. Panics where the shapes differ.
    pub(super) fn round(&self, x: &Floats, y: &mut FloatsMut) {
        same_shape(x, y, "round");
        let y = &*y;
        self.rows(x.rows(), x.width(), |row| {
            with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(Round {
                x: x.row::<X>(row),
                y: y.row::<Y>(row),
                n: x.width(),
            })));
        });
    }
}

struct Round<X, Y> {
    x: *const X,
    y: *mut Y,
    n: usize,
}

impl<X: Element, Y: Element> Kernel for Round<X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.n {
            let v = load::<S, X>(self.x.add(i), self.n - i);
            store::<S, Y>(self.y.add(i), self.n - i, v);
            i += S::LANES;
        }
    }
}

/// As many elements as `to` has.
pub(super) struct Widen<'a, E> {
    pub x: *const E,
    pub to: &'a mut [f32],
}

impl<E: Element> Kernel for Widen<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.to.len();
        let mut i = 0;
        while i < n {
            let v = load::<S, E>(self.x.add(i), n - i);
            store::<S, f32>(self.to.as_mut_ptr().add(i), n - i, v);
            i += S::LANES;
        }
    }
}
