use super::support::{rounding, schemes, smallest, Array, Matrix, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{ExpertMatrix, Floats, Kernels, Packed, Path, Route};

/// Routes of so many rows: few experts get many, some get none, and some rows go to one expert twice.
fn routes(random: &mut Random, count: usize, rows: usize, experts: usize) -> Vec<Route> {
    (0..count)
        .map(|_| {
            let expert = random.below(experts).min(random.below(experts));
            Route {
                row: random.below(rows) as u32,
                expert: expert as u32,
            }
        })
        .collect()
}

fn row(x: &Array, index: usize) -> Floats<'_> {
    let bytes = x.width * x.dtype.size() as usize;
    Floats::new(&x.bytes[index * bytes..][..bytes], x.dtype, 1, x.width).expect("its size")
}

#[test]
fn what_a_route_gives_does_not_depend_on_the_others() {
    let mut random = Random(83);
    for scheme in schemes() {
        let inputs = 3 * scheme.group_size.max(32) as usize;
        let dtype = random.pick(&FLOATS);
        let outputs = random.pick(&[21, 64]);
        let experts: Vec<Matrix> = (0..7)
            .map(|_| Matrix::random(&mut random, scheme, dtype, outputs, inputs))
            .collect();
        let layout = experts[0].layout;
        // One after the other, with gaps.
        let stride = layout.nbytes().next_multiple_of(64) + 64;
        let mut data = Vec::new();
        for expert in &experts {
            data.extend(expert.pack());
            data.resize(data.len().next_multiple_of(stride), 0xff);
        }
        let all = ExpertMatrix::Packed {
            layout,
            stride,
            data: &data,
        };
        assert_eq!(all.count(), 7);
        for (rows, count) in [(1, 5), (1, 1), (3, 0), (4, 20), (9, 60)] {
            let routes = routes(&mut random, count, rows, 7);
            let from = random.pick(&FLOATS);
            let x = Array::random(&mut random, from, rows, inputs);
            // Tiles of AMX take 16 rows or more and round otherwise.
            for path in Path::available().filter(|&path| path != Path::Amx) {
                let mut y = Array::zeros(from, count, outputs);
                let kernels = Kernels::with_path(path, random.pick(&[1, 2]));
                assert!(kernels.expert_matmul(&x.view(), &all, &routes, &mut y.view_mut()));
                let bytes = outputs * from.size() as usize;
                for (index, route) in routes.iter().enumerate() {
                    let packed = &data[route.expert as usize * stride..][..layout.nbytes()];
                    let packed = Packed::new(layout, packed).expect("its size");
                    let mut wanted = Array::zeros(from, 1, outputs);
                    let x = row(&x, route.row as usize);
                    kernels.quantized_matmul(&x, &packed, &mut wanted.view_mut());
                    assert_eq!(
                        y.bytes[index * bytes..][..bytes],
                        wanted.bytes,
                        "{path:?} {scheme:?} {rows} rows, {count} routes"
                    );
                }
            }
        }
    }
}

#[test]
fn plain_experts_give_what_their_rows_give_alone() {
    let mut random = Random(84);
    for (weight, from) in FLOATS.iter().flat_map(|&a| FLOATS.map(|b| (a, b))) {
        for (outputs, inputs) in [(19, 50), (33, 128), (16, 7)] {
            let weights = Array::random(&mut random, weight, 5 * outputs, inputs);
            let x = Array::random(&mut random, from, 6, inputs);
            let all = ExpertMatrix::Dense {
                weights: weights.view(),
                outputs,
            };
            let routes = routes(&mut random, 30, 6, 5);
            for path in Path::available().filter(|&path| path != Path::Amx) {
                let kernels = Kernels::with_path(path, 2);
                let mut y = Array::zeros(Dtype::F32, 30, outputs);
                assert!(kernels.expert_matmul(&x.view(), &all, &routes, &mut y.view_mut()));
                for (index, route) in routes.iter().enumerate() {
                    let own = route.expert as usize * outputs;
                    let one = weights.view().some_rows(own, outputs);
                    let mut wanted = Array::zeros(Dtype::F32, 1, outputs);
                    kernels.matmul(&row(&x, route.row as usize), &one, &mut wanted.view_mut());
                    let bytes = 4 * outputs;
                    assert_eq!(y.bytes[index * bytes..][..bytes], wanted.bytes, "{path:?}");
                }
            }
        }
    }
}

