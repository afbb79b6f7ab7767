use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Kernels, Path};

fn check(x: &Array, w: &Array, to: Dtype) {
    for path in Path::available() {
        for threads in [1, 2] {
            let mut y = Array::new(to, x.rows, w.rows, |_, _| 5.0);
            Kernels::with_path(path, threads).matmul(&x.view(), &w.view(), &mut y.view_mut());
            for row in 0..x.rows {
                for output in 0..w.rows {
                    let (mut wanted, mut size) = (0.0, 0.0);
                    for k in 0..x.width {
                        wanted += x.get(row, k) * w.get(output, k);
                        size += (x.get(row, k) * w.get(output, k)).abs();
                    }
                    let bound = (x.width as f64 + 8.0) * 2.0_f64.powi(-24) * size;
                    let bound = bound + (wanted.abs() + bound) * rounding(to) + smallest(to);
                    let error = (y.get(row, output) - wanted).abs();
                    assert!(
                        error <= bound,
                        "{path:?} {:?} by {:?} to {to:?}: [{}, {}] by {}: {wanted} became {}",
                        x.dtype,
                        w.dtype,
                        x.rows,
                        x.width,
                        w.rows,
                        y.get(row, output)
                    );
                }
            }
        }
    }
}

#[test]
fn products_are_within_their_bound() {
    let mut random = Random(50);
    for (rows, inputs, outputs) in [
        (1, 64, 16),
        (1, 100, 37),
        (2, 33, 5),
        (3, 16, 17),
        (8, 128, 64),
        (19, 70, 33),
        (1, 1, 1),
        (0, 8, 8),
        (2, 0, 3),
        (2, 5, 0),
    ] {
        for dtype in FLOATS {
            let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let mut x = Array::random(&mut random, from, rows, inputs);
            if rows * inputs > 40 {
                x.set(0, 7, 1000.0);
            }
            let w = Array::random(&mut random, dtype, outputs, inputs);
            check(&x, &w, to);
        }
    }
}

/// Beyond the rows from which on weights are turned.
#[test]
fn products_of_many_rows_are_within_their_bound() {
    let mut random = Random(53);
    for (rows, inputs, outputs) in [(192, 33, 5), (203, 70, 131), (197, 1600, 70)] {
        for dtype in FLOATS {
            let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let x = Array::random(&mut random, from, rows, inputs);
            let w = Array::random(&mut random, dtype, outputs, inputs);
            check(&x, &w, to);
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_stays_in_its_row() {
    let mut random = Random(51);
    for path in Path::available() {
        let mut x = Array::random(&mut random, Dtype::BF16, 3, 50);
        x.set(1, 49, f32::NAN);
        let w = Array::random(&mut random, Dtype::BF16, 9, 50);
        let mut y = Array::zeros(Dtype::BF16, 3, 9);
        Kernels::with_path(path, 1).matmul(&x.view(), &w.view(), &mut y.view_mut());
        for output in 0..9 {
            assert!(y.get(1, output).is_nan());
            assert!(y.get(0, output).is_finite() && y.get(2, output).is_finite());
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let mut random = Random(52);
    for path in Path::available().filter(|&path| path != Path::Amx) {
        let kernels = Kernels::with_path(path, 2);
        let x = Array::random(&mut random, Dtype::F32, 11, 200);
        let w = Array::random(&mut random, Dtype::BF16, 70, 200);
        let mut together = Array::zeros(Dtype::F32, 11, 70);
        kernels.matmul(&x.view(), &w.view(), &mut together.view_mut());
        for row in 0..11 {
            let one = Array::new(Dtype::F32, 1, 200, |_, k| x.get(row, k) as f32);
            let mut y = Array::zeros(Dtype::F32, 1, 70);
            kernels.matmul(&one.view(), &w.view(), &mut y.view_mut());
            assert_eq!(
                y.bytes,
                together.bytes[row * 280..(row + 1) * 280],
                "{path:?}"
            );
        }
    }
}
