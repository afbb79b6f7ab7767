use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::{HeadShape, Heads, HeadsMut, Kernels, Path, Rope};

#[test]
fn every_kind_on_every_order() {
    let mut random = Random(40);
    for path in Path::available() {
        for (heads, tokens, dim, dims) in [
            (1, 1, 64, 64),
            (3, 5, 128, 128),
            (2, 4, 80, 80),
            (4, 3, 64, 32),
            (2, 1, 6, 6),
            (2, 2, 10, 4),
            (2, 0, 8, 8),
        ] {
            for traditional in [false, true] {
                for table in [false, true] {
                    let (from, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
                    let offset = random.pick(&[0, 1, 77, 4096, 100_000]);
                    let scale = random.pick(&[1.0, 0.125]);
                    let wavelengths: Vec<f32> = (0..dims / 2)
                        .map(|i| 10_000.0_f32.powf(2.0 * i as f32 / dims as f32))
                        .collect();
                    let rope = if table {
                        Rope::from_wavelengths(traditional, scale, &wavelengths)
                    } else {
                        Rope::from_base(dims, traditional, scale, 10_000.0)
                    };
                    let x = Array::random(&mut random, from, heads * tokens, dim);
                    // Into the middle of a cache with room for three tokens more.
                    let room = tokens + 3;
                    let mut y = Array::new(to, heads * room, dim, |_, _| 9.0);
                    let x_shape = HeadShape::tokens_first(heads, tokens, dim);
                    let y_shape = HeadShape {
                        head_stride: room * dim,
                        ..HeadShape::heads_first(heads, tokens, dim)
                    };
                    let kernels = Kernels::with_path(path, 2);
                    let input = Heads::new(&x.bytes, from, x_shape).expect("sizes");
                    let mut output = HeadsMut::new(&mut y.bytes, to, y_shape).expect("sizes");
                    // Twice: the second finds the turns kept.
                    for _ in 0..2 {
                        kernels.rope(&rope, &input, offset, &mut output);
                    }
                    for head in 0..heads {
                        for token in 0..room {
                            for i in 0..dim {
                                let got = y.get(head * room + token, i);
                                if token >= tokens {
                                    assert_eq!(got, 9.0);
                                    continue;
                                }
                                let at = |i| x.get(token * heads + head, i);
                                let half = dims / 2;
                                let (pair, other, sign) = match (traditional, i) {
                                    (_, i) if i >= dims => (0, i, 0.0),
                                    (true, i) if i % 2 == 0 => (i / 2, i + 1, -1.0),
                                    (true, i) => (i / 2, i - 1, 1.0),
                                    (false, i) if i < half => (i, i + half, -1.0),
                                    (false, i) => (i - half, i - half, 1.0),
                                };
                                let frequency = if table {
                                    1.0 / f64::from(wavelengths[pair])
                                } else {
                                    10_000.0_f64.powf(-2.0 * pair as f64 / dims as f64)
                                };
                                let angle =
                                    f64::from(scale) * f64::from(offset + token as i32) * frequency;
                                let wanted = if i >= dims {
                                    at(i)
                                } else {
                                    at(i) * angle.cos() + sign * at(other) * angle.sin()
                                };
                                let size = at(i).abs() + at(other).abs();
                                let bound = size * 2.0_f64.powi(-22);
                                let bound =
                                    bound + (wanted.abs() + bound) * rounding(to) + smallest(to);
                                let error = (got - wanted).abs();
                                assert!(
                                    error <= bound,
                                    "{path:?} {traditional} {i}: {wanted} {got}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn in_place_is_the_same() {
    let mut random = Random(41);
    let rope = Rope::from_base(64, false, 1.0, 1e6);
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 1);
        for dtype in FLOATS {
            let mut x = Array::random(&mut random, dtype, 6, 64);
            let mut y = Array::zeros(dtype, 6, 64);
            let shape = HeadShape::heads_first(2, 3, 64);
            let input = Heads::new(&x.bytes, dtype, shape).expect("sizes");
            kernels.rope(
                &rope,
                &input,
                5,
                &mut HeadsMut::new(&mut y.bytes, dtype, shape).expect("sizes"),
            );
            let data = x.bytes.as_mut_ptr();
            // SAFETY: rope reads a pair before it writes it, on the thread that does both.
            let (input, mut output) = unsafe {
                (
                    Heads::from_raw(data, dtype, shape),
                    HeadsMut::from_raw(data, dtype, shape),
                )
            };
            kernels.rope(&rope, &input, 5, &mut output);
            assert_eq!(x.bytes, y.bytes);
        }
    }
}
