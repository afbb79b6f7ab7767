//! The whole of it on emulated tiles, and on the processor's where it has them.

use super::tile::Emulated;
use super::*;
use crate::cpu::features;
use crate::tests::support::{rounding, schemes, Array, Matrix, Random};
use crate::Layout;

/// Emulated tiles want no AMX, only what fills them.
fn kernels(threads: usize) -> Option<Kernels> {
    if !(features().avx512 && features().avx512_bf16) {
        println!("skipped: no AVX-512 with BF16 here");
        return None;
    }
    let path = if Path::Amx.is_available() {
        Path::Amx
    } else {
        println!("on emulated tiles only: no AMX here");
        Path::Avx512
    };
    Some(Kernels::with_path(path, threads))
}

fn check(
    x: &Array,
    weights: Weights,
    weight: impl Fn(usize, usize) -> f64,
    relative: f64,
    what: &str,
) {
    for threads in [1, 2] {
        let Some(kernels) = kernels(threads) else {
            return;
        };
        let outputs = weights.outputs();
        let mut results = Vec::new();
        let mut y = Array::new(Dtype::F32, x.rows, outputs, |_, _| 5.0);
        kernels.matmul_on::<Emulated>(&x.view(), weights, &y.view_mut());
        results.push(y);
        if Path::Amx.is_available() {
            let mut y = Array::new(Dtype::F32, x.rows, outputs, |_, _| 5.0);
            kernels.matmul_on::<Hardware>(&x.view(), weights, &y.view_mut());
            results.push(y);
        }
        for y in results {
            for row in 0..x.rows {
                for output in 0..outputs {
                    let (mut wanted, mut size) = (0.0, 0.0);
                    for k in 0..x.width {
                        let term = x.get(row, k) * weight(output, k);
                        wanted += term;
                        size += term.abs();
                    }
                    let bound =
                        size * (relative + (x.width as f64 + 8.0) * 2.0_f64.powi(-24)) + 1e-30;
                    let error = (y.get(row, output) - wanted).abs();
                    assert!(
                        error <= bound,
                        "{what}: row {row} of {} output {output} of {outputs}, {} inputs: {wanted} became {}",
                        x.rows, x.width, y.get(row, output)
                    );
                }
            }
        }
    }
}

#[test]
fn packed_weights_of_every_scheme() {
    let mut random = Random(70);
    for scheme in schemes() {
        for (rows, outputs, groups) in [(16, 32, 2), (33, 21, 1), (50, 70, 3), (1, 16, 1)] {
            let inputs = groups * scheme.group_size as usize;
            let matrix = Matrix::random(&mut random, scheme, Dtype::BF16, outputs, inputs);
            let x = Array::random(&mut random, Dtype::BF16, rows, inputs);
            let packed = matrix.pack();
            let packed = Packed::new(matrix.layout, &packed).expect("its size");
            let weight = |row, k| matrix.weight(row, k).value;

            let relative = rounding(Dtype::BF16) * 1.01;
            check(
                &x,
                Weights::Packed(packed),
                weight,
                relative,
                &format!("{scheme:?}"),
            );
        }
    }
}

#[test]
fn plain_weights() {
    let mut random = Random(71);
    for (rows, outputs, inputs) in [
        (16, 32, 64),
        (40, 19, 33),
        (17, 100, 100),
        (3, 5, 1),
        (16, 0, 32),
    ] {
        let x = Array::random(&mut random, Dtype::BF16, rows, inputs);
        let w = Array::random(&mut random, Dtype::BF16, outputs, inputs);
        check(
            &x,
            Weights::Dense(w.view()),
            |row, k| w.get(row, k),
            0.0,
            "dense",
        );
    }
}

#[test]
fn more_rows_than_pass_at_once() {
    let mut random = Random(72);
    let inputs = 8192;
    let rows = CACHED / (2 * inputs) + 5;
    let x = Array::random(&mut random, Dtype::BF16, rows, inputs);
    let w = Array::random(&mut random, Dtype::BF16, 3, inputs);
    check(
        &x,
        Weights::Dense(w.view()),
        |row, k| w.get(row, k),
        0.0,
        "many",
    );
}

#[test]
fn what_is_not_finite_stays_so() {
    let Some(kernels) = kernels(1) else { return };
    let mut random = Random(73);
    let mut x = Array::random(&mut random, Dtype::BF16, 20, 64);
    x.set(3, 60, f32::NAN);
    x.set(4, 0, f32::INFINITY);
    for scheme in schemes() {
        if 64 % scheme.group_size != 0 {
            continue;
        }
        let matrix = Matrix::random(&mut random, scheme, Dtype::BF16, 16, 64);
        let packed = matrix.pack();
        let packed = Packed::new(matrix.layout, &packed).expect("its size");
        let mut y = Array::zeros(Dtype::BF16, 20, 16);
        kernels.matmul_on::<Emulated>(&x.view(), Weights::Packed(packed), &y.view_mut());
        for row in 0..20 {
            for output in 0..16 {
                let finite = y.get(row, output).is_finite();
                assert!(
                    finite == (row != 3 && row != 4) || (row == 4 && !finite),
                    "{scheme:?}"
                );
            }
        }
    }
}

#[test]
fn a_layout_s_tiles_are_its_runs() {
    for scheme in schemes() {
        let scales = match scheme.mode {
            crate::dtype::Mode::Affine => Dtype::BF16,
            _ => Dtype::U8,
        };
        let inputs = 3 * scheme.group_size as usize;
        let layout = Layout::new(scheme, scales, 16, inputs).expect("legal");
        assert_eq!(
            layout.runs(),
            layout.blocks() * (layout.block_inputs() / RUN)
        );
    }
}
