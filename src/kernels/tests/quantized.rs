use super::support::{rounding, schemes, smallest, Array, Matrix, Random, FLOATS};
use crate::activations::{digits_for, most_steps};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::{Floats, Kernels, Packed, Path};

/// x Wᵀ in f64, and how far a kernel may be from it.
fn reference(x: &Array, matrix: &Matrix, y: Dtype) -> Vec<(f64, f64)> {
    let layout = &matrix.layout;
    let weights: Vec<_> = (0..layout.rows())
        .map(|row| {
            (0..layout.inputs())
                .map(|k| matrix.weight(row, k))
                .collect::<Vec<_>>()
        })
        .collect();
    let fp8 = layout.scheme().mode == Mode::Mxfp8;
    let most = f64::from(most_steps(layout.bits(), digits_for(x.dtype)));
    let mut all = Vec::new();
    for row in 0..x.rows {
        for weights in &weights {
            let (mut value, mut bound, mut terms) = (0.0, 0.0, 0.0);
            for group in 0..layout.groups() {
                let inputs = group * layout.group()..(group + 1) * layout.group();
                let largest = inputs
                    .clone()
                    .map(|k| x.get(row, k).abs())
                    .fold(0.0, f64::max);
                // Half a step, and a hair for finding the step in f32.
                let moved = if fp8 {
                    0.0
                } else {
                    (0.5 + 2e-3) * largest / most
                };
                for k in inputs {
                    value += weights[k].value * x.get(row, k);
                    bound += weights[k].value.abs() * moved;
                    terms += weights[k].terms * x.get(row, k).abs().max(moved);
                }
            }
            let sums = layout.groups() as f64 + if fp8 { 32.0 } else { 8.0 };
            bound += terms * sums * 2.0_f64.powi(-24);
            bound += (value.abs() + bound) * rounding(y) + smallest(y);
            all.push((value, bound));
        }
    }
    all
}

fn check(x: &Array, matrix: &Matrix, y: Dtype, what: &str) {
    let packed = matrix.pack();
    let packed = Packed::new(matrix.layout, &packed).expect("its size");
    let wanted = reference(x, matrix, y);
    for path in Path::available() {
        for threads in [1, 2] {
            let kernels = Kernels::with_path(path, threads);
            let mut got = Array::new(y, x.rows, matrix.layout.rows(), |_, _| 77.0);
            kernels.quantized_matmul(&x.view(), &packed, &mut got.view_mut());
            for (i, &(value, bound)) in wanted.iter().enumerate() {
                let (row, column) = (i / got.width, i % got.width);
                let error = (got.get(row, column) - value).abs();
                assert!(
                    error <= bound,
                    "{what}: {path:?} {:?} {:?} to {y:?}, row {row} output {column} of [{}, {}]: {value} became {}, {error:e} over {bound:e}",
                    matrix.layout, x.dtype, x.rows, got.width, got.get(row, column)
                );
            }
        }
    }
}

#[test]
fn every_scheme_and_type_within_its_bound() {
    let mut random = Random(3);
    for scheme in schemes() {
        for dtype in FLOATS {
            for (rows, outputs, groups) in [(1, 16, 2), (1, 21, 3), (7, 35, 1), (15, 16, 2)] {
                let inputs = groups * scheme.group_size as usize;
                let matrix = Matrix::random(&mut random, scheme, dtype, outputs, inputs);
                let x = Array::random(&mut random, dtype, rows, inputs);
                check(&x, &matrix, dtype, "random");
            }
        }
    }
}

#[test]
fn mixed_types_of_activations_scales_and_outputs() {
    let mut random = Random(4);
    for _ in 0..20 {
        let scheme = random.pick(&schemes());
        let (a, b, c) = (
            random.pick(&FLOATS),
            random.pick(&FLOATS),
            random.pick(&FLOATS),
        );
        let inputs = (1 + random.below(4)) * scheme.group_size as usize;
        let outputs = 1 + random.below(50);
        let matrix = Matrix::random(&mut random, scheme, a, outputs, inputs);
        // Fewer than take tiles of bf16, whose bound is another.
        let rows = 1 + random.below(15);
        let x = Array::random(&mut random, b, rows, inputs);
        check(&x, &matrix, c, "mixed");
    }
}

#[test]
fn outliers_stay_within_the_bound() {
    let mut random = Random(5);
    for scheme in schemes() {
        for dtype in FLOATS {
            let inputs = 2 * scheme.group_size as usize;
            let matrix = Matrix::random(&mut random, scheme, dtype, 16, inputs);
            let mut x = Array::random(&mut random, dtype, 3, inputs);
            x.set(0, 5, 1000.0);
            x.set(1, 0, -1000.0);
            for k in 0..scheme.group_size as usize {
                x.set(2, k, if k % 2 == 0 { 1000.0 } else { -1000.0 });
            }
            check(&x, &matrix, dtype, "outliers");
        }
    }
}

#[test]
fn the_largest_codes_and_activations_do_not_overflow() {
    for scheme in schemes() {
        let mut random = Random(6);
        let inputs = 3 * scheme.group_size as usize;
        let mut matrix = Matrix::random(&mut random, scheme, Dtype::F32, 16, inputs);
        let code = if scheme.mode == Mode::Affine {
            0xff
        } else {
            0x77
        };
        matrix.weight.fill(code);
        for dtype in FLOATS {
            for sign in [1.0, -1.0] {
                let x = Array::new(dtype, 8, inputs, |_, _| sign * 3.0);
                check(&x, &matrix, Dtype::F32, "all largest");
            }
        }
    }
}

