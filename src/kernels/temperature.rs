//! Queries that count more the later they are, so that attention over a long context stays as sharp.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, store, with_element, Element};
use super::heads::{Heads, HeadsMut};
use super::simd::{Kernel, Simd};
use super::Kernels;

/// The query of position p is multiplied by `1 + beta * ln(1 + floor(p / original_context))`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    pub beta: f32,
    /// Tokens, more than none.
    pub original_context: u32,
}

impl Temperature {
    /// Made in f64 and rounded once.
    pub fn factor(&self, position: i64) -> f32 {
        let periods = position.div_euclid(i64::from(self.original_context.max(1)));
        (1.0 + f64::from(self.beta) * (1.0 + periods as f64).ln()) as f32
    }
}

impl Kernels {
    /// Every head of every token times its factor; token t has position `offset + t`. Rounded once.
    ///
    /// Panics where the sizes differ.
    pub fn temper(&self, temperature: &Temperature, x: &Heads, offset: i32, y: &mut HeadsMut) {
        let (from, to) = (x.shape(), y.shape());
        assert!(
            (from.heads, from.tokens, from.dim) == (to.heads, to.tokens, to.dim),
            "temper: {from:?} to {to:?}"
        );
        let y = &*y;
        self.rows(from.tokens, from.heads * from.dim, |token| {
            let factor = temperature.factor(i64::from(offset) + token as i64);
            for head in 0..from.heads {
                with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(Times {
                    x: x.row::<X>(head, token),
                    y: y.row::<Y>(head, token),
                    n: from.dim,
                    factor,
                })));
            }
        });
    }
}

struct Times<X, Y> {
    x: *const X,
    y: *mut Y,
    n: usize,
    factor: f32,
}

impl<X: Element, Y: Element> Kernel for Times<X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            let v = S::mul(load::<S, X>(self.x.add(i), n), S::splat(self.factor));
            store::<S, Y>(self.y.add(i), n, v);
            i += S::LANES;
        }
    }
}
