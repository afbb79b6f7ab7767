use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Kernels, Path};

const EPSILON: f64 = 1.0 / (1 << 24) as f64;
const WIDTHS: [usize; 8] = [0, 1, 3, 16, 17, 64, 100, 515];

fn assert_near(what: &str, path: Path, got: f64, wanted: f64, bound: f64, y: Dtype) {
    let bound = bound + (wanted.abs() + bound) * rounding(y) + smallest(y);
    let error = (got - wanted).abs();
    assert!(
        error <= bound,
        "{what}: {path:?} to {y:?}: {wanted} became {got}, {error:e} over {bound:e}"
    );
}

#[test]
fn rms_norm_is_within_its_bound() {
    let mut random = Random(30);
    for path in Path::available() {
        for width in WIDTHS {
            for threads in [1, 2] {
                let kernels = Kernels::with_path(path, threads);
                let (from, to, of_weight) = (
                    random.pick(&FLOATS),
                    random.pick(&FLOATS),
                    random.pick(&FLOATS),
                );
                let mut x = Array::random(&mut random, from, 5, width);
                if width > 2 {
                    x.set(3, 2, 1000.0);
                }
                let weight = Array::random(&mut random, of_weight, 1, width);
                let offset = random.pick(&[0.0, 1.0]);
                for weight in [Some(&weight), None] {
                    let mut y = Array::new(to, 5, width, |_, _| 7.0);
                    let view = weight.map(Array::view);
                    kernels.rms_norm(&x.view(), view.as_ref(), offset, 1e-5, &mut y.view_mut());
                    for row in 0..5 {
                        let sum: f64 = (0..width).map(|i| x.get(row, i).powi(2)).sum();
                        let scale = 1.0 / (sum / width as f64 + 1e-5_f32 as f64).sqrt();
                        for i in 0..width {
                            let w = weight.map_or(1.0, |w| w.get(0, i) + f64::from(offset));
                            let wanted = x.get(row, i) * scale * w;
                            // The weight's offset rounds by itself.
                            let size = x.get(row, i).abs() * scale * (w.abs() + 1.0);
                            let bound = (width as f64 + 8.0) * EPSILON * size;
                            assert_near("rms_norm", path, y.get(row, i), wanted, bound, to);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn add_adds() {
    let mut random = Random(32);
    for path in Path::available() {
        for width in WIDTHS {
            let to = random.pick(&FLOATS);
            let (a, b) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let a = Array::random(&mut random, a, 4, width);
            let b = Array::random(&mut random, b, 4, width);
            let mut y = Array::zeros(to, 4, width);
            let kernels = Kernels::with_path(path, 1);
            for factor in [1.0, 0.22_f32] {
                if factor == 1.0 {
                    kernels.add(&a.view(), &b.view(), &mut y.view_mut());
                } else {
                    kernels.add_times(&a.view(), &b.view(), factor, &mut y.view_mut());
                }
                for row in 0..4 {
                    for i in 0..width {
                        let term = f64::from(factor) * b.get(row, i);
                        let wanted = a.get(row, i) + term;
                        let bound = EPSILON * (wanted.abs() + term.abs());
                        assert_near("add", path, y.get(row, i), wanted, bound, to);
                    }
                }
            }
        }
    }
}

#[test]
fn softmax_is_within_its_bound() {
    let mut random = Random(33);
    for path in Path::available() {
        for width in WIDTHS {
            let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let scale = random.pick(&[1.0, 30.0]);
            let mut x = Array::new(from, 4, width, |_, _| scale * random.float());
            for row in 0..width.min(4) {
                x.set(row, width - 1 - row, f32::NEG_INFINITY);
            }
            if width > 1 {
                x.set(0, width - 1, 1000.0);
            }
            let mut y = Array::zeros(to, 4, width);
            Kernels::with_path(path, 2).softmax(&x.view(), &mut y.view_mut());
            for row in 0..4 {
                let largest = (0..width)
                    .map(|i| x.get(row, i))
                    .fold(f64::NEG_INFINITY, f64::max);
                if largest == f64::NEG_INFINITY {
                    assert!((0..width).all(|i| y.get(row, i).is_nan()));
                    continue;
                }
                let sum: f64 = (0..width).map(|i| (x.get(row, i) - largest).exp()).sum();
                for i in 0..width {
                    let wanted = (x.get(row, i) - largest).exp() / sum;
                    let apart = (x.get(row, i) - largest).abs().min(100.0);
                    let relative = (width as f64 + 8.0 + apart) * EPSILON + 2.0_f64.powi(-21);
                    assert_near(
                        "softmax",
                        path,
                        y.get(row, i),
                        wanted,
                        wanted * relative + 1e-37,
                        to,
                    );
                }
            }
        }
        let bad = Array::new(Dtype::F32, 2, 20, |row, i| match (row, i) {
            (0, 7) => f32::NAN,
            (1, 7) => f32::INFINITY,
            _ => 1.0,
        });
        let mut y = Array::zeros(Dtype::F32, 2, 20);
        Kernels::with_path(path, 1).softmax(&bad.view(), &mut y.view_mut());
        assert!((0..20).all(|i| y.get(0, i).is_nan()), "{path:?}");
        assert!(y.get(1, 7).is_nan(), "{path:?}");
    }
}

#[test]
fn shapes_that_differ_are_refused() {
    let x = Array::zeros(Dtype::F32, 2, 8);
    let mut y = Array::zeros(Dtype::F32, 2, 7);
    let kernels = Kernels::new(1);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        kernels.softmax(&x.view(), &mut y.view_mut());
    }));
    assert!(refused.is_err());
}
