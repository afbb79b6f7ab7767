//! What works on one row at a time: RMS norm, softmax, addition.
//!
//! Sums run in f32 over as many lanes as the path has; a result is rounded once, when it is written.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, store, with_element, Element, Floats, FloatsMut};
use super::math::{exp, tanh};
use super::simd::{Kernel, Simd};
use super::Kernels;

/// Elements under which a chunk is not worth handing out.
const CHUNK: usize = 1 << 14;

impl Kernels {
    /// Each row of x over its root mean square, times the weight: `y = x / sqrt(mean(x²) + eps) * (weight + offset)`.
    /// weight `[1, width]` of any float type; `offset` is 1 where a model stores weights minus one, else 0.
    ///
    /// Relative error, beside the output's rounding: `(width / lanes + 8) * 2^-24`. Panics where shapes differ.
    pub fn rms_norm(
        &self,
        x: &Floats,
        weight: Option<&Floats>,
        offset: f32,
        eps: f32,
        y: &mut FloatsMut,
    ) {
        same_shape(x, y, "rms_norm");
        assert!(
            weight.is_none_or(|weight| weight.rows() == 1 && weight.width() == x.width()),
            "rms_norm: the weight is not one row as wide as x"
        );
        let y = &*y;
        self.rows(x.rows(), x.width(), |row| {
            with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(RmsNorm {
                x: x.row::<X>(row),
                y: y.row::<Y>(row),
                n: x.width(),
                weight,
                offset,
                eps,
            })));
        });
    }

    /// `y = x + other`, element by element, in f32. Panics where shapes differ.
    pub fn add(&self, x: &Floats, other: &Floats, y: &mut FloatsMut) {
        self.add_times(x, other, 1.0, y);
    }

    /// `y = x + factor * other`, element by element, in f32. Panics where shapes differ.
    pub fn add_times(&self, x: &Floats, other: &Floats, factor: f32, y: &mut FloatsMut) {
        same_shape(x, y, "add");
        same_shape(other, y, "add");
        let y = &*y;
        self.rows(x.rows(), x.width(), |row| {
            with_element!(x.dtype(), X => with_element!(other.dtype(), O => with_element!(y.dtype(), Y => {
                self.path.run(Add {
                    x: x.row::<X>(row),
                    other: other.row::<O>(row),
                    factor,
                    y: y.row::<Y>(row),
                    n: x.width(),
                })
            })));
        });
    }

    /// `y += row`, for every row of y. `[1, width]`; panics where it is not as wide as y.
    pub(super) fn add_row(&self, row: &Floats, y: &mut FloatsMut) {
        assert!(row.rows() == 1, "add_row: {} rows", row.rows());
        self.add_rows(row, |_| 0, y);
    }

    /// `y[i] += rows[which(i)]`. Panics where rows are not as wide as y.
    pub(super) fn add_rows(
        &self,
        rows: &Floats,
        which: impl Fn(usize) -> usize + Sync,
        y: &mut FloatsMut,
    ) {
        assert!(rows.width() == y.width(), "add_rows: two widths");
        let y = &*y;
        self.rows(y.rows(), y.width(), |index| {
            let row = which(index);
            assert!(row < rows.rows());
            with_element!(rows.dtype(), O => with_element!(y.dtype(), Y => self.path.run(Add {
                x: y.row::<Y>(index).cast_const(),
                other: rows.row::<O>(row),
                factor: 1.0,
                y: y.row::<Y>(index),
                n: y.width(),
            })));
        });
    }

    /// Each row's exponentials over their sum. A row that holds NaN or +infinity becomes NaN; one of only -infinity too.
    /// Relative error `(width / lanes + 8) * 2^-24 + 2^-21`.
    ///
    /// Panics where shapes differ.
    pub fn softmax(&self, x: &Floats, y: &mut FloatsMut) {
        same_shape(x, y, "softmax");
        let y = &*y;
        self.rows(x.rows(), x.width(), |row| {
            with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(Softmax {
                x: x.row::<X>(row),
                y: y.row::<Y>(row),
                n: x.width(),
            })));
        });
    }

    /// Runs `work` for every row, of `width` elements each.
    pub(super) fn rows(&self, rows: usize, width: usize, work: impl Fn(usize) + Sync) {
        let chunks = (rows * width / CHUNK).clamp(1, 4 * self.pool.threads());
        let chunks = super::qmatmul::Chunks {
            count: chunks.min(rows.max(1)),
            items: rows,
        };
        self.pool.parallel(chunks.count, |chunk| {
            chunks.range(chunk).for_each(&work);
        });
    }
}