/// So many rows that they are cut into pieces, and more than are made ready at once.
#[test]
fn many_rows_are_taken_in_pieces() {
    let mut random = Random(85);
    let inputs = 4096;
    let weights = Array::random(&mut random, Dtype::F32, 2 * 16, inputs);
    let x = Array::random(&mut random, Dtype::F32, 3, inputs);
    let all = ExpertMatrix::Dense {
        weights: weights.view(),
        outputs: 16,
    };
    let routes: Vec<Route> = (0..1300)
        .map(|i| Route {
            row: i % 3,
            expert: (i / 3) % 2,
        })
        .collect();
    let kernels = Kernels::new(2);
    let mut y = Array::zeros(Dtype::F32, routes.len(), 16);
    assert!(kernels.expert_matmul(&x.view(), &all, &routes, &mut y.view_mut()));
    let mut few = Array::zeros(Dtype::F32, 6, 16);
    assert!(kernels.expert_matmul(&x.view(), &all, &routes[..6], &mut few.view_mut()));
    for (index, row) in y.bytes.chunks(64).enumerate() {
        assert_eq!(row, &few.bytes[index % 6 * 64..][..64]);
    }
}

#[test]
fn data_that_is_too_short_holds_fewer_experts() {
    let mut random = Random(86);
    let matrix = Matrix::random(&mut random, schemes()[0], Dtype::F32, 16, 64);
    let layout = matrix.layout;
    let data = vec![0; 3 * layout.nbytes()];
    let count = |len: usize, stride| {
        let data = &data[..len];
        ExpertMatrix::Packed {
            layout,
            stride,
            data,
        }
        .count()
    };
    let n = layout.nbytes();
    assert_eq!(
        (count(3 * n, n), count(3 * n - 1, n), count(n, n)),
        (3, 2, 1)
    );
    assert_eq!(
        (count(n - 1, n), count(0, n), count(3 * n, n - 1)),
        (0, 0, 0)
    );
    assert_eq!(count(2 * n + 8, n + 8), 2);
}

/// Within f32's own rounding of the sums, and the result's.
#[test]
fn gradients_flow_back_through_each_route() {
    let mut random = Random(87);
    for (round, scheme) in schemes().into_iter().enumerate() {
        let (inputs, outputs) = (2 * scheme.group_size.max(32) as usize, 37);
        let of: Vec<Matrix> = (0..3)
            .map(|_| Matrix::random(&mut random, scheme, Dtype::F32, outputs, inputs))
            .collect();
        let layout = of[0].layout;
        let data: Vec<u8> = of.iter().flat_map(Matrix::pack).collect();
        let all = ExpertMatrix::Packed {
            layout,
            stride: layout.nbytes(),
            data: &data,
        };
        let dtype = FLOATS[round % 3];
        let routes = routes(&mut random, 14, 4, 3);
        let dy = Array::random(&mut random, dtype, 14, outputs);
        for path in Path::available() {
            let kernels = Kernels::with_path(path, 2);
            // A row without a route gets zeros.
            let mut dx = Array::new(dtype, 5, inputs, |_, _| 7.0);
            let to = &mut dx.view_mut();
            assert!(kernels.expert_product_transposed(&dy.view(), &all, &routes, to));
            for row in 0..5 {
                for i in 0..inputs {
                    let (mut wanted, mut size) = (0.0, 0.0);
                    let own = routes.iter().enumerate();
                    for (index, route) in own.filter(|(_, route)| route.row == row) {
                        for output in 0..outputs {
                            let weight = of[route.expert as usize].weight(output, i);
                            wanted += dy.get(index, output) * weight.value;
                            size += dy.get(index, output).abs() * weight.terms;
                        }
                    }
                    let bound = size * 2.0_f64.powi(-17);
                    let bound = bound + (wanted.abs() + bound) * rounding(dtype) + smallest(dtype);
                    let error = (dx.get(row as usize, i) - wanted).abs();
                    assert!(
                        error <= bound,
                        "{path:?} {scheme:?}: {error:e} over {bound:e}"
                    );
                }
            }
            for (row, expert) in [(5, 0), (0, 3)] {
                let mut bad = routes.clone();
                bad[3] = Route { row, expert };
                let to = &mut dx.view_mut();
                assert!(!kernels.expert_product_transposed(&dy.view(), &all, &bad, to));
            }
        }
    }
}
