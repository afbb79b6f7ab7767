//! What the kernels are held to as operations of MLX: bits that come back, strides, errors. What they compute is held in
//! `kernels/tests` and, with whole models, in `runtime/tests/parity.rs`.

use super::*;
use crate::mlx::{self, grad, ops, Device, HostBuffer};

pub(super) fn with_kernels(work: impl FnOnce()) {
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    start(Kernels::new(2));
    work();
    mlx::leave();
}

/// SplitMix64's bytes.
fn random(seed: u64, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(8) as u64).map(|i| {
        let mut x = (seed + i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    });
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// An array of random bits.
fn bits(seed: u64, shape: &[i32], dtype: Dtype) -> Array {
    let len = shape.iter().product::<i32>() as usize * dtype.size() as usize;
    array_of(&random(seed, len), shape, dtype)
}

fn array_of(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Array {
    let name = format!(
        "mlxrt-fast-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    );
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let mut buffer = HostBuffer::new(bytes.len()).unwrap();
    while buffer.read_some(&file, 0, bytes.len()).unwrap() > 0 {}
    buffer.into_array(shape, dtype).unwrap()
}

/// All that MLX knows, and the types of their scales.
fn schemes() -> Vec<(Scheme, Dtype)> {
    let scheme = |mode, bits, group_size| Scheme {
        mode,
        bits,
        group_size,
    };
    let mut all = vec![
        (scheme(Mode::Mxfp4, 4, 32), Dtype::U8),
        (scheme(Mode::Mxfp8, 8, 32), Dtype::U8),
        (scheme(Mode::Nvfp4, 4, 16), Dtype::U8),
    ];
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
                all.push((scheme(Mode::Affine, bits, group), dtype));
            }
        }
    }
    all
}

#[test]
fn packed_weights_come_back_bit_by_bit() {
    with_kernels(|| {
        for (seed, (scheme, dtype)) in schemes().into_iter().enumerate() {
            let seed = 1000 * seed as u64;
            for (rows, groups) in [(1, 1), (17, 3), (48, 2)] {
                let inputs = groups * scheme.group_size;
                let weight = bits(seed, &[rows, inputs * scheme.bits / 32], Dtype::U32);
                let scales = bits(seed + 300, &[rows, groups], dtype);
                let affine = scheme.mode == Mode::Affine;
                let biases = affine.then(|| bits(seed + 600, &[rows, groups], dtype));
                let packed = PackedMatrix::new(&weight, &scales, biases.as_ref(), scheme);
                let packed = packed.unwrap().expect("a scheme that the kernels know");
                let back = packed.unpack(0..i32::MAX).unwrap();
                let same = |a: &Array, b: &Array| {
                    assert_eq!(a.shape(), b.shape());
                    assert_eq!(a.dtype(), b.dtype());
                    assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{scheme:?}");
                };
                same(&back.0, &weight);
                same(&back.1, &scales);
                assert_eq!(back.2.is_some(), affine);
                if let (Some(back), Some(biases)) = (&back.2, &biases) {
                    same(back, biases);
                }
                // Also where a panel of the packed matrix begins before them or ends behind them.
                for range in [0..rows.min(16), rows / 2..rows, rows - 1..i32::MAX] {
                    let part = packed.unpack(range.clone()).unwrap();
                    let cut = |array: &Array| {
                        let end = range.end.min(rows);
                        ops::slice(array, &[range.start, 0], &[end, array.dim(1)]).unwrap()
                    };
                    same(&part.0, &cut(&weight));
                    same(&part.1, &cut(&scales));
                    if let (Some(part), Some(biases)) = (&part.2, &biases) {
                        same(part, &cut(biases));
                    }
                }
            }
        }
    });
}

pub(super) fn numbers(shape: &[i32]) -> Array {
    let count = shape.iter().product::<i32>();
    let values: Vec<f32> = (0..count)
        .map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0)
        .collect();
    ops::reshape(&Array::from_f32(&values).unwrap(), shape).unwrap()
}

