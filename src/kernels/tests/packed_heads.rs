//! Keys and values that are packed: to the bits of MLX's own arithmetic, and attention over them.

use super::support::{read, rounding, smallest, write, Array, Random, FLOATS};
use crate::dtype::{Dtype, Mode, Scheme};
use crate::{
    AttentionOptions, HeadShape, Heads, HeadsMut, Kernels, PackedHeads, PackedHeadsMut, Path,
    Stored, Visible,
};

fn schemes() -> Vec<Scheme> {
    let mut all = Vec::new();
    for bits in [4, 8] {
        for group_size in [32, 64, 128] {
            all.push(Scheme {
                mode: Mode::Affine,
                bits,
                group_size,
            });
        }
    }
    all
}

/// `[heads, room, dim]` packed, as a cache lies in memory.
#[derive(Clone, PartialEq)]
pub struct Packed {
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    dtype: Dtype,
    scheme: Scheme,
    heads: usize,
    room: usize,
    dim: usize,
}

impl Packed {
    /// Everything poisoned: the scales are NaN.
    pub fn new(scheme: Scheme, dtype: Dtype, [heads, room, dim]: [usize; 3]) -> Packed {
        let tokens = heads * room;
        let mut nans = Vec::new();
        (0..tokens * dim / scheme.group_size as usize)
            .for_each(|_| write(f32::NAN, dtype, &mut nans));
        Packed {
            codes: vec![0xa5; tokens * dim * scheme.bits as usize / 8],
            scales: nans.clone(),
            biases: nans,
            dtype,
            scheme,
            heads,
            room,
            dim,
        }
    }

    /// Of the first tokens of each head.
    fn shape(&self, tokens: usize, width: usize) -> HeadShape {
        HeadShape {
            head_stride: self.room * width,
            ..HeadShape::heads_first(self.heads, tokens, width)
        }
    }

    fn words(&self) -> usize {
        self.dim * self.scheme.bits as usize / 32
    }

    fn groups(&self) -> usize {
        self.dim / self.scheme.group_size as usize
    }

    pub fn view(&self, tokens: usize) -> PackedHeads<'_> {
        let shape = self.shape(tokens, self.groups());
        let heads = |bytes| Heads::new(bytes, self.dtype, shape).expect("sizes");
        let factors = [heads(&self.scales), heads(&self.biases)];
        let words = self.shape(tokens, self.words());
        // SAFETY: the vectors have as many words and groups, and are borrowed.
        unsafe { PackedHeads::from_raw(self.codes.as_ptr(), words, factors, self.scheme) }
    }

    pub fn view_mut(&mut self, tokens: usize) -> PackedHeadsMut<'_> {
        let (shape, words) = (
            self.shape(tokens, self.groups()),
            self.shape(tokens, self.words()),
        );
        let factors = [
            HeadsMut::new(&mut self.scales, self.dtype, shape).expect("sizes"),
            HeadsMut::new(&mut self.biases, self.dtype, shape).expect("sizes"),
        ];
        // SAFETY: as above, and borrowed by nobody else.
        unsafe { PackedHeadsMut::from_raw(self.codes.as_mut_ptr(), words, factors, self.scheme) }
    }

    fn code(&self, row: usize, i: usize) -> u8 {
        let bits = self.scheme.bits as usize;
        let at = row * self.dim + i;
        self.codes[at * bits / 8] >> (at * bits % 8) & ((1_u16 << bits) - 1) as u8
    }

    fn factors(&self, row: usize, i: usize) -> [f32; 2] {
        let group = row * self.groups() + i / self.scheme.group_size as usize;
        [&self.scales, &self.biases].map(|bytes| read(bytes, self.dtype, group))
    }

    /// A number, and the sizes of the two that it is the sum of.
    fn get(&self, row: usize, i: usize) -> (f64, f64) {
        let [scale, bias] = self.factors(row, i).map(f64::from);
        let product = scale * f64::from(self.code(row, i));
        (product + bias, product.abs() + bias.abs())
    }
}

