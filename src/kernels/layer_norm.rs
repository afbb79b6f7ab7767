//! Layer norm: each row without its mean, over its deviation.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, store, with_element, Element, Floats, FloatsMut};
use super::rowwise::same_shape;
use super::simd::{Kernel, Simd};
use super::Kernels;

impl Kernels {
    /// `y = (x - mean) / sqrt(mean((x - mean)²) + eps) * weight + bias`, each row by itself; weight and bias `[1, width]` of one
    /// float type. No bias: zeros.
    ///
    /// Error, beside the output's rounding: `(width / lanes + 8) * 2^-24` of the largest |x - mean| over the deviation, times the
    /// weight. Panics where shapes differ.
    pub fn layer_norm(
        &self,
        x: &Floats,
        weight: &Floats,
        bias: Option<&Floats>,
        eps: f32,
        y: &mut FloatsMut,
    ) {
        same_shape(x, y, "layer_norm");
        let is_row = |row: &Floats| row.rows() == 1 && row.width() == x.width();
        assert!(
            is_row(weight) && bias.is_none_or(is_row),
            "layer_norm: weight or bias is not one row as wide as x"
        );
        assert!(
            bias.is_none_or(|bias| bias.dtype() == weight.dtype()),
            "layer_norm: two types"
        );
        let y = &*y;
        self.rows(x.rows(), x.width(), |row| {
            with_element!(x.dtype(), X => with_element!(y.dtype(), Y => with_element!(weight.dtype(), W => {
                self.path.run(LayerNorm {
                    x: x.row::<X>(row),
                    y: y.row::<Y>(row),
                    n: x.width(),
                    weight: weight.row::<W>(0),
                    bias: bias.map(|bias| bias.row::<W>(0)),
                    eps,
                })
            })));
        });
    }
}

struct LayerNorm<X, Y, W> {
    x: *const X,
    y: *mut Y,
    n: usize,
    weight: *const W,
    bias: Option<*const W>,
    eps: f32,
}

impl<X: Element, Y: Element, W: Element> Kernel for LayerNorm<X, Y, W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.n / S::LANES * S::LANES;
        let mut sums = S::splat(0.0);
        let mut i = 0;
        while i < self.n {
            sums = S::add(sums, load::<S, X>(self.x.add(i), self.n - i));
            i += S::LANES;
        }
        let mean = S::sum(sums) / self.n as f32;
        let shift = S::splat(mean);
        let mut squares = S::splat(0.0);
        let mut i = 0;
        while i < whole {
            let v = S::sub(load::<S, X>(self.x.add(i), S::LANES), shift);
            squares = S::fma(v, v, squares);
            i += S::LANES;
        }
        let mut variance = S::sum(squares);
        // Lanes beyond the end would count as zeros less the mean.
        for rest in whole..self.n {
            let v = self.x.add(rest).read_unaligned().to_f32() - mean;
            variance += v * v;
        }
        let scale = S::splat(1.0 / (variance / self.n as f32 + self.eps).sqrt());
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            let v = S::mul(S::sub(load::<S, X>(self.x.add(i), n), shift), scale);
            let w = load::<S, W>(self.weight.add(i), n);
            let v = match self.bias {
                Some(bias) => S::fma(v, w, load::<S, W>(bias.add(i), n)),
                None => S::mul(v, w),
            };
            store::<S, Y>(self.y.add(i), n, v);
            i += S::LANES;
        }
    }
}
