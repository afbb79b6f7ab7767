use super::support::{rounding, smallest, Array, Random, FLOATS};
use super::texts::erf;
use crate::dtype::Dtype;
use crate::{Activation, HeadShape, Heads, HeadsMut, Kernels, Path, Temperature};

const EPSILON: f64 = 1.0 / (1 << 24) as f64;
const WIDTHS: [usize; 7] = [0, 1, 16, 17, 64, 100, 515];

const KINDS: [Activation; 5] = [
    Activation::Silu,
    Activation::GeluTanh,
    Activation::SwigluClamped {
        alpha: 1.702,
        limit: 7.0,
    },
    Activation::Relu2,
    Activation::Xielu {
        alpha_p: 0.8,
        alpha_n: 1.3,
        beta: 0.5,
        eps: -1e-6,
    },
];

/// What `kind` makes of x and up in f64, and how far off it may be beside rounding.
fn exact(kind: Activation, x: f64, up: Option<f64>) -> (f64, f64) {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    // The exponent's own rounding counts as much as the exponent is large.
    let of = |f: f64, inner: f64| {
        let relative = 2.0_f64.powi(-20) + 8.0 * EPSILON * inner;
        (f, f.abs() * relative + x.abs() * 2.0_f64.powi(-22))
    };
    let (f, bound) = match kind {
        Activation::Silu => of(x * sigmoid(x), x.abs()),
        Activation::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let inner = root * (x + 0.044715 * x.powi(3));
            of(0.5 * x * (1.0 + inner.tanh()), x.abs() + x.abs().powi(3))
        }
        Activation::Gelu => of(0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)), x.abs()),
        Activation::SwigluClamped { alpha, limit } => {
            let (alpha, limit) = (f64::from(alpha), f64::from(limit));
            let up = up.expect("it is given").clamp(-limit, limit) + 1.0;
            let gate = x.min(limit);
            let (f, bound) = of(gate * sigmoid(alpha * gate), alpha * x.abs());
            return (f * up, bound * (up.abs() + 1.0));
        }
        Activation::Relu2 => of(x.max(0.0).powi(2), 0.0),
        Activation::Xielu {
            alpha_p,
            alpha_n,
            beta,
            eps,
        } => {
            let [alpha_p, alpha_n, beta, eps] = [alpha_p, alpha_n, beta, eps].map(f64::from);
            let f = match x > 0.0 {
                true => alpha_p * x * x + beta * x,
                false => (x.min(eps).exp_m1() - x) * alpha_n + beta * x,
            };
            let (_, bound) = of(f, 0.0);
            // Below 0 two terms of which each may be larger than the sum.
            (f, bound + 8.0 * EPSILON * (x.abs() + x * x.min(1.0)))
        }
    };
    match up {
        Some(up) => (f * up, bound * up.abs()),
        None => (f, bound),
    }
}