#[test]
fn arrays_of_any_strides_are_taken() {
    with_kernels(|| {
        let (x, w) = (numbers(&[9, 40]), numbers(&[12, 33]));
        let views = [
            ops::slice(&x, &[2, 5], &[7, 38]).unwrap(),
            ops::transpose(&numbers(&[33, 6]), &[1, 0]).unwrap(),
            ops::slice(&x, &[3, 0], &[3, 33]).unwrap(),
        ];
        for view in views {
            let copy = ops::contiguous(&view).unwrap();
            let (a, b) = (linear(&view, &w).unwrap(), linear(&copy, &w).unwrap());
            assert_eq!(a.shape(), [view.dim(0), 12]);
            assert_eq!(a.to_f32().unwrap(), b.to_f32().unwrap());
            let plain = ops::matmul(&copy, &ops::transpose(&w, &[1, 0]).unwrap()).unwrap();
            for (a, b) in a.to_f32().unwrap().iter().zip(plain.to_f32().unwrap()) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    });
}

fn failure(array: &Array) -> String {
    let outcome = mlx::eval(&[array]).and_then(|()| mlx::synchronize());
    mlx::enter(Device::Cpu).unwrap();
    outcome.unwrap_err().to_string()
}

// In one test: two threads that fail at the same time may take each other's error.
#[test]
fn a_kernel_that_fails_fails_the_evaluation() {
    with_kernels(|| {
        let scheme = Scheme {
            mode: Mode::Affine,
            bits: 4,
            group_size: 64,
        };
        let (weight, scales) = (bits(1, &[5, 8], Dtype::U32), numbers(&[5, 1]));
        let packed = PackedMatrix::new(&weight, &scales, Some(&scales), scheme);
        let packed = packed.unwrap().unwrap();
        for row in [5, -1, i32::MAX] {
            let rows = packed.rows(&Array::from_i32(&[0, row]).unwrap()).unwrap();
            let error = failure(&rows);
            assert!(error.contains("there is no such row"), "{error}");
        }
        // Shapes that do not fit are a panic inside.
        let error = failure(&packed.product(&numbers(&[2, 63])).unwrap());
        assert!(error.contains("quantized_matmul"), "{error}");
        let rows = packed.rows(&Array::from_i32(&[4]).unwrap()).unwrap();
        assert_eq!(rows.to_f32().unwrap().len(), 64);

        let weight = ops::reshape(&weight, &[1, 5, 8]).unwrap();
        let scales = ops::reshape(&scales, &[1, 5, 1]).unwrap();
        let packed = PackedExperts::new(&weight, &scales, Some(&scales), scheme);
        let packed = packed.unwrap().unwrap();
        let indices = |experts: &[i32]| {
            let experts = Array::from_i32(experts).unwrap();
            ops::reshape(&experts, &[-1, 2]).unwrap()
        };
        for bad in [1, -1, i32::MAX] {
            let y = packed.product(&numbers(&[1, 1, 64]), &indices(&[0, bad]));
            let error = failure(&y.unwrap());
            assert!(error.contains("there is no such expert"), "{error}");
        }
        let y = packed.product(&numbers(&[2, 1, 64]), &indices(&[0; 6]));
        let error = failure(&y.unwrap());
        assert!(error.contains("6 experts for 2 rows"), "{error}");
    });
}

#[test]
fn without_kernels_nothing_is_packed_and_nothing_queued() {
    mlx::install_error_handler();
    mlx::enter(Device::Cpu).unwrap();
    let scheme = Scheme {
        mode: Mode::Affine,
        bits: 4,
        group_size: 64,
    };
    let (weight, scales) = (bits(1, &[5, 8], Dtype::U32), numbers(&[5, 1]));
    let packed = PackedMatrix::new(&weight, &scales, Some(&scales), scheme);
    assert!(packed.unwrap().is_none() && !active());
    assert!(linear(&scales, &scales).is_err());
    mlx::leave();
}

/// Sum of squares of `y(x)`, and its gradient.
fn gradient(x: &Array, y: impl Fn(&Array) -> Result<Array>) -> Result<Vec<f32>> {
    let work = |x: &[Array]| {
        let y = ops::astype(&y(&x[0])?, Dtype::F32)?;
        let size = y.shape().iter().product();
        let squares = ops::reshape(&ops::multiply(&y, &y)?, &[size])?;
        Ok(vec![ops::sum(&squares, 0, false)?])
    };
    let (_, gradients) = grad::value_and_grad(work, std::slice::from_ref(x))?;
    ops::astype(&gradients[0], Dtype::F32)?.to_f32()
}

/// By what frozen weights are multiplied by, as MLX's own operations give it.
#[test]
fn products_have_gradients() {
    with_kernels(|| {
        let check = |x: &Array, w: &Array, y: &dyn Fn(&Array) -> Result<Array>, what: &str| {
            let wide = |array: &Array| ops::astype(array, Dtype::F32).unwrap();
            let transposed = ops::transpose(&wide(w), &[1, 0]).unwrap();
            let exact = gradient(&wide(x), |x| ops::matmul(x, &transposed)).unwrap();
            let largest = exact.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            // y is rounded in 16 bits, and so is the result.
            let bound = largest * if x.dtype() == Dtype::F32 { 1e-5 } else { 0.02 };
            assert!(largest > 0.0);
            for (ours, exact) in gradient(x, y).unwrap().iter().zip(exact) {
                let error = (ours - exact).abs();
                assert!(
                    error <= bound,
                    "{what}: {ours}, not {exact}, allowed {bound}"
                );
            }
        };
        for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
            let cast = |array: Array| ops::astype(&array, dtype).unwrap();
            let (x, w) = (cast(numbers(&[2, 3, 70])), cast(numbers(&[33, 70])));
            check(&x, &w, &|x| linear(x, &w), "dense");
            for (seed, (scheme, scales)) in schemes().into_iter().enumerate() {
                if scheme.mode == Mode::Affine && scales != dtype {
                    continue;
                }
                // MLX unpacks scales of 8 bits four at a time.
                let (rows, groups) = (36, 3);
                let inputs = groups * scheme.group_size;
                let words = [rows, inputs * scheme.bits / 32];
                let weight = bits(7000 + 1000 * seed as u64, &words, Dtype::U32);
                // Of random bits as scales some would be NaN.
                let scales = match scheme.mode {
                    // Small, so that no gradient is too large for f16.
                    Mode::Affine => {
                        let small = Array::scalar(1.0 / 64.0, Dtype::F32).unwrap();
                        cast(ops::multiply(&numbers(&[rows, groups]), &small).unwrap())
                    }
                    Mode::Nvfp4 => array_of(&[50; 108], &[rows, groups], Dtype::U8),
                    _ => array_of(&[124; 108], &[rows, groups], Dtype::U8),
                };
                let biases = (scheme.mode == Mode::Affine).then(|| scales.clone());
                let packed = PackedMatrix::new(&weight, &scales, biases.as_ref(), scheme);
                let packed = packed.unwrap().expect("a scheme that the kernels know");
                let w = ops::dequantize(&weight, &scales, biases.as_ref(), scheme).unwrap();
                let x = cast(numbers(&[2, inputs]));
                check(
                    &x,
                    &w,
                    &|x| packed.product(x),
                    &format!("{dtype:?} {scheme:?}"),
                );
            }
        }
    });
}

