use super::support::{rounding, schemes, Array, Matrix, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{ExpertMatrix, Kernels, Packed, Path, Route};

#[test]
fn rows_are_what_was_packed() {
    let mut random = Random(80);
    let kernels = Kernels::new(2);
    for scheme in schemes() {
        for dtype in FLOATS {
            let inputs = 3 * scheme.group_size as usize;
            let matrix = Matrix::random(&mut random, scheme, dtype, 37, inputs);
            let packed = matrix.pack();
            let packed = Packed::new(matrix.layout, &packed).expect("its size");
            let rows = [36, 0, 17, 17, 3];
            let mut y = Array::zeros(dtype, rows.len(), inputs);
            assert!(kernels.dequantize_rows(&packed, &rows, &mut y.view_mut()));
            for (index, &row) in rows.iter().enumerate() {
                for k in 0..inputs {
                    let wanted = matrix.weight(row as usize, k);
                    let bound =
                        wanted.terms * 2.0_f64.powi(-23) + wanted.value.abs() * rounding(dtype);
                    let error = (y.get(index, k) - wanted.value).abs();
                    assert!(error <= bound * 1.01, "{scheme:?} {dtype:?} {row} {k}");
                }
            }
            let before = y.bytes.clone();
            assert!(!kernels.dequantize_rows(&packed, &[0, 37, 1, 2, 3], &mut y.view_mut()));
            assert_eq!(before, y.bytes);
        }
    }
}

#[test]
fn experts_are_the_single_products() {
    let mut random = Random(81);
    for scheme in schemes() {
        let inputs = 2 * scheme.group_size as usize;
        let experts: Vec<_> = (0..5)
            .map(|_| Matrix::random(&mut random, scheme, Dtype::BF16, 21, inputs))
            .collect();
        let data: Vec<u8> = experts.iter().flat_map(Matrix::pack).collect();
        let layout = experts[0].layout;
        let x = Array::random(&mut random, Dtype::BF16, 4, inputs);
        let routes: Vec<_> = (0..9)
            .map(|_| Route {
                row: random.below(4) as u32,
                expert: random.below(5) as u32,
            })
            .collect();
        let all = ExpertMatrix::Packed {
            layout,
            stride: layout.nbytes(),
            data: &data,
        };
        for path in Path::available().filter(|&path| path != Path::Amx) {
            let kernels = Kernels::with_path(path, 2);
            let mut y = Array::zeros(Dtype::BF16, routes.len(), 21);
            assert!(kernels.expert_matmul(&x.view(), &all, &routes, &mut y.view_mut()));
            for (index, route) in routes.iter().enumerate() {
                let packed = experts[route.expert as usize].pack();
                let packed = Packed::new(layout, &packed).expect("its size");
                let one = Array::new(Dtype::BF16, 1, inputs, |_, k| {
                    x.get(route.row as usize, k) as f32
                });
                let mut wanted = Array::zeros(Dtype::BF16, 1, 21);
                kernels.quantized_matmul(&one.view(), &packed, &mut wanted.view_mut());
                assert_eq!(
                    y.bytes[index * 42..(index + 1) * 42],
                    wanted.bytes,
                    "{path:?}"
                );
            }
            for (row, expert) in [(4, 0), (0, 5)] {
                let bad = [Route { row, expert }];
                let mut y = Array::zeros(Dtype::BF16, 1, 21);
                assert!(!kernels.expert_matmul(&x.view(), &all, &bad, &mut y.view_mut()));
            }
        }
    }
}

#[test]
fn plain_experts_are_the_single_products() {
    let mut random = Random(82);
    let weights = Array::random(&mut random, Dtype::BF16, 4 * 19, 50);
    let x = Array::random(&mut random, Dtype::F32, 3, 50);
    let routes = [(2, 3), (0, 1), (2, 1), (1, 3)].map(|(row, expert)| Route { row, expert });
    let experts = ExpertMatrix::Dense {
        weights: weights.view(),
        outputs: 19,
    };
    let kernels = Kernels::new(2);
    let mut y = Array::zeros(Dtype::F32, 4, 19);
    assert!(kernels.expert_matmul(&x.view(), &experts, &routes, &mut y.view_mut()));
    for (index, route) in routes.iter().enumerate() {
        for output in 0..19 {
            let wanted: f64 = (0..50)
                .map(|k| {
                    let weight = weights.get(route.expert as usize * 19 + output, k);
                    x.get(route.row as usize, k) * weight
                })
                .sum();
            assert!((y.get(index, output) - wanted).abs() < 1e-4);
        }
    }
}
