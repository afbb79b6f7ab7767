//! States against plain loops in f64, and cut in time, which must not show in a bit.

use super::support::{rounding, smallest, Array, Random, FLOATS};
use crate::dtype::Dtype;
use crate::{Decay, Floats, HeadShape, Heads, Kernels, Normalise, Path, Recurrence};

const EPSILON: f64 = 1.0 / (1 << 24) as f64;

/// Key heads, value heads of each, key dim, value dim.
const SIZES: [[usize; 4]; 6] = [
    [1, 1, 1, 1],
    [2, 2, 16, 8],
    [1, 3, 33, 37],
    [3, 1, 100, 65],
    [2, 2, 128, 40],
    [1, 1, 64, 3],
];

#[derive(Clone, Copy, Debug)]
struct Options {
    by_channel: bool,
    beta: bool,
    normalise: Option<Normalise>,
    /// The lowest logarithm of a decay.
    strongest: f32,
    to: Dtype,
}

impl Options {
    fn random(random: &mut Random) -> Options {
        let normalise = Normalise {
            eps: 1e-6,
            q_scale: 0.2,
            k_scale: 0.25,
        };
        Options {
            by_channel: random.pick(&[true, false]),
            beta: random.pick(&[true, false]),
            normalise: random.pick(&[None, Some(normalise)]),
            strongest: random.pick(&[-0.01, -1.0, -20.0]),
            to: random.pick(&FLOATS),
        }
    }
}

/// What tokens bring: rows `[n, heads * dim]`.
struct Tokens {
    n: usize,
    size: [usize; 4],
    options: Options,
    q: Array,
    k: Array,
    v: Array,
    decay: Array,
    beta: Array,
}

impl Tokens {
    fn random(random: &mut Random, n: usize, size: [usize; 4], options: Options) -> Tokens {
        let [key_heads, group, dim, value_dim] = size;
        let heads = key_heads * group;
        let mut rows = |width: usize, scale: f32| {
            let dtype = random.pick(&FLOATS);
            Array::new(dtype, n, width, |_, _| scale * random.float())
        };
        // Keys of a length under 1, with which the states stay small.
        let short = 1.0 / (dim as f32).sqrt();
        let (q, k) = (rows(key_heads * dim, short), rows(key_heads * dim, short));
        let v = rows(heads * value_dim, 1.0);
        let channels = if options.by_channel { dim } else { 1 };
        let mut number = |scale: f32| scale * (random.float() + 1.0) / 2.0;
        let decay = Array::new(Dtype::F32, n, heads * channels, |_, _| {
            number(options.strongest)
        });
        let beta = Array::new(Dtype::F32, n, heads, |_, _| number(1.0));
        Tokens {
            n,
            size,
            options,
            q,
            k,
            v,
            decay,
            beta,
        }
    }

    fn states(&self) -> (usize, usize) {
        let [key_heads, group, dim, value_dim] = self.size;
        (key_heads * group * value_dim, dim)
    }