/// As MLX packs a group: codes, scale and bias; but codes go by these as they are stored.
fn reference(x: &[f32], top: f32, to: Dtype) -> (Vec<u8>, f32, f32) {
    if x.iter().any(|x| !x.is_finite()) {
        return (Vec::new(), f32::NAN, f32::NAN);
    }
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let mut scale = ((high - low) / top).max(1e-7);
    let mut edge = low;
    if low.abs() <= high.abs() {
        (scale, edge) = (-scale, high);
    }
    let steps = (edge / scale).round_ties_even();
    let mut bias = 0.0;
    if steps != 0.0 {
        (scale, bias) = (edge / steps, edge);
    }
    let rounded = |x: f32| {
        let mut bytes = Vec::new();
        write(x, to, &mut bytes);
        read(&bytes, to, 0)
    };
    let (scale, bias) = (rounded(scale), rounded(bias));
    let code = |x: &f32| ((x - bias) / scale).round_ties_even().clamp(0.0, top) as u8;
    (x.iter().map(code).collect(), scale, bias)
}

/// Rows of `[tokens, heads * dim]`, group by group of another kind.
fn numbers(random: &mut Random, dtype: Dtype, tokens: usize, width: usize) -> Array {
    let mut kind = 0;
    Array::new(dtype, tokens, width, |_, i| {
        if i % 32 == 0 {
            kind = random.below(9);
        }
        match kind {
            0 => 0.0,
            1 => 1.5,
            2 => -3.0,
            3 => 1e-8 * random.float(),
            4 => 5.0 + random.float(),
            5 => -5.0 + random.float(),
            // One far away.
            6 if i % 32 == 7 => -600.0,
            7 => 6e4 * random.float(),
            _ => random.float(),
        }
    })
}

#[test]
fn packs_to_the_bits_of_mlx() {
    let mut random = Random(300);
    for scheme in schemes() {
        for from in FLOATS {
            let to = random.pick(&FLOATS);
            let (heads, tokens, dim) = (3, 5, 128 * random.pick(&[1, 2]));
            let group = scheme.group_size as usize;
            let mut x = numbers(&mut random, from, tokens, heads * dim);
            x.set(4, 3, f32::NAN);
            x.set(4, dim, f32::INFINITY);
            for path in Path::available() {
                let kernels = Kernels::with_path(path, random.pick(&[1, 3]));
                let mut packed = Packed::new(scheme, to, [heads, tokens + 2, dim]);
                let shape = HeadShape::tokens_first(heads, tokens, dim);
                let view = Heads::new(&x.bytes, from, shape).expect("sizes");
                kernels.pack_heads(&view, &mut packed.view_mut(tokens));
                for head in 0..heads {
                    for token in 0..tokens {
                        let row = head * (tokens + 2) + token;
                        for first in (0..dim).step_by(group) {
                            let numbers: Vec<f32> = (first..first + group)
                                .map(|i| x.get(token, head * dim + i) as f32)
                                .collect();
                            let top = ((1 << scheme.bits) - 1) as f32;
                            let (codes, scale, bias) = reference(&numbers, top, to);
                            let (own, wanted) = (packed.factors(row, first), [scale, bias]);
                            assert_eq!(
                                own.map(f32::to_bits),
                                wanted.map(f32::to_bits),
                                "{path:?} {scheme:?} {from:?} {own:?} {wanted:?}"
                            );
                            for (i, code) in codes.into_iter().enumerate() {
                                assert_eq!(packed.code(row, first + i), code, "{path:?}");
                            }
                        }
                    }
                }
                // The spare room is as it was.
                let fresh = Packed::new(scheme, to, [heads, tokens + 2, dim]);
                for head in 0..heads {
                    let row = head * (tokens + 2) + tokens;
                    assert_eq!(packed.code(row, 0), fresh.code(row, 0));
                    assert!(packed.factors(row, 0)[0].is_nan());
                }
            }
        }
    }
}

/// Sizes of attention over packed keys and values.
#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    queries: usize,
    tokens: usize,
    dim: usize,
    value_dim: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    sinks: bool,
}

const PLAIN: Case = Case {
    heads: 4,
    kv_heads: 2,
    queries: 1,
    tokens: 1,
    dim: 128,
    value_dim: 128,
    window: None,
    softcap: None,
    sinks: false,
};

