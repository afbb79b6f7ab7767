use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{AttentionOptions, HeadShape, Heads, HeadsMut, Kernels, Path, Visible};

/// One case: sizes, and what attention does beside products.
#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    queries: usize,
    tokens: usize,
    dim: usize,
    value_dim: usize,
    visible: Visible,
    softcap: Option<f32>,
    sinks: bool,
}

const CAUSAL: Visible = Visible::Causal { window: None };

fn window(window: usize) -> Visible {
    Visible::Causal {
        window: Some(window),
    }
}

/// Arrays of a case; keys and values lie in caches with spare room that holds NaN.
struct Arrays {
    q: Array,
    k: Array,
    v: Array,
    sinks: Array,
    room: usize,
}

impl Arrays {
    fn new(random: &mut Random, case: &Case, q: Dtype, kv: Dtype, spread: f32) -> Arrays {
        let room = case.tokens + 3;
        let mut cache = |dim| {
            Array::new(kv, case.kv_heads * room, dim, |row, _| {
                if row % room < case.tokens {
                    spread * random.float()
                } else {
                    f32::NAN
                }
            })
        };
        let (k, v) = (cache(case.dim), cache(case.value_dim));
        Arrays {
            q: Array::new(q, case.queries * case.heads, case.dim, |_, _| {
                spread * random.float()
            }),
            k,
            v,
            sinks: Array::random(random, Dtype::F32, 1, case.heads),
            room,
        }
    }
}

fn run(case: &Case, arrays: &Arrays, to: Dtype, path: Path, threads: usize) -> Array {
    run_in(case, arrays, to, (path, threads), None)
}

/// `first`: in two parts, of which the first has so many columns.
fn run_in(
    case: &Case,
    arrays: &Arrays,
    to: Dtype,
    (path, threads): (Path, usize),
    first: Option<usize>,
) -> Array {
    let cache = |dim| HeadShape {
        head_stride: arrays.room * dim,
        ..HeadShape::heads_first(case.kv_heads, case.tokens, dim)
    };
    let q = HeadShape::tokens_first(case.heads, case.queries, case.dim);
    let q = Heads::new(&arrays.q.bytes, arrays.q.dtype, q).expect("sizes");
    let k = Heads::new(&arrays.k.bytes, arrays.k.dtype, cache(case.dim)).expect("sizes");
    let v = Heads::new(&arrays.v.bytes, arrays.v.dtype, cache(case.value_dim)).expect("sizes");
    let mut out = Array::new(to, case.queries * case.heads, case.value_dim, |_, _| 3.0);
    let shape = HeadShape::tokens_first(case.heads, case.queries, case.value_dim);
    let options = AttentionOptions {
        scale: scale(case),
        visible: case.visible,
        softcap: case.softcap,
        sinks: case.sinks.then(|| arrays.sinks.view()),
    };
    let mut view = HeadsMut::new(&mut out.bytes, to, shape).expect("sizes");
    let kernels = Kernels::with_path(path, threads);
    let Some(first) = first else {
        kernels.attention(&q, &k, &v, options, &mut view);
        return out;
    };
    let part = |of: &Array, from: usize, width| {
        let column = |row, column| of.get(row, from + column) as f32;
        Array::new(of.dtype, of.rows, width, column)
    };
    let widths = [(0, first), (first, case.dim - first)];
    let queries = widths.map(|(from, width)| (part(&arrays.q, from, width), width));
    let queries = queries.each_ref().map(|(part, width)| {
        let shape = HeadShape::tokens_first(case.heads, case.queries, *width);
        Heads::new(&part.bytes, part.dtype, shape).expect("sizes")
    });
    let keys = widths.map(|(from, width)| (part(&arrays.k, from, width), width));
    let keys = keys
        .each_ref()
        .map(|(part, width)| Heads::new(&part.bytes, part.dtype, cache(*width)).expect("sizes"));
    let ([q, more_q], [k, more_k]) = (&queries, &keys);
    let (queries, keys) = ([q, more_q], [k.into(), more_k.into()]);
    kernels.attention_in_parts(queries, keys, (&v).into(), options, &mut view);
    out
}

fn scale(case: &Case) -> f32 {
    (case.dim as f32).powf(-0.5)
}

