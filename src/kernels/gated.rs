//! What an MLP does between its products: activations, of a gate or of up alone.

#![allow(unsafe_op_in_unsafe_fn)]

use super::float::{load, store, with_element, Element, Floats, FloatsMut};
use super::math::{exp, sigmoid};
use super::rowwise::same_shape;
use super::simd::{Kernel, Simd};
use super::Kernels;

/// The function f of an MLP; with a gate the result is `f(gate) * up`, but where another is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x sigmoid(x): swiglu.
    Silu,
    /// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))): geglu.
    GeluTanh,
    /// x Φ(x), with Φ the normal distribution's sum: `0.5 x (1 + erf(x / √2))`.
    Gelu,
    /// `g sigmoid(alpha g) (u + 1)` with g the gate, at most `limit`, and u up, between `-limit` and `limit`. Needs a gate.
    SwigluClamped { alpha: f32, limit: f32 },
    /// max(x, 0)²
    Relu2,
    /// `alpha_p x² + beta x` above 0, else `alpha_n (e^min(x, eps) - 1 - x) + beta x`.
    Xielu {
        /// softplus of what a file holds.
        alpha_p: f32,
        /// beta plus softplus of what a file holds.
        alpha_n: f32,
        beta: f32,
        eps: f32,
    },
}

impl Kernels {
    /// `y = f(gate) * up`, element by element. Relative error 2^-20, absolute 2^-21 of `up` near the zeros of f.
    ///
    /// Panics where shapes differ.
    pub fn gated(&self, gate: &Floats, up: &Floats, kind: Activation, y: &mut FloatsMut) {
        same_shape(up, y, "gated");
        assert!(gate.dtype() == up.dtype(), "gated: two types");
        self.activate(gate, Some(up), kind, y);
    }

    /// `y = f(x)`, element by element; errors as in `gated`.
    ///
    /// Panics where shapes differ, and for an activation that needs a gate.
    pub fn activated(&self, x: &Floats, kind: Activation, y: &mut FloatsMut) {
        let gate = matches!(kind, Activation::SwigluClamped { .. });
        assert!(!gate, "activated: {kind:?} without a gate");
        self.activate(x, None, kind, y);
    }

    fn activate(&self, x: &Floats, up: Option<&Floats>, kind: Activation, y: &mut FloatsMut) {
        same_shape(x, y, "gated");
        let y = &*y;
        self.rows(x.rows(), x.width(), |row| {
            with_element!(x.dtype(), X => with_element!(y.dtype(), Y => self.path.run(Activate {
                x: x.row::<X>(row),
                up: up.map(|up| up.row::<X>(row)),
                y: y.row::<Y>(row),
                n: x.width(),
                kind,
            })));
        });
    }
}

struct Activate<X, Y> {
    x: *const X,
    up: Option<*const X>,
    y: *mut Y,
    n: usize,
    kind: Activation,
}

impl<X: Element, Y: Element> Kernel for Activate<X, Y> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut i = 0;
        while i < self.n {
            let n = self.n - i;
            let x = load::<S, X>(self.x.add(i), n);
            let result = match (self.kind, self.up) {
                (Activation::SwigluClamped { alpha, limit }, Some(up)) => {
                    // What may be NaN comes second: it stays.
                    let gate = S::min(S::splat(limit), x);
                    let up = S::max(S::splat(-limit), load::<S, X>(up.add(i), n));
                    let up = S::add(S::min(S::splat(limit), up), S::splat(1.0));
                    let f = S::mul(gate, sigmoid::<S>(S::mul(gate, S::splat(alpha))));
                    S::mul(f, up)
                }
                (kind, Some(up)) => S::mul(function::<S>(kind, x), load::<S, X>(up.add(i), n)),
                (kind, None) => function::<S>(kind, x),
            };
            store::<S, Y>(self.y.add(i), n, result);
            i += S::LANES;
        }
    }
}

/// f(x).
#[inline(always)]
unsafe fn function<S: Simd>(kind: Activation, x: S::F) -> S::F {
    match kind {
        Activation::Silu => S::mul(x, sigmoid::<S>(x)),
        Activation::GeluTanh => {
            let cube = S::mul(S::mul(x, x), x);
            let inner = S::fma(cube, S::splat(0.044_715), x);
            // 0.5 (1 + tanh u) = sigmoid(2 u)
            let root = 2.0 * (2.0 / std::f32::consts::PI).sqrt();
            S::mul(x, sigmoid::<S>(S::mul(inner, S::splat(root))))
        }
        Activation::Gelu => S::mul(x, normal_sum::<S>(x)),
        Activation::Relu2 => {
            let above = S::max(S::splat(0.0), x);
            S::mul(above, above)
        }
        Activation::Xielu {
            alpha_p,
            alpha_n,
            beta,
            eps,
        } => {
            let linear = S::mul(x, S::splat(beta));
            let above = S::fma(S::mul(x, x), S::splat(alpha_p), linear);
            let least = S::min(x, S::splat(eps));
            let curve = S::add(exp_rest::<S>(least), S::sub(least, x));
            let below = S::fma(curve, S::splat(alpha_n), linear);
            S::select_lt(S::splat(0.0), x, above, below)
        }
        // Its result is made with up.
        Activation::SwigluClamped { .. } => x,
    }
}

/// Φ(x) with an absolute error under 2^-21: Hastings' polynomial for the complement of erf (Abramowitz and Stegun 7.1.26),
/// whose own error is 1.5e-7.
#[inline(always)]
unsafe fn normal_sum<S: Simd>(x: S::F) -> S::F {
    let z = S::mul(S::abs(x), S::splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = S::div(
        S::splat(1.0),
        S::fma(z, S::splat(0.327_591_1), S::splat(1.0)),
    );
    let mut sum = S::splat(1.061_405_4);
    for factor in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        sum = S::fma(sum, t, S::splat(factor));
    }
    let e = exp::<S>(S::sub(S::splat(0.0), S::mul(z, z)));
    // Beyond |x|.
    let rest = S::mul(S::mul(S::mul(sum, t), e), S::splat(0.5));
    S::select_lt(x, S::splat(0.0), rest, S::sub(S::splat(1.0), rest))
}

/// e^x - 1 - x, with a relative error under 2^-19: near 0 by its series, so that nothing is lost in the differences.
#[inline(always)]
unsafe fn exp_rest<S: Simd>(x: S::F) -> S::F {
    let mut sum = S::splat(1.0 / 3_628_800.0);
    for factor in [362_880.0, 40_320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0] {
        sum = S::fma(sum, x, S::splat(1.0 / factor));
    }
    let near = S::mul(S::mul(x, x), sum);
    let far = S::sub(S::sub(exp::<S>(x), S::splat(1.0)), x);
    S::select_lt(S::abs(x), S::splat(0.75), near, far)
}