#[test]
fn tiny_huge_and_zero_activations() {
    let mut random = Random(7);
    let scheme = Scheme {
        mode: Mode::Affine,
        bits: 4,
        group_size: 32,
    };
    let matrix = Matrix::random(&mut random, scheme, Dtype::F32, 16, 96);
    for scale in [0.0, 1e-29, 1e20, 1e35] {
        let x = Array::new(Dtype::F32, 2, 96, |_, k| scale * ((k % 7) as f32 - 3.0));
        check(&x, &matrix, Dtype::F32, "scaled");
    }
    // Under the smallest: counts as zero.
    let x = Array::new(Dtype::F32, 1, 96, |_, _| 1e-31);
    let packed = matrix.pack();
    let packed = Packed::new(matrix.layout, &packed).expect("its size");
    let mut y = Array::zeros(Dtype::F32, 1, 16);
    Kernels::new(1).quantized_matmul(&x.view(), &packed, &mut y.view_mut());
    assert!((0..16).all(|column| y.get(0, column) == 0.0));
}

#[test]
fn what_is_not_finite_stays_so_and_stays_in_its_row() {
    let mut random = Random(8);
    for scheme in schemes() {
        let inputs = 2 * scheme.group_size as usize;
        let matrix = Matrix::random(&mut random, scheme, Dtype::BF16, 32, inputs);
        let packed = matrix.pack();
        let packed = Packed::new(matrix.layout, &packed).expect("its size");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = Array::random(&mut random, Dtype::BF16, 3, inputs);
            x.set(1, inputs - 1, bad);
            for path in Path::available() {
                let mut y = Array::zeros(Dtype::BF16, 3, 32);
                let kernels = Kernels::with_path(path, 1);
                kernels.quantized_matmul(&x.view(), &packed, &mut y.view_mut());
                for column in 0..32 {
                    assert!(!y.get(1, column).is_finite(), "{path:?} {scheme:?} {bad}");
                    assert!(y.get(0, column).is_finite() && y.get(2, column).is_finite());
                }
            }
        }
        // A bad scale makes its output bad, and only that.
        if scheme.mode == Mode::Affine {
            let mut matrix = Matrix::random(&mut random, scheme, Dtype::F32, 32, inputs);
            let at = 5 * matrix.layout.mlx_scale_row();
            matrix.scales[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            let packed = matrix.pack();
            let packed = Packed::new(matrix.layout, &packed).expect("its size");
            let x = Array::random(&mut random, Dtype::F32, 1, inputs);
            for path in Path::available() {
                let mut y = Array::zeros(Dtype::F32, 1, 32);
                let kernels = Kernels::with_path(path, 1);
                kernels.quantized_matmul(&x.view(), &packed, &mut y.view_mut());
                assert!((0..32).all(|column| y.get(0, column).is_nan() == (column == 5)));
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it_or_on_the_threads() {
    let mut random = Random(9);
    for scheme in schemes() {
        let inputs = 3 * scheme.group_size as usize;
        let matrix = Matrix::random(&mut random, scheme, Dtype::BF16, 48, inputs);
        let packed = matrix.pack();
        let packed = Packed::new(matrix.layout, &packed).expect("its size");
        // Where rows are more, they may take tiles of bf16, which round otherwise: see `amx`.
        for (dtype, path) in FLOATS
            .into_iter()
            .flat_map(|dtype| Path::available().map(move |path| (dtype, path)))
        {
            let x = Array::random(&mut random, dtype, 15, inputs);
            let mut alone = Vec::new();
            let kernels = Kernels::with_path(path, 1);
            let bytes = inputs * dtype.size() as usize;
            let product = |kernels: &Kernels, first: usize, rows: usize| {
                let x = &x.bytes[first * bytes..(first + rows) * bytes];
                let x = Floats::new(x, dtype, rows, inputs).expect("its size");
                let mut y = Array::zeros(Dtype::F32, rows, 48);
                kernels.quantized_matmul(&x, &packed, &mut y.view_mut());
                y.bytes
            };
            (0..15).for_each(|row| alone.extend(product(&kernels, row, 1)));
            let threads = Kernels::with_path(path, 3);
            for rows in [2, 3, 5, 8, 11, 15] {
                let together = product(&threads, 0, rows);
                assert!(
                    together == alone[..rows * 48 * 4],
                    "{path:?} {dtype:?} {rows} rows"
                );
            }
        }
    }
}

#[test]
fn nothing_in_gives_nothing_out() {
    let mut random = Random(10);
    for scheme in schemes() {
        for (rows, outputs, groups) in [(0, 16, 1), (2, 0, 1), (2, 16, 0)] {
            let inputs = groups * scheme.group_size as usize;
            let matrix = Matrix::random(&mut random, scheme, Dtype::F32, outputs, inputs);
            let x = Array::random(&mut random, Dtype::F32, rows, inputs);
            check(&x, &matrix, Dtype::F32, "empty");
        }
    }
}