    fn recurrence(&self, first: usize, n: usize) -> Recurrence<'_> {
        let [_, _, dim, value_dim] = self.size;
        fn rows(array: &Array, first: usize, n: usize) -> Floats<'_> {
            array.view().some_rows(first, n)
        }
        let decay = rows(&self.decay, first, n);
        Recurrence {
            q: rows(&self.q, first, n).heads(dim),
            k: rows(&self.k, first, n).heads(dim),
            v: rows(&self.v, first, n).heads(value_dim),
            decay: match self.options.by_channel {
                true => Decay::Channel(decay),
                false => Decay::Head(decay),
            },
            beta: self.options.beta.then(|| rows(&self.beta, first, n)),
            normalise: self.options.normalise,
        }
    }

    /// y and the states after them, of so many tokens at a time.
    fn run(&self, kernels: &Kernels, state: Option<&Array>, step: usize) -> (Array, Array) {
        let (rows, dim) = self.states();
        let mut y = Array::zeros(self.options.to, 0, rows);
        let mut now =
            state.map(|state| Array::new(Dtype::F32, rows, dim, |r, i| state.get(r, i) as f32));
        let mut first = 0;
        loop {
            let n = step.min(self.n - first);
            let mut part = Array::new(self.options.to, n, rows, |_, _| 7.0);
            let mut next = Array::new(Dtype::F32, rows, dim, |_, _| 7.0);
            kernels.recurrence(
                &self.recurrence(first, n),
                now.as_ref().map(Array::view).as_ref(),
                &mut next.view_mut(),
                &mut part.view_mut(),
            );
            y.bytes.extend(part.bytes);
            y.rows += n;
            now = Some(next);
            first += n;
            if first == self.n {
                return (y, now.expect("just made"));
            }
        }
    }

    /// One row of one head's state over all tokens: y, the state, and the sizes that rounding goes by.
    fn exact(&self, state: Option<&Array>, row: usize) -> (Vec<f64>, Vec<f64>, f64) {
        let [_, group, dim, value_dim] = self.size;
        let (head, channels) = (row / value_dim, self.decay.width / (self.beta.width).max(1));
        let start = head / group * dim;
        let mut s: Vec<f64> = (0..dim)
            .map(|i| state.map_or(0.0, |state| state.get(row, i)))
            .collect();
        let mut size = s.iter().fold(0.0_f64, |a, b| a.max(b.abs()));
        let normal = |x: Vec<f64>, scale: fn(&Normalise) -> f32| match &self.options.normalise {
            None => x,
            Some(by) => {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
                let scale = f64::from(scale(by)) / (mean + f64::from(by.eps)).sqrt();
                x.into_iter().map(|x| x * scale).collect()
            }
        };
        let y = (0..self.n).map(|t| {
            let of = |array: &Array| (start..start + dim).map(|i| array.get(t, i)).collect();
            let (q, k) = (
                normal(of(&self.q), |by| by.q_scale),
                normal(of(&self.k), |by| by.k_scale),
            );
            for (i, s) in s.iter_mut().enumerate() {
                *s *= self.decay.get(t, head * channels + i % channels).exp();
            }
            let mut d = self.v.get(t, row);
            let has: f64 = s.iter().zip(&k).map(|(s, k)| s * k).sum();
            if self.options.beta {
                d = self.beta.get(t, head) * (d - has);
            }
            let mut y = 0.0;
            let mut sum = 0.0;
            for ((s, k), q) in s.iter_mut().zip(&k).zip(&q) {
                *s += d * k;
                y += *s * q;
                sum += (*s * q).abs() + (*s * k).abs() + s.abs();
            }
            size = size.max(sum + self.v.get(t, row).abs());
            y
        });
        let y = y.collect();
        (y, s, size)
    }
}

#[test]
fn states_are_within_their_bounds() {
    let mut random = Random(40);
    for path in Path::available() {
        for (round, size) in SIZES.into_iter().cycle().take(36).enumerate() {
            let n = [1, 2, 17, 40][round % 4];
            let options = Options::random(&mut random);
            let tokens = Tokens::random(&mut random, n, size, options);
            let (rows, dim) = tokens.states();
            let state = Array::random(&mut random, Dtype::F32, rows, dim);
            let state = (round % 3 > 0).then_some(&state);
            let kernels = Kernels::with_path(path, 1 + round % 3);
            let (y, after) = tokens.run(&kernels, state, n);
            for row in 0..rows {
                let (wanted, s, size) = tokens.exact(state, row);
                // Each token rounds the state anew, now up and now down; what it forgets, it forgets the rounding of.
                let bound = 4.0 * EPSILON * size;
                let near = |got: f64, wanted: f64, to: Dtype| {
                    let bound = bound + (wanted.abs() + bound) * rounding(to) + smallest(to);
                    let error = (got - wanted).abs();
                    assert!(
                        error <= bound,
                        "{path:?} {:?} {options:?} of {n}: {wanted} became {got}, {error:e} over {bound:e}",
                        tokens.size
                    );
                };
                for (t, wanted) in wanted.into_iter().enumerate() {
                    near(y.get(t, row), wanted, options.to);
                }
                for (i, wanted) in s.into_iter().enumerate() {
                    near(after.get(row, i), wanted, Dtype::F32);
                }
            }
        }
    }
}