pub(super) fn same_shape(x: &Floats, y: &FloatsMut, what: &str) {
    assert!(
        x.rows() == y.rows() && x.width() == y.width(),
        "{what}: [{}, {}] to [{}, {}]",
        x.rows(),
        x.width(),
        y.rows(),
        y.width()
    );
}

struct RmsNorm<'a, X, Y> {
    x: *const X,
    y: *mut Y,
    n: usize,
    weight: Option<&'a Floats<'a>>,
    offset: f32,
    eps: f32,
}

impl<X: Element, Y: Element> Kernel for RmsNorm<'_, X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut sum = S::splat(0.0);
        let mut i = 0;
        while i < self.n {
            let v = load::<S, X>(self.x.add(i), self.n - i);
            sum = S::fma(v, v, sum);
            i += S::LANES;
        }
        let scale = S::splat(1.0 / (S::sum(sum) / self.n as f32 + self.eps).sqrt());
        match self.weight {
            Some(weight) => with_element!(weight.dtype(), W => {
                let weight = weight.row::<W>(0);
                let offset = S::splat(self.offset);
                let mut i = 0;
                while i < self.n {
                    let n = self.n - i;
                    let v = S::mul(load::<S, X>(self.x.add(i), n), scale);
                    let w = S::add(load::<S, W>(weight.add(i), n), offset);
                    store::<S, Y>(self.y.add(i), n, S::mul(v, w));
                    i += S::LANES;
                }
            }),
            None => {
                let mut i = 0;
                while i < self.n {
                    let n = self.n - i;
                    let v = S::mul(load::<S, X>(self.x.add(i), n), scale);
                    store::<S, Y>(self.y.add(i), n, v);
                    i += S::LANES;
                }
            }
        }
    }
}

struct Add<X, O, Y> {
    x: *const X,
    other: *const O,
    factor: f32,
    y: *mut Y,
    n: usize,
}

impl<X: Element, O: Element, Y: Element> Kernel for Add<X, O, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            let x = load::<S, X>(self.x.add(i), n);
            // Not in one step, which not every path rounds once; times 1 changes nothing.
            let other = S::mul(load::<S, O>(self.other.add(i), n), S::splat(self.factor));
            store::<S, Y>(self.y.add(i), n, S::add(x, other));
            i += S::LANES;
        }
    }
}

pub(super) struct Softmax<X, Y> {
    pub x: *const X,
    pub y: *mut Y,
    pub n: usize,
}

impl<X: Element, Y: Element> Kernel for Softmax<X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut largest = S::splat(f32::NEG_INFINITY);
        let mut i = 0;
        // Whole vectors first, then the rest one by one: lanes beyond the end must not count.
        while i + S::LANES <= self.n {
            largest = S::max(largest, X::load::<S>(self.x.add(i)));
            i += S::LANES;
        }
        let mut largest = S::largest(largest);
        for rest in i..self.n {
            largest = largest.max(self.x.add(rest).read_unaligned().to_f32());
        }
        let shift = S::splat(largest);
        let mut sums = S::splat(0.0);
        let mut i = 0;
        while i + S::LANES <= self.n {
            let e = exp::<S>(S::sub(X::load::<S>(self.x.add(i)), shift));
            sums = S::add(sums, e);
            i += S::LANES;
        }
        let mut sum = S::sum(sums);
        if i < self.n {
            let mut rest = [0.0; 16];
            let e = exp::<S>(S::sub(load::<S, X>(self.x.add(i), self.n - i), shift));
            S::store(rest.as_mut_ptr(), e);
            sum += rest[..self.n - i].iter().sum::<f32>();
        }
        let sum = S::splat(sum);
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            let e = exp::<S>(S::sub(load::<S, X>(self.x.add(i), n), shift));
            store::<S, Y>(self.y.add(i), n, S::div(e, sum));
            i += S::LANES;
        }
    }
}

/// `cap * tanh(x / cap)` for every number, in place.
pub(super) struct Softcap<'a> {
    pub x: &'a mut [f32],
    pub cap: f32,
}

impl Kernel for Softcap<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let n = self.x.len();
        let p = self.x.as_mut_ptr();
        let mut i = 0;
        while i < n {
            let v = load::<S, f32>(p.add(i), n - i);
            let v = S::div(v, S::splat(self.cap));
            let v = S::mul(tanh::<S>(v), S::splat(self.cap));
            store::<S, f32>(p.add(i), n - i, v);
            i += S::LANES;
        }
    }
}