fn cases() -> Vec<Case> {
    let case = |heads, kv_heads, queries, tokens| Case {
        heads,
        kv_heads,
        queries,
        tokens,
        ..PLAIN
    };
    vec![
        PLAIN,
        case(4, 2, 1, 130),
        Case {
            dim: 256,
            ..case(2, 2, 1, 64)
        },
        Case {
            value_dim: 256,
            ..case(16, 1, 1, 65)
        },
        Case {
            window: Some(7),
            ..case(3, 1, 5, 70)
        },
        case(8, 1, 37, 37),
        case(40, 1, 3, 20),
        case(4, 4, 1, 1100),
        Case {
            window: Some(300),
            sinks: true,
            ..case(4, 4, 1, 1100)
        },
        Case {
            softcap: Some(2.0),
            sinks: true,
            window: Some(16),
            ..case(4, 2, 18, 600)
        },
        Case {
            sinks: true,
            ..case(2, 1, 2, 3)
        },
    ]
}

struct Arrays {
    q: Array,
    k: Packed,
    v: Packed,
    sinks: Array,
}

impl Arrays {
    fn new(random: &mut Random, case: &Case, q: Dtype, scheme: Scheme, kv: Dtype) -> Arrays {
        let kernels = Kernels::new(1);
        let mut packed = |dim| {
            let room = case.tokens + 3;
            let mut packed = Packed::new(scheme, kv, [case.kv_heads, room, dim]);
            let x = Array::new(kv, case.tokens, case.kv_heads * dim, |_, _| {
                2.0 * random.float() + 0.5
            });
            let shape = HeadShape::tokens_first(case.kv_heads, case.tokens, dim);
            let x = Heads::new(&x.bytes, kv, shape).expect("sizes");
            kernels.pack_heads(&x, &mut packed.view_mut(case.tokens));
            packed
        };
        let (k, v) = (packed(case.dim), packed(case.value_dim));
        Arrays {
            q: Array::random(random, q, case.queries * case.heads, case.dim),
            k,
            v,
            sinks: Array::random(random, Dtype::F32, 1, case.heads),
        }
    }
}

fn scale(case: &Case) -> f32 {
    (case.dim as f32).powf(-0.5)
}

/// Of the queries from `first` on. `cut`: in two parts, of which the first has so many numbers.
fn run(
    case: &Case,
    arrays: &Arrays,
    to: Dtype,
    kernels: &Kernels,
    first: usize,
    tokens: usize,
) -> Array {
    let queries = case.queries - first;
    let bytes = first * case.heads * case.dim * arrays.q.dtype.size() as usize;
    let q = HeadShape::tokens_first(case.heads, queries, case.dim);
    let q = Heads::new(&arrays.q.bytes[bytes..], arrays.q.dtype, q).expect("sizes");
    let mut out = Array::new(to, queries * case.heads, case.value_dim, |_, _| f32::NAN);
    let shape = HeadShape::tokens_first(case.heads, queries, case.value_dim);
    let options = AttentionOptions {
        scale: scale(case),
        visible: Visible::Causal {
            window: case.window,
        },
        softcap: case.softcap,
        sinks: case.sinks.then(|| arrays.sinks.view()),
    };
    kernels.attention(
        &q,
        Stored::Packed(arrays.k.view(tokens)),
        Stored::Packed(arrays.v.view(tokens)),
        options,
        &mut HeadsMut::new(&mut out.bytes, to, shape).expect("sizes"),
    );
    out
}

