//! The kernel and MLX's operations against each other; what each computes is held in `kernels/tests`.

use super::super::testing::{array, assert_close, f32s, random, with_kernels};
use super::*;

#[test]
fn short_convolutions_are_the_same_both_ways() {
    with_kernels(|| {
        for (k, n, channels) in [(4, 1, 40), (4, 9, 33), (2, 3, 5), (3, 70, 17), (4, 2, 1)] {
            for (dtype, bound) in [(Dtype::F32, 1e-6), (Dtype::BF16, 1.0 / 128.0)] {
                let made = |seed, shape: &[i32]| {
                    let len = shape.iter().product::<i32>() as usize;
                    ops::astype(&array(&random(seed, len), shape), dtype).unwrap()
                };
                let x = made(1, &[1, n, channels]);
                let taps = match n % 2 {
                    0 => made(2, &[channels, k]),
                    _ => made(2, &[channels, k, 1]),
                };
                let bias = (n % 3 > 0).then(|| made(3, &[channels]));
                let past = made(4, &[1, k - 1, channels]);
                for past in [Some(&past), None] {
                    for silu in [true, false] {
                        let run = |x: &Array, past: Option<&Array>| {
                            short_conv(x, past, &taps, bias.as_ref(), silu).unwrap()
                        };
                        let (y, last) = run(&x, past);
                        let plain = fast::plainly(|| run(&x, past));
                        assert_eq!((y.shape(), y.dtype()), (x.shape(), dtype));
                        assert_eq!(
                            (last.shape(), last.dtype()),
                            (&[1, k - 1, channels][..], dtype)
                        );
                        assert_eq!(last.to_bytes().unwrap(), plain.1.to_bytes().unwrap());
                        assert_close(&f32s(&y), &f32s(&plain.0), bound, "y");
                        // Two sequences at once, of which the second is the first without its first token.
                        let zeros = ops::zeros(&[1, 1, channels], dtype).unwrap();
                        let from = ops::slice(&x, &[0, 1, 0], &[1, n, channels]).unwrap();
                        let other = ops::concatenate(&[&from, &zeros], 1).unwrap();
                        let both = ops::concatenate(&[&x, &other], 0).unwrap();
                        let (pair, _) = run(&both, None);
                        let alone = fast::plainly(|| run(&other, None)).0;
                        let second = ops::slice(&pair, &[1, 0, 0], &[2, n, channels]).unwrap();
                        assert_close(&f32s(&second), &f32s(&alone), 0.0, "the second");
                        // Cut in two.
                        for at in 1..n.min(6) {
                            let cut = |first: i32, end: i32| {
                                ops::slice(&x, &[0, first, 0], &[1, end, channels]).unwrap()
                            };
                            let in_two = || {
                                let (head, middle) = run(&cut(0, at), past);
                                let (tail, end) = run(&cut(at, n), Some(&middle));
                                let whole = ops::concatenate(&[&head, &tail], 1).unwrap();
                                (f32s(&whole), f32s(&end))
                            };
                            assert_eq!(in_two(), (f32s(&y), f32s(&last)));
                            let plainly = fast::plainly(in_two);
                            assert_eq!(plainly, (f32s(&plain.0), f32s(&plain.1)));
                        }
                    }
                }
            }
        }
    });
}