fn check(case: &Case, arrays: &Arrays, to: Dtype, path: Path, out: &Array) {
    let e = 2.0_f64.powi(-24);
    for token in 0..case.queries {
        for head in 0..case.heads {
            let row = token * case.heads + head;
            let kv = head / (case.heads / case.kv_heads) * arrays.room;
            let own = (case.tokens + token).wrapping_sub(case.queries);
            let sees = |key: usize| match case.visible {
                Visible::All => true,
                Visible::Causal { window } => key <= own && window.is_none_or(|w| key + w > own),
                Visible::Near { window } => key.abs_diff(own) < window,
            };
            let (mut scores, mut off) = (Vec::new(), 0.0_f64);
            for key in (0..case.tokens).filter(|&key| sees(key)) {
                let products =
                    (0..case.dim).map(|i| arrays.q.get(row, i) * arrays.k.get(kv + key, i));
                let (sum, size) = products.fold((0.0, 0.0), |(s, z), p| (s + p, z + p.abs()));
                let mut score = sum * f64::from(scale(case));
                off = off.max((case.dim as f64 + 8.0) * e * size * f64::from(scale(case)));
                if let Some(cap) = case.softcap {
                    let cap = f64::from(cap);
                    off = off.max(cap * 2.0_f64.powi(-20));
                    score = cap * (score / cap).tanh();
                }
                scores.push((key, score));
            }
            let sink = case.sinks.then(|| arrays.sinks.get(0, head));
            let largest = scores
                .iter()
                .map(|s| s.1)
                .chain(sink)
                .fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores
                .iter()
                .map(|s| s.1)
                .chain(sink)
                .map(|s| (s - largest).exp())
                .sum();
            // Weights are off by twice a score's error (the sum's too), and by the exponentials'.
            let relative = 2.0 * off + 2.0_f64.powi(-19) + (case.tokens as f64 + 16.0) * e;
            for i in 0..case.value_dim {
                let (mut wanted, mut size) = (0.0, 0.0);
                for &(key, score) in &scores {
                    let term = (score - largest).exp() / sum * arrays.v.get(kv + key, i);
                    wanted += term;
                    size += term.abs();
                }
                let bound = size * relative + 1e-30;
                let bound = bound + (wanted.abs() + bound) * rounding(to) + smallest(to);
                let error = (out.get(row, i) - wanted).abs();
                assert!(
                    error <= bound,
                    "{path:?} {case:?} {:?} to {to:?}, head {head} token {token} {i}: {wanted} became {}, {error:e} over {bound:e}",
                    arrays.k.dtype, out.get(row, i)
                );
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let case = |(heads, kv_heads), (queries, tokens), (dim, value_dim), visible| Case {
        heads,
        kv_heads,
        queries,
        tokens,
        dim,
        value_dim,
        visible,
        softcap: None,
        sinks: false,
    };
    let capped = |case| Case {
        softcap: Some(2.0),
        ..case
    };
    let sunk = |case| Case {
        sinks: true,
        ..case
    };
    vec![
        case((4, 2), (1, 1), (64, 64), CAUSAL),
        case((4, 2), (1, 130), (128, 128), CAUSAL),
        case((6, 2), (1, 63), (80, 80), Visible::All),
        case((2, 2), (1, 65), (10, 6), window(7)),
        case((3, 1), (5, 70), (64, 64), CAUSAL),
        case((8, 1), (37, 37), (32, 32), CAUSAL),
        case((2, 1), (40, 100), (16, 16), window(9)),
        case((2, 1), (20, 90), (48, 33), Visible::All),
        case((40, 1), (3, 20), (16, 16), CAUSAL),
        case((4, 4), (1, 1100), (32, 32), CAUSAL),
        case((4, 4), (1, 1100), (32, 32), window(300)),
        capped(case((4, 2), (3, 67), (64, 64), CAUSAL)),
        sunk(case((4, 2), (1, 67), (64, 64), window(16))),
        sunk(capped(case((4, 2), (18, 600), (32, 32), window(16)))),
        sunk(case((4, 2), (2, 1030), (16, 16), CAUSAL)),
        sunk(case((2, 1), (2, 0), (16, 16), Visible::All)),
        case((2, 1), (2, 0), (16, 16), Visible::All),
        case((2, 1), (0, 5), (16, 16), CAUSAL),
        case((0, 1), (1, 5), (16, 16), CAUSAL),
    ]
}

#[test]
fn every_shape_and_option_is_within_its_bound() {
    let mut random = Random(60);
    for case in cases() {
        for kv in FLOATS {
            let (q, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let spread = random.pick(&[1.0, 4.0]);
            let arrays = Arrays::new(&mut random, &case, q, kv, spread);
            for path in Path::available() {
                let out = run(&case, &arrays, to, path, 1);
                check(&case, &arrays, to, path, &out);
                assert_eq!(
                    out.bytes,
                    run(&case, &arrays, to, path, 3).bytes,
                    "{case:?}: threads"
                );
            }
        }
    }
}

#[test]
fn queries_and_keys_may_come_in_two_parts() {
    let mut random = Random(63);
    for case in cases() {
        for kv in FLOATS {
            let (q, to) = (random.pick(&FLOATS), random.pick(&FLOATS));
            let arrays = Arrays::new(&mut random, &case, q, kv, 1.0);
            for path in Path::available() {
                let first = Some(random.pick(&[1, case.dim / 2 + 1, case.dim - 1]));
                let out = run_in(&case, &arrays, to, (path, 1), first);
                check(&case, &arrays, to, path, &out);
                let again = run_in(&case, &arrays, to, (path, 3), first);
                assert_eq!(out.bytes, again.bytes, "{case:?}: threads");
            }
        }
    }
}

#[test]
fn an_outlying_key_takes_all_the_weight() {
    let mut random = Random(61);
    for case in cases()
        .into_iter()
        .filter(|case| case.tokens > 2 && case.heads > 0)
    {
        let mut arrays = Arrays::new(&mut random, &case, Dtype::F32, Dtype::F32, 1.0);
        for i in 0..case.dim {
            arrays.k.set(case.tokens - 2, i, 1000.0);
        }
        for path in Path::available() {
            let out = run(&case, &arrays, Dtype::F32, path, 1);
            let finite =
                (0..out.rows).all(|row| (0..out.width).all(|i| out.get(row, i).is_finite()));
            assert!(finite, "{path:?} {case:?}");
        }
    }
}

#[test]
fn nan_reaches_those_who_see_it_and_nobody_else() {
    let mut random = Random(62);
    let case = Case {
        heads: 2,
        kv_heads: 1,
        queries: 4,
        tokens: 70,
        dim: 32,
        value_dim: 32,
        visible: CAUSAL,
        softcap: None,
        sinks: false,
    };
    for path in Path::available() {
        let mut arrays = Arrays::new(&mut random, &case, Dtype::BF16, Dtype::BF16, 1.0);
        // Seen by the last two queries.
        arrays.k.set(68, 3, f32::NAN);
        let out = run(&case, &arrays, Dtype::BF16, path, 1);
        for row in 0..out.rows {
            for i in 0..out.width {
                assert_eq!(out.get(row, i).is_nan(), row >= 4, "{path:?} {row}");
            }
        }
    }
}
