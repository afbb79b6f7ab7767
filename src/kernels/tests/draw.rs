//! The same on every path; that it is what MLX's operations give is held in `sampling/tests.rs`.

use super::support::{Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Draw, Kernels, Path};

fn draw(path: Path, logits: &Array, draw: Draw) -> u32 {
    Kernels::with_path(path, 2).draw(&logits.view(), draw).token
}

/// On every path, in every type, at every place in a row: NaN and +infinity show in the level, -infinity does not.
#[test]
fn what_is_not_finite_shows_in_the_level() {
    let plain = Draw {
        sharpness: None,
        top_p: None,
        min_p: None,
        top_k: None,
        seed: 0,
    };
    let draws = [
        plain,
        Draw {
            sharpness: Some(1.0),
            top_p: Some(0.9),
            top_k: Some(3),
            ..plain
        },
    ];
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 1);
        let levels = |logits: &Array| {
            let logits = logits.view();
            let drawn = draws.map(|draw| kernels.draw(&logits, draw).level);
            [kernels.level(&logits), drawn[0], drawn[1]]
        };
        for dtype in FLOATS {
            for n in [1, 15, 16, 37] {
                for at in 0..n {
                    let with = |odd: f32, other: f32| {
                        levels(&Array::new(dtype, 1, n, |_, i| {
                            if i == at {
                                odd
                            } else {
                                other - i as f32
                            }
                        }))
                    };
                    for odd in [f32::NAN, -f32::NAN, f32::INFINITY] {
                        for other in [3.0, f32::NEG_INFINITY] {
                            let found = with(odd, other);
                            assert!(found.iter().all(|level| !level.is_finite()), "{path:?}");
                        }
                    }
                    let banned = with(f32::NEG_INFINITY, 100.0);
                    let left = if n == 1 {
                        f32::NEG_INFINITY
                    } else {
                        100.0 - f32::from(u8::from(at == 0))
                    };
                    assert_eq!(banned, [left; 3], "{path:?} {dtype:?} {at} of {n}");
                    assert_eq!(with(2.0, f32::NEG_INFINITY), [2.0; 3], "{path:?}");
                }
                let none = levels(&Array::new(dtype, 1, n, |_, _| f32::NEG_INFINITY));
                assert_eq!(none, [f32::NEG_INFINITY; 3], "{path:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn every_path_draws_the_same() {
    let mut random = Random(5);
    for (round, n) in [1, 3, 16, 100, 1037]
        .into_iter()
        .cycle()
        .take(40)
        .enumerate()
    {
        let logits = Array::new(FLOATS[round % 3], 1, n, |_, _| 6.0 * random.float());
        for filters in 0..16 {
            let on = |bit: u32| filters >> bit & 1 == 1;
            let options = Draw {
                sharpness: (filters != 15).then_some(if on(3) { 3.0 } else { 0.7 }),
                top_p: on(0).then_some(0.8),
                min_p: on(1).then_some(0.05),
                top_k: on(2).then_some(5),
                seed: random.bits(),
            };
            let token = draw(Path::Portable, &logits, options);
            assert!((token as usize) < n);
            for path in Path::available() {
                assert_eq!(draw(path, &logits, options), token, "{path:?}, {options:?}");
            }
        }
    }
}

#[test]
fn filters_keep_the_most_likely() {
    // Probabilities 1/2, 1/4, 1/8 and twice 1/16, in another order.
    let weights = [1.0 / 16.0, 0.5, 1.0 / 16.0, 0.125, 0.25_f32];
    let logits = Array::new(Dtype::F32, 1, 5, |_, i| weights[i].ln());
    let kept = |top_p: Option<f32>, min_p: Option<f32>, top_k: Option<usize>| {
        let mut seen = [false; 5];
        for seed in 0..400 {
            let options = Draw {
                sharpness: Some(0.5),
                top_p,
                min_p,
                top_k,
                seed,
            };
            seen[draw(Path::best(), &logits, options) as usize] = true;
        }
        seen
    };
    let (t, f) = (true, false);
    assert_eq!(kept(None, None, None), [t, t, t, t, t]);
    assert_eq!(kept(Some(0.4), None, None), [f, t, f, f, f]);
    assert_eq!(kept(Some(0.6), None, None), [f, t, f, f, t]);
    assert_eq!(kept(Some(0.8), None, None), [f, t, f, t, t]);
    // Of equals both, where one is needed.
    assert_eq!(kept(Some(0.9), None, None), [t, t, t, t, t]);
    assert_eq!(kept(None, Some(0.3), None), [f, t, f, f, t]);
    assert_eq!(kept(None, None, Some(1)), [f, t, f, f, f]);
    // Of equals the first.
    assert_eq!(kept(None, None, Some(4)), [t, t, f, t, t]);
    assert_eq!(kept(None, None, Some(9)), [t, t, t, t, t]);
    assert_eq!(kept(Some(0.8), Some(0.01), Some(2)), [f, t, f, f, t]);
}

#[test]
#[should_panic(expected = "draw: 2 rows")]
fn one_row_is_drawn_from() {
    let logits = Array::new(Dtype::F32, 2, 4, |_, _| 0.0);
    let options = Draw {
        sharpness: None,
        top_p: None,
        min_p: None,
        top_k: None,
        seed: 0,
    };
    draw(Path::Portable, &logits, options);
}