#[test]
fn activations_are_within_their_bounds() {
    let mut random = Random(31);
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 2);
        for width in WIDTHS {
            for kind in KINDS {
                for gated in [true, false] {
                    if !gated && matches!(kind, Activation::SwigluClamped { .. }) {
                        continue;
                    }
                    let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
                    let scale = random.pick(&[1e-4, 0.01, 1.0, 20.0]);
                    let x = Array::new(from, 3, width, |_, _| scale * random.float());
                    let up = Array::new(from, 3, width, |_, _| 9.0 * random.float());
                    let mut y = Array::zeros(to, 3, width);
                    match gated {
                        true => kernels.gated(&x.view(), &up.view(), kind, &mut y.view_mut()),
                        false => kernels.activated(&x.view(), kind, &mut y.view_mut()),
                    }
                    for row in 0..3 {
                        for i in 0..width {
                            let up = gated.then(|| up.get(row, i));
                            let (wanted, bound) = exact(kind, x.get(row, i), up);
                            let bound =
                                bound + (wanted.abs() + bound) * rounding(to) + smallest(to);
                            let error = (y.get(row, i) - wanted).abs();
                            assert!(
                                error <= bound,
                                "{path:?} {kind:?} of {}, {up:?} to {to:?}: {wanted} became {}, {error:e} over {bound:e}",
                                x.get(row, i),
                                y.get(row, i)
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn far_out_and_not_finite() {
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 1);
        let x = [200.0, -200.0, f32::INFINITY, f32::NAN, 0.0, -1e30];
        let x = Array::new(Dtype::F32, 1, 6, |_, i| x[i]);
        let up = Array::new(Dtype::F32, 1, 6, |_, _| 1.0);
        for kind in KINDS {
            let mut y = Array::zeros(Dtype::F32, 1, 6);
            kernels.gated(&x.view(), &up.view(), kind, &mut y.view_mut());
            assert!(y.get(0, 3).is_nan(), "{path:?} {kind:?}");
            // Xielu's is not quite 0 there.
            assert!(y.get(0, 4).abs() < 2e-6);
            match kind {
                Activation::Silu | Activation::GeluTanh | Activation::Gelu => {
                    assert_eq!((y.get(0, 0), y.get(0, 1)), (200.0, 0.0));
                    assert_eq!((y.get(0, 2), y.get(0, 5)), (f64::INFINITY, 0.0));
                }
                Activation::SwigluClamped { .. } => {
                    assert!((y.get(0, 0) - 14.0).abs() < 1e-3);
                    assert_eq!((y.get(0, 0), y.get(0, 1)), (y.get(0, 2), 0.0));
                }
                Activation::Relu2 => {
                    assert_eq!((y.get(0, 0), y.get(0, 1)), (40000.0, 0.0));
                    assert_eq!((y.get(0, 2), y.get(0, 5)), (f64::INFINITY, 0.0));
                }
                Activation::Xielu { .. } => {
                    let below = (-1.0 + 200.0) * 1.3 - 100.0;
                    assert!((y.get(0, 1) - below).abs() < 1e-3);
                    assert_eq!(y.get(0, 2), f64::INFINITY);
                }
            }
        }
        // NaN in up, where up is clipped.
        let up = Array::new(Dtype::F32, 1, 6, |_, _| f32::NAN);
        let mut y = Array::zeros(Dtype::F32, 1, 6);
        kernels.gated(&x.view(), &up.view(), KINDS[2], &mut y.view_mut());
        assert!((0..6).all(|i| y.get(0, i).is_nan()), "{path:?}");
    }
}

#[test]
#[should_panic(expected = "without a gate")]
fn what_needs_a_gate_is_refused_without() {
    let mut y = Array::zeros(Dtype::F32, 1, 6);
    let x = Array::zeros(Dtype::F32, 1, 6);
    Kernels::new(1).activated(&x.view(), KINDS[2], &mut y.view_mut());
}

#[test]
fn queries_are_tempered() {
    let mut random = Random(34);
    let temperature = Temperature {
        beta: 0.1,
        original_context: 16,
    };
    for path in Path::available() {
        for dim in [1, 10, 64] {
            let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let x = Array::random(&mut random, from, 3 * 5, dim);
            let mut y = Array::zeros(to, 3 * 5, dim);
            let (of_x, of_y) = (
                HeadShape::tokens_first(3, 5, dim),
                HeadShape::heads_first(3, 5, dim),
            );
            let input = Heads::new(&x.bytes, from, of_x).expect("sizes");
            let mut output = HeadsMut::new(&mut y.bytes, to, of_y).expect("sizes");
            let offset = random.pick(&[0, 13, 30, 100_000]);
            Kernels::with_path(path, 2).temper(&temperature, &input, offset, &mut output);
            for (head, token) in (0..3).flat_map(|h| (0..5).map(move |t| (h, t))) {
                let periods = f64::from((offset + token as i32) / 16);
                let factor = 1.0 + 0.1_f32 as f64 * (1.0 + periods).ln();
                for i in 0..dim {
                    let wanted = x.get(token * 3 + head, i) * factor;
                    let bound = wanted.abs() * (2.0 * EPSILON + rounding(to)) + smallest(to);
                    assert!((y.get(head * 5 + token, i) - wanted).abs() <= bound);
                }
            }
        }
    }
}