#[test]
fn neither_cuts_in_time_nor_threads_show() {
    let mut random = Random(41);
    for path in Path::available() {
        for size in SIZES {
            let options = Options::random(&mut random);
            let tokens = Tokens::random(&mut random, 37, size, options);
            let (rows, dim) = tokens.states();
            let state = Array::random(&mut random, Dtype::F32, rows, dim);
            for state in [Some(&state), None] {
                let kernels = Kernels::with_path(path, 1);
                let (y, after) = tokens.run(&kernels, state, 37);
                for (threads, step) in [(1, 1), (2, 1), (2, 16), (3, 37), (2, 36), (4, 5)] {
                    let kernels = Kernels::with_path(path, threads);
                    let (parts, end) = tokens.run(&kernels, state, step);
                    let what = format!("{path:?} {size:?} {options:?} by {step}");
                    assert!(parts.bytes == y.bytes, "{what}: y");
                    assert!(end.bytes == after.bytes, "{what}: the state");
                }
            }
        }
    }
}

/// Queries, keys and values beside each other in the rows of one array, as a projection gives them.
#[test]
fn rows_with_gaps_are_taken() {
    let mut random = Random(42);
    let (n, dim, value_dim) = (9, 24, 10);
    let all = Array::random(&mut random, Dtype::BF16, n, 2 * 2 * dim + 4 * value_dim);
    let part = |first: usize, width: usize| {
        Array::new(all.dtype, n, width, |row, i| all.get(row, first + i) as f32)
    };
    let options = Options {
        by_channel: false,
        beta: true,
        normalise: None,
        strongest: -1.0,
        to: Dtype::F32,
    };
    let mut tokens = Tokens::random(&mut random, n, [2, 2, dim, value_dim], options);
    tokens.q = part(0, 2 * dim);
    tokens.k = part(2 * dim, 2 * dim);
    tokens.v = part(4 * dim, 4 * value_dim);
    for path in Path::available() {
        let kernels = Kernels::with_path(path, 2);
        let (wanted, _) = tokens.run(&kernels, None, n);
        let view = all.view();
        let of = Recurrence {
            q: view.columns(0, 2 * dim).heads(dim),
            k: view.columns(2 * dim, 2 * dim).heads(dim),
            v: view.columns(4 * dim, 4 * value_dim).heads(value_dim),
            ..tokens.recurrence(0, n)
        };
        let mut y = Array::zeros(Dtype::F32, n, 4 * value_dim);
        let mut state = Array::zeros(Dtype::F32, 4 * value_dim, dim);
        kernels.recurrence(&of, None, &mut state.view_mut(), &mut y.view_mut());
        assert!(y.bytes == wanted.bytes, "{path:?}");
    }
}

#[test]
fn no_tokens_leave_the_state() {
    let mut random = Random(43);
    let options = Options::random(&mut random);
    let tokens = Tokens::random(&mut random, 0, SIZES[2], options);
    let (rows, dim) = tokens.states();
    let state = Array::random(&mut random, Dtype::F32, rows, dim);
    let kernels = Kernels::new(2);
    assert!(tokens.run(&kernels, Some(&state), 1).1.bytes == state.bytes);
    let zeros = tokens.run(&kernels, None, 1).1;
    assert!(zeros.bytes.iter().all(|&byte| byte == 0));
}

#[test]
#[should_panic(expected = "recurrence: ")]
fn value_heads_that_keys_do_not_divide_are_refused() {
    let numbers = Array::zeros(Dtype::F32, 3, 4);
    let shape = |heads| HeadShape::tokens_first(heads, 1, 4);
    let heads = |n| Heads::new(&numbers.bytes, Dtype::F32, shape(n)).expect("it fits");
    let decay = Array::zeros(Dtype::F32, 1, 3);
    let of = Recurrence {
        q: heads(2),
        k: heads(2),
        v: heads(3),
        decay: Decay::Head(decay.view()),
        beta: None,
        normalise: None,
    };
    let mut state = Array::zeros(Dtype::F32, 12, 4);
    let mut y = Array::zeros(Dtype::F32, 1, 12);
    Kernels::new(1).recurrence(&of, None, &mut state.view_mut(), &mut y.view_mut());
}
