use super::support::{rounding, schemes, smallest, Array, Matrix, Random, FLOATS};
use crate::{self as kernels, Kernels, Packed, Path};

/// `weight(output, input)` is exact.
fn check(
    dy: &Array,
    weights: &kernels::Matrix,
    weight: impl Fn(usize, usize) -> f64,
    dx: &Array,
    what: &str,
) {
    for path in Path::available() {
        let mut results = [1, 3].map(|threads| {
            let mut dx = Array::new(dx.dtype, dx.rows, dx.width, |_, _| 5.0);
            let to = &mut dx.view_mut();
            Kernels::with_path(path, threads).product_transposed(&dy.view(), weights, to);
            dx
        });
        assert!(
            results[0].bytes == results[1].bytes,
            "{path:?}: threads show in the result"
        );
        let dx = &mut results[0];
        for row in 0..dx.rows {
            for input in 0..dx.width {
                let (mut wanted, mut size) = (0.0, 0.0);
                for output in 0..dy.width {
                    wanted += dy.get(row, output) * weight(output, input);
                    size += (dy.get(row, output) * weight(output, input)).abs();
                }
                let bound = (dy.width as f64 + 16.0) * 2.0_f64.powi(-24) * size;
                let bound =
                    bound + (wanted.abs() + bound) * rounding(dx.dtype) + smallest(dx.dtype);
                let got = dx.get(row, input);
                assert!(
                    (got - wanted).abs() <= bound,
                    "{path:?} {what}: {wanted} became {got}, allowed {bound}"
                );
            }
        }
    }
}

#[test]
fn transposed_products_are_within_their_bound() {
    let mut random = Random(91);
    for (rows, outputs, inputs) in [
        (1, 16, 64),
        (5, 70, 130),
        (3, 129, 257),
        (2, 1, 1),
        (0, 3, 4),
        (2, 0, 3),
    ] {
        for dtype in FLOATS {
            let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let dy = Array::random(&mut random, from, rows, outputs);
            let w = Array::random(&mut random, dtype, outputs, inputs);
            let weights = kernels::Matrix::Dense(w.view());
            check(
                &dy,
                &weights,
                |o, i| w.get(o, i),
                &Array::zeros(to, rows, inputs),
                "dense",
            );
        }
    }
    for scheme in schemes() {
        let group = scheme.group_size as usize;
        for (rows, outputs, groups) in [(1, 16, 2), (4, 37, 3), (6, 70, 1)] {
            let inputs = groups * group;
            let (dtype, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let matrix = Matrix::random(&mut random, scheme, dtype, outputs, inputs);
            let bytes = matrix.pack();
            let packed = Packed::new(matrix.layout, &bytes).unwrap();
            let dy = Array::random(&mut random, dtype, rows, outputs);
            // Unpacking makes a weight with a rounding or two.
            let weight = |o, i| matrix.weight(o, i).value;
            check(
                &dy,
                &kernels::Matrix::Packed(packed),
                weight,
                &Array::zeros(to, rows, inputs),
                &format!("{scheme:?}"),
            );
        }
    }
}