#[test]
fn other_gradients_are_refused() {
    with_kernels(|| {
        let (x, w) = (numbers(&[2, 8]), numbers(&[4, 8]));
        // By the weights.
        let error = gradient(&w, |w| linear(&x, w)).unwrap_err();
        assert!(error.to_string().contains("has no gradient"), "{error}");
        let error = gradient(&x, |x| rms_norm(x, None, 1e-5)).unwrap_err();
        assert!(error.to_string().contains("has no gradient"), "{error}");
    });
}

/// `[experts, out, in]` in 4 bits, and what they are.
fn experts(
    seed: u64,
    [experts, out, groups]: [i32; 3],
    scheme: Scheme,
    scales: Dtype,
) -> [Array; 3] {
    let words = groups * scheme.group_size * scheme.bits / 32;
    [
        bits(seed, &[experts, out, words], Dtype::U32),
        bits(seed + 300, &[experts, out, groups], scales),
        bits(seed + 600, &[experts, out, groups], scales),
    ]
}

#[test]
fn packed_experts_come_back_bit_by_bit() {
    with_kernels(|| {
        for (seed, (scheme, dtype)) in schemes().into_iter().enumerate() {
            let [weight, scales, biases] = experts(1000 * seed as u64, [5, 21, 3], scheme, dtype);
            let biases = (scheme.mode == Mode::Affine).then_some(biases);
            let packed = PackedExperts::new(&weight, &scales, biases.as_ref(), scheme);
            let packed = packed.unwrap().expect("a scheme that the kernels know");
            for range in [0..5, 1..3, 4..i32::MAX] {
                let back = packed.unpack(range.clone()).unwrap();
                let same = |back: &Array, all: &Array| {
                    let [_, rows, columns] = all.shape() else {
                        panic!("three dimensions");
                    };
                    let end = [range.end.min(5), *rows, *columns];
                    let part = ops::slice(all, &[range.start, 0, 0], &end).unwrap();
                    assert_eq!(back.shape(), part.shape());
                    assert_eq!(back.dtype(), part.dtype());
                    assert_eq!(
                        back.to_bytes().unwrap(),
                        part.to_bytes().unwrap(),
                        "{scheme:?}"
                    );
                };
                same(&back.0, &weight);
                same(&back.1, &scales);
                assert_eq!(back.2.is_some(), biases.is_some());
                if let (Some(back), Some(biases)) = (&back.2, &biases) {
                    same(back, biases);
                }
            }
        }
    });
}