fn check(case: &Case, arrays: &Arrays, to: Dtype, path: Path, out: &Array) {
    let e = 2.0_f64.powi(-24);
    for token in 0..case.queries {
        for head in 0..case.heads {
            let row = token * case.heads + head;
            let kv = head / (case.heads / case.kv_heads) * arrays.k.room;
            let own = case.tokens + token - case.queries;
            let sees = |key: usize| key <= own && case.window.is_none_or(|w| key + w > own);
            let (mut scores, mut off) = (Vec::new(), 0.0_f64);
            for key in (0..case.tokens).filter(|&key| sees(key)) {
                let (mut sum, mut size) = (0.0, 0.0);
                for i in 0..case.dim {
                    let (q, (k, terms)) = (arrays.q.get(row, i), arrays.k.get(kv + key, i));
                    sum += q * k;
                    size += (q * terms).abs();
                }
                let scale = f64::from(scale(case));
                off = off.max((case.dim as f64 + 10.0) * e * size * scale);
                let mut score = sum * scale;
                if let Some(cap) = case.softcap {
                    let cap = f64::from(cap);
                    off = off.max(cap * 2.0_f64.powi(-20));
                    score = cap * (score / cap).tanh();
                }
                scores.push((key, score));
            }
            let sink = case.sinks.then(|| arrays.sinks.get(0, head));
            let all = || scores.iter().map(|s| s.1).chain(sink);
            let largest = all().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = all().map(|s| (s - largest).exp()).sum();
            // As in `attention.rs`; a number's own two roundings are in the count of tokens.
            let relative = 2.0 * off + 2.0_f64.powi(-19) + (case.tokens as f64 + 18.0) * e;
            for i in 0..case.value_dim {
                let (mut wanted, mut size) = (0.0, 0.0);
                for &(key, score) in &scores {
                    let weight = (score - largest).exp() / sum;
                    let (value, terms) = arrays.v.get(kv + key, i);
                    wanted += weight * value;
                    size += weight * terms;
                }
                let bound = size * relative + 1e-30;
                let bound = bound + (wanted.abs() + bound) * rounding(to) + smallest(to);
                let got = out.get(row, i);
                assert!(
                    (got - wanted).abs() <= bound,
                    "{path:?} {case:?} {:?} head {head} token {token} {i}: {wanted} became {got}, over {bound:e}",
                    arrays.k.scheme,
                );
            }
        }
    }
}

#[test]
fn attention_over_packed_tokens_is_within_its_bound_whatever_the_threads() {
    let mut random = Random(301);
    for case in cases() {
        for scheme in schemes() {
            let (q, kv, to) = (
                random.pick(&FLOATS),
                random.pick(&FLOATS),
                random.pick(&FLOATS),
            );
            let arrays = Arrays::new(&mut random, &case, q, scheme, kv);
            for path in Path::available() {
                let run = |threads| {
                    let kernels = Kernels::with_path(path, threads);
                    run(&case, &arrays, to, &kernels, 0, case.tokens)
                };
                let out = run(1);
                check(&case, &arrays, to, path, &out);
                assert_eq!(out.bytes, run(3).bytes, "{case:?}: threads");
            }
        }
    }
}

/// However many queries come together, each has the bits that it has among others.
#[test]
fn a_query_has_its_bits_whatever_comes_with_it() {
    let mut random = Random(302);
    for scheme in schemes() {
        let case = Case {
            heads: 6,
            kv_heads: 2,
            queries: 9,
            tokens: 140,
            ..PLAIN
        };
        let arrays = Arrays::new(&mut random, &case, Dtype::BF16, scheme, Dtype::BF16);
        for path in Path::available() {
            let kernels = Kernels::with_path(path, 2);
            let all = run(&case, &arrays, Dtype::F32, &kernels, 0, case.tokens);
            for first in [1, 4, 8] {
                let some = run(&case, &arrays, Dtype::F32, &kernels, first, case.tokens);
                let from = first * case.heads * case.value_dim * 4;
                assert_eq!(some.bytes, all.bytes[from..], "{path:?} {scheme:?} {first}");
            }
        }
    }
}

/// Latents: queries and keys in two parts, whose values are the first part of the keys.
#[test]
fn packed_keys_may_come_in_two_parts() {
    let mut random = Random(303);
    for scheme in schemes() {
        let case = Case {
            heads: 5,
            kv_heads: 1,
            queries: 4,
            tokens: 90,
            ..PLAIN
        };
        let first = Arrays::new(&mut random, &case, Dtype::F32, scheme, Dtype::BF16);
        let second = Arrays::new(&mut random, &case, Dtype::F32, scheme, Dtype::BF16);
        for path in Path::available() {
            let kernels = Kernels::with_path(path, 2);
            let heads = |array: &Array| {
                let shape = HeadShape::tokens_first(case.heads, case.queries, case.dim);
                let bytes: &[u8] = &array.bytes;
                // SAFETY: the array has the shape's elements, and outlives its use here.
                unsafe { Heads::from_raw(bytes.as_ptr(), Dtype::F32, shape) }
            };
            let mut out = Array::new(Dtype::F32, case.queries * case.heads, case.dim, |_, _| {
                f32::NAN
            });
            let shape = HeadShape::tokens_first(case.heads, case.queries, case.dim);
            kernels.attention_in_parts(
                [&heads(&first.q), &heads(&second.q)],
                [&first, &second].map(|of| Stored::Packed(of.k.view(case.tokens))),
                Stored::Packed(first.k.view(case.tokens)),
                AttentionOptions {
                    scale: scale(&case),
                    visible: Visible::Causal { window: None },
                    softcap: None,
                    sinks: None,
                },
                &mut HeadsMut::new(&mut out.bytes, Dtype::F32, shape).expect("sizes"),
            );
            for token in 0..case.queries {
                for head in 0..case.heads {
                    let row = token * case.heads + head;
                    let seen = case.tokens - case.queries + token + 1;
                    let score = |key: usize| -> f64 {
                        let of = |of: &Arrays| -> f64 {
                            let product = |i| of.q.get(row, i) * of.k.get(key, i).0;
                            (0..case.dim).map(product).sum()
                        };
                        (of(&first) + of(&second)) * f64::from(scale(&case))
                    };
                    let scores: Vec<f64> = (0..seen).map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                    for i in [0, 31, 64, case.dim - 1] {
                        let of = |(key, s): (usize, &f64)| {
                            (s - largest).exp() / sum * first.k.get(key, i).0
                        };
                        let wanted: f64 = scores.iter().enumerate().map(of).sum();
                        let got = out.get(row, i);
                        assert!(
                            (got - wanted).abs() < 1e-4,
                            "{path:?} {scheme:?} {got} {wanted}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_token_that_is_not_finite_reaches_those_who_see_it() {
    let mut random = Random(304);
    let case = Case {
        heads: 2,
        kv_heads: 1,
        queries: 4,
        tokens: 70,
        ..PLAIN
    };
    for scheme in schemes() {
        let mut arrays = Arrays::new(&mut random, &case, Dtype::BF16, scheme, Dtype::BF16);
        let mut x = Array::random(&mut random, Dtype::BF16, 1, case.dim);
        x.set(0, 5, f32::NAN);
        let shape = HeadShape::tokens_first(1, 1, case.dim);
        let mut one = Packed::new(scheme, Dtype::BF16, [1, 1, case.dim]);
        let view = Heads::new(&x.bytes, Dtype::BF16, shape).expect("sizes");
        Kernels::new(1).pack_heads(&view, &mut one.view_mut(1));
        let groups = arrays.k.groups() * 2;
        // Seen by the last two queries.
        arrays.k.scales[68 * groups..69 * groups].copy_from_slice(&one.scales);
        for path in Path::available() {
            let kernels = Kernels::with_path(path, 1);
            let out = run(&case, &arrays, Dtype::BF16, &kernels, 0, case.tokens);
            for row in 0..out.rows {
                for i in 0..out.width {
                    assert_eq!(out.get(row, i).is_nan(), row >= 4, "{path:?} {row}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "not stored alike")]
fn keys_and_values_are_stored_alike() {
    let scheme = schemes()[0];
    let (k, v) = (
        Packed::new(scheme, Dtype::F32, [1, 2, 64]),
        Array::zeros(Dtype::F32, 2, 64),
    );
    let shape = HeadShape::heads_first(1, 2, 64);
    let v = Heads::new(&v.bytes, Dtype::F32, shape).expect("sizes");
    let mut out = Array::zeros(Dtype::F32, 2, 64);
    let options = AttentionOptions {
        scale: 1.0,
        visible: Visible::All,
        softcap: None,
        sinks: None,
    };
    let to = &mut HeadsMut::new(&mut out.bytes, Dtype::F32, shape).expect("sizes");
    Kernels::new(1).attention(&v, Stored::Packed(k.view(2)), &v, options, to);
}