/// Each of what rows choose, beside the product with that expert alone.
#[test]
fn products_with_experts_are_those_of_each() {
    with_kernels(|| {
        let scheme = Scheme {
            mode: Mode::Affine,
            bits: 4,
            group_size: 32,
        };
        let weight = bits(5, &[4, 18, 8], Dtype::U32);
        let scales = numbers(&[4, 18, 2]);
        let packed = PackedExperts::new(&weight, &scales, Some(&scales), scheme);
        let packed = packed.unwrap().expect("a known scheme");
        let plain = numbers(&[4, 18, 64]);
        let chosen = [3, 0, 1, 1, 2, 3];
        let indices = Array::from_i32(&chosen).unwrap();
        let indices = ops::reshape(&indices, &[1, 3, 2]).unwrap();
        for share in [1, 2] {
            // One row of x for both choices, or one for each.
            let x = numbers(&[1, 3, share, 64]);
            let both = [
                packed.product(&x, &indices).unwrap(),
                expert_linear(&x, &plain, &indices).unwrap(),
            ];
            for y in &both {
                assert_eq!(y.shape(), [1, 3, 2, 18]);
            }
            let both = both.map(|y| y.to_f32().unwrap());
            for (index, &expert) in chosen.iter().enumerate() {
                let of = |array: &Array| {
                    let [_, rows, columns] = *array.shape() else {
                        panic!("three dimensions");
                    };
                    let (from, to) = ([expert, 0, 0], [expert + 1, rows, columns]);
                    let one = ops::slice(array, &from, &to).unwrap();
                    ops::reshape(&one, &[rows, columns]).unwrap()
                };
                let row = index as i32 * share / 2;
                let rows = ops::reshape(&x, &[3 * share, 64]).unwrap();
                let row = ops::slice(&rows, &[row, 0], &[row + 1, 64]).unwrap();
                let one = PackedMatrix::new(&of(&weight), &of(&scales), Some(&of(&scales)), scheme);
                let wanted = [
                    one.unwrap().unwrap().product(&row).unwrap(),
                    linear(&row, &of(&plain)).unwrap(),
                ];
                for (y, wanted) in both.iter().zip(&wanted) {
                    let own = &y[index * 18..(index + 1) * 18];
                    assert_eq!(own, wanted.to_f32().unwrap());
                }
            }
        }
        // By x: what MLX's own operations give, one expert after the other.
        for share in [1, 2] {
            let x = numbers(&[1, 3, share, 64]);
            let unpacked = ops::dequantize(&weight, &scales, Some(&scales), scheme).unwrap();
            for (weights, packed) in [(&unpacked, Some(&packed)), (&plain, None)] {
                let ours = |x: &Array| match packed {
                    Some(packed) => packed.product(x, &indices),
                    None => expert_linear(x, &plain, &indices),
                };
                let exact = |x: &Array| {
                    let transposed =
                        ops::transpose(&ops::take(weights, &indices)?, &[0, 1, 2, 4, 3])?;
                    let rows = ops::reshape(x, &[1, 3, share, 1, 64])?;
                    ops::reshape(&ops::matmul(&rows, &transposed)?, &[1, 3, 2, 18])
                };
                let exact = gradient(&x, exact).unwrap();
                let largest = exact.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                for (ours, exact) in gradient(&x, ours).unwrap().iter().zip(exact) {
                    assert!(
                        (ours - exact).abs() <= 1e-5 * largest,
                        "{ours}, not {exact}"
                    );
                }
            }
        }
    });
}

/// A half without attention as one operation, and operation by operation.
#[test]
fn a_mixture_is_the_same_in_one_operation_and_in_many() {
    with_kernels(|| {
        let scheme = Scheme {
            mode: Mode::Affine,
            bits: 4,
            group_size: 32,
        };
        for dtype in [Dtype::F32, Dtype::BF16] {
            let cast = |array: Array| ops::astype(&array, dtype).unwrap();
            let pack = |seed, out: i32, inputs: i32| {
                let weight = bits(seed, &[8, out, inputs / 8], Dtype::U32);
                let small = Array::scalar(1.0 / 16.0, Dtype::F32).unwrap();
                let scales = ops::multiply(&numbers(&[8, out, inputs / 32]), &small).unwrap();
                let scales = cast(scales);
                let packed = PackedExperts::new(&weight, &scales, Some(&scales), scheme);
                packed.unwrap().expect("a known scheme")
            };
            let (gate, up, down) = (pack(1, 32, 64), pack(2, 32, 64), pack(3, 64, 32));
            let bias = cast(numbers(&[8, 32]));
            let (router, shared_gate) = (cast(numbers(&[8, 64])), cast(numbers(&[1, 64])));
            let (up_proj, down_proj) = (cast(numbers(&[48, 64])), cast(numbers(&[64, 48])));
            let norm = cast(numbers(&[64]));
            let x = cast(numbers(&[1, 5, 64]));
            let routing = kernels::Routing {
                top_k: 3,
                score: kernels::Score::Sigmoid,
                selection_bias: Some(&numbers(&[8])),
                groups: None,
                normalise: true,
                scaling: 2.0,
            };

            let input = rms_norm(&x, Some(&norm), 1e-5).unwrap();
            // The kernel's logits are f32: so are those of an x and weights that were widened, when they are exact.
            let wide = |array: &Array| ops::astype(array, Dtype::F32).unwrap();
            let logits = linear(&wide(&input), &wide(&router)).unwrap();
            let (experts, weights) = route(&logits, &routing).unwrap();
            assert_eq!(
                (experts.shape(), experts.dtype()),
                (&[1, 5, 3][..], Dtype::I32)
            );
            let rows = ops::reshape(&input, &[1, 5, 1, 64]).unwrap();
            let chosen = |weight: &PackedExperts, rows: &Array| weight.product(rows, &experts);
            // Expert by expert what is added: rows of the bias by index.
            let of_bias = ops::take(&bias, &experts).unwrap();
            let gated_by = ops::add(&chosen(&gate, &rows).unwrap(), &of_bias).unwrap();
            let upped = chosen(&up, &rows).unwrap();
            let inner = gated(&gated_by, &upped, Activation::Silu).unwrap();
            let given = chosen(&down, &inner).unwrap();
            let own = activated(&linear(&input, &up_proj).unwrap(), Activation::Relu2).unwrap();
            let own = linear(&own, &down_proj).unwrap();
            let by = linear(&wide(&input), &wide(&shared_gate)).unwrap();
            let r = weighted_sum(&given, &weights, Some((&own, Some(&by)))).unwrap();
            let wanted = add_times(&x, &r, 0.5).unwrap();

            fn plain(weight: &Array) -> kernels::Linear<Matrix<'_>, &Array> {
                kernels::Linear {
                    weight: Matrix::Dense(weight),
                    bias: None,
                    low: Vec::new(),
                }
            }
            let expert = |weight, bias| kernels::ExpertLinear { weight, bias };
            let moe = kernels::Moe {
                router: plain(&router),
                routing,
                experts: kernels::Experts {
                    gate_up: kernels::GateUp::Apart {
                        gate_proj: expert(Matrix::PackedExperts(&gate), Some(&bias)),
                        up_proj: expert(Matrix::PackedExperts(&up), None),
                    },
                    down_proj: expert(Matrix::PackedExperts(&down), None),
                    activation: Activation::Silu,
                },
                shared: Some(kernels::Shared {
                    mlp: kernels::Mlp {
                        gate_up: kernels::GateUp::UpAlone(plain(&up_proj)),
                        down_proj: plain(&down_proj),
                        activation: Activation::Relu2,
                    },
                    gate: Some(plain(&shared_gate)),
                }),
            };
            let half = kernels::Half {
                norm: Some(kernels::Norm {
                    weight: &norm,
                    bias: None,
                    eps: 1e-5,
                    layer: false,
                }),
                part: kernels::Part::Moe(moe),
                post_norm: None,
                multiplier: 0.5,
                out_norm: None,
            };
            let halves = vec![half];
            let made = block(&x, &kernels::Block { halves }, Seen::Nothing, 5).unwrap();
            let f32s = |array: &Array| wide(array).to_f32().unwrap();
            assert_eq!(f32s(&made), f32s(&wanted), "{dtype:?}");
        }
    });
}
