//! Chunks, single tokens and the kernels against each other and against a loop in f64.

use super::super::testing::{array, assert_close, f32s, random, with_kernels};
use super::*;
use crate::mlx::grad;

const LENGTHS: [i32; 9] = [1, 2, 15, 16, 17, 63, 64, 65, 130];

/// How keys, decays and betas are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Random,
    /// The same key at all tokens, decays near 1 and betas near 1.
    Same,
    /// Two keys in turn, one the other's negative; the same otherwise.
    Opposite,
    /// Logarithms of -20.
    Strong,
    /// Of -20 for some tokens, nearly 0 for others.
    Mixed,
}

const KINDS: [Kind; 5] = [
    Kind::Random,
    Kind::Same,
    Kind::Opposite,
    Kind::Strong,
    Kind::Mixed,
];

const KEY_HEADS: i32 = 2;
const HEADS: i32 = 4;
const DIM: i32 = 24;
const VALUE_DIM: i32 = 10;

struct Case {
    batch: i32,
    n: i32,
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Option<Array>,
    normalise: Option<Normalise>,
    state: Option<Array>,
}

impl Case {
    fn new(kind: Kind, batch: i32, n: i32, by_channel: bool, beta: bool) -> Case {
        let numbers = |seed: u64, shape: &[i32]| {
            let len = shape.iter().product::<i32>() as usize;
            (random(seed, len), shape.to_vec())
        };
        let made = |(numbers, shape): (Vec<f32>, Vec<i32>)| array(&numbers, &shape);
        let keys = [batch, n, KEY_HEADS, DIM];
        let mut k = numbers(2, &keys);
        if matches!(kind, Kind::Same | Kind::Opposite) {
            let row = (KEY_HEADS * DIM) as usize;
            for i in row..k.0.len() {
                let sign = if kind == Kind::Opposite { -1.0 } else { 1.0 };
                k.0[i] = sign * k.0[i - row];
            }
        }
        let mut decay = match by_channel {
            true => numbers(4, &[batch, n, HEADS, DIM]),
            false => numbers(4, &[batch, n, HEADS]),
        };
        for (i, x) in decay.0.iter_mut().enumerate() {
            *x = match kind {
                Kind::Random => *x - 1.0,
                Kind::Same | Kind::Opposite => 1e-3 * (*x - 1.0),
                Kind::Strong => -20.0,
                Kind::Mixed if i % 3 == 0 => -20.0,
                Kind::Mixed => 1e-2 * (*x - 1.0),
            };
        }
        let mut betas = numbers(5, &[batch, n, HEADS]);
        for x in &mut betas.0 {
            *x = match kind {
                Kind::Same | Kind::Opposite => 1.0 + 5e-3 * (*x - 1.0),
                _ => 0.5 + 0.5 * *x,
            };
        }
        // So that keys have a length of 1 where they are normalised, and nearly so otherwise.
        let length = 1.0 / (DIM as f32).sqrt();
        let normalise = Normalise {
            eps: 1e-6,
            q_scale: 0.3,
            k_scale: length,
        };
        let normalised = n % 2 == 1 || matches!(kind, Kind::Same | Kind::Opposite);
        if !normalised {
            k.0.iter_mut().for_each(|x| *x *= length);
        }
        Case {
            batch,
            n,
            q: made(numbers(1, &keys)),
            k: made(k),
            v: made(numbers(3, &[batch, n, HEADS, VALUE_DIM])),
            log_decay: made(decay),
            beta: beta.then(|| made(betas)),
            normalise: normalised.then_some(normalise),
            state: (n % 3 > 0).then(|| made(numbers(6, &[batch, HEADS, VALUE_DIM, DIM]))),
        }
    }

    fn of(&self) -> Recurrence<'_> {
        Recurrence {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            log_decay: &self.log_decay,
            beta: self.beta.as_ref(),
            normalise: self.normalise,
            state: self.state.as_ref(),
        }
    }

    /// Its tokens from `first` to `end`, behind a state.
    fn part(&self, first: i32, end: i32, state: Option<Array>) -> Case {
        let cut = |x: &Array| {
            let (mut start, mut stop) = (vec![0; x.shape().len()], x.shape().to_vec());
            (start[1], stop[1]) = (first, end);
            ops::slice(x, &start, &stop).unwrap()
        };
        Case {
            n: end - first,
            q: cut(&self.q),
            k: cut(&self.k),
            v: cut(&self.v),
            log_decay: cut(&self.log_decay),
            beta: self.beta.as_ref().map(cut),
            state,
            ..*self
        }
    }

    /// Cut after the token `at`.
    fn in_two(&self, at: i32, run: impl Fn(Recurrence) -> Result<(Array, Array)>) -> [Array; 2] {
        let (y, state) = run(self.part(0, at, self.state.clone()).of()).unwrap();
        let (rest, state) = run(self.part(at, self.n, Some(state)).of()).unwrap();
        [ops::concatenate(&[&y, &rest], 1).unwrap(), state]
    }

    /// One token after the other in f64.
    fn exact(&self) -> [Vec<f32>; 2] {
        let [n, dim, value_dim] = [self.n, DIM, VALUE_DIM].map(|n| n as usize);
        let (heads, key_heads) = (HEADS as usize, KEY_HEADS as usize);
        let wide = |x: &Array| -> Vec<f64> { f32s(x).into_iter().map(f64::from).collect() };
        let (q, k, v, decay) = (
            wide(&self.q),
            wide(&self.k),
            wide(&self.v),
            wide(&self.log_decay),
        );
        let beta = self.beta.as_ref().map(wide);
        let channels = decay.len() / (self.batch as usize * n * heads);
        let normal = |x: &[f64], scale: fn(&Normalise) -> f32| -> Vec<f64> {
            let Some(by) = &self.normalise else {
                return x.to_vec();
            };
            let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
            let scale = f64::from(scale(by)) / (mean + f64::from(by.eps)).sqrt();
            x.iter().map(|x| x * scale).collect()
        };
        let mut states = match &self.state {
            Some(state) => wide(state),
            None => vec![0.0; self.batch as usize * heads * value_dim * dim],
        };
        let mut y = vec![0.0; v.len()];
        for (index, state) in states.chunks_mut(value_dim * dim).enumerate() {
            let (batch, head) = (index / heads, index % heads);
            for t in 0..n {
                let row = (batch * n + t) * heads + head;
                let key = (batch * n + t) * key_heads + head / (heads / key_heads);
                let key = key * dim..(key + 1) * dim;
                let (q, k) = (
                    normal(&q[key.clone()], |by| by.q_scale),
                    normal(&k[key], |by| by.k_scale),
                );
                for (r, s) in state.chunks_mut(dim).enumerate() {
                    for (i, s) in s.iter_mut().enumerate() {
                        *s *= decay[row * channels + i % channels].exp();
                    }
                    let mut d = v[row * value_dim + r];
                    if let Some(beta) = &beta {
                        let has: f64 = s.iter().zip(&k).map(|(s, k)| s * k).sum();
                        d = beta[row] * (d - has);
                    }
                    for (s, k) in s.iter_mut().zip(&k) {
                        *s += d * k;
                    }
                    y[row * value_dim + r] = s.iter().zip(&q).map(|(s, q)| s * q).sum();
                }
            }
        }
        [y, states].map(|all| all.into_iter().map(|x| x as f32).collect())
    }
}

fn cases() -> impl Iterator<Item = (String, Case)> {
    let all = KINDS.into_iter().flat_map(|kind| {
        let kinds = [(false, true), (true, true), (false, false), (true, false)];
        kinds.into_iter().flat_map(move |(by_channel, beta)| {
            LENGTHS.map(|n| {
                let what = format!("{kind:?}, {n} tokens, by channel {by_channel}, beta {beta}");
                (what, Case::new(kind, 1, n, by_channel, beta))
            })
        })
    });
    all
}

#[test]
fn both_ways_are_what_a_loop_gives() {
    with_kernels(|| {
        for (what, case) in cases() {
            let exact = case.exact();
            let plain = fast::plainly(|| recurrence(case.of())).unwrap();
            let kernels = recurrence(case.of()).unwrap();
            for (way, (y, state)) in [("plain", plain), ("kernels", kernels)] {
                assert_eq!(y.shape(), case.v.shape());
                assert_eq!(state.shape(), [1, HEADS, VALUE_DIM, DIM]);
                assert_close(&f32s(&y), &exact[0], 1e-5, &format!("{way}, y: {what}"));
                assert_close(
                    &f32s(&state),
                    &exact[1],
                    1e-5,
                    &format!("{way}, state: {what}"),
                );
            }
        }
    });
}

#[test]
fn what_is_cut_goes_on_the_same() {
    with_kernels(|| {
        for (what, case) in cases().filter(|(_, case)| case.n > 1) {
            for at in [1, case.n / 2, case.n - 1] {
                let plain = |of: Recurrence| fast::plainly(|| recurrence(of));
                let (y, state) = plain(case.of()).unwrap();
                let parts = case.in_two(at, plain);
                for (part, whole) in parts.iter().zip([&y, &state]) {
                    assert_close(&f32s(part), &f32s(whole), 1e-5, &what);
                }
                let (y, state) = recurrence(case.of()).unwrap();
                let parts = case.in_two(at, recurrence);
                for (part, whole) in parts.iter().zip([&y, &state]) {
                    assert_eq!(f32s(part), f32s(whole), "{what}");
                }
            }
        }
    });
}

#[test]
fn sequences_of_a_batch_are_apart() {
    with_kernels(|| {
        for (n, by_channel) in [(1, true), (1, false), (70, true), (70, false)] {
            let case = Case::new(Kind::Random, 2, n, by_channel, true);
            let (y, state) = recurrence(case.of()).unwrap();
            let exact = case.exact();
            assert_close(&f32s(&y), &exact[0], 1e-5, "y");
            assert_close(&f32s(&state), &exact[1], 1e-5, "the states");
        }
    });
}

#[test]
fn y_has_the_type_of_the_values() {
    with_kernels(|| {
        for dtype in [Dtype::BF16, Dtype::F16] {
            let mut case = Case::new(Kind::Random, 1, 33, false, true);
            let cast = |x: &Array| ops::astype(x, dtype).unwrap();
            (case.q, case.k, case.v) = (cast(&case.q), cast(&case.k), cast(&case.v));
            let exact = case.exact();
            let plain = fast::plainly(|| recurrence(case.of())).unwrap();
            for (y, state) in [plain, recurrence(case.of()).unwrap()] {
                assert_eq!((y.dtype(), state.dtype()), (dtype, Dtype::F32));
                assert_close(&f32s(&y), &exact[0], 1.0 / 256.0, "y");
                assert_close(&f32s(&state), &exact[1], 1e-5, "the state");
            }
        }
    });
}

/// Through chunks as through single tokens.
#[test]
fn gradients_flow_through_chunks() {
    with_kernels(|| {
        for by_channel in [true, false] {
            for kind in [Kind::Random, Kind::Same, Kind::Strong] {
                let case = Case::new(kind, 1, 67, by_channel, true);
                let normalise = case.normalise;
                let run = |inputs: &[Array], step: i32| {
                    let [q, k, v, log_decay, beta] = inputs else {
                        panic!("five inputs");
                    };
                    let case = Case {
                        q: q.clone(),
                        k: k.clone(),
                        v: v.clone(),
                        log_decay: log_decay.clone(),
                        beta: Some(beta.clone()),
                        state: None,
                        ..case
                    };
                    let (mut first, mut state, mut parts) = (0, None, Vec::new());
                    while first < case.n {
                        let end = case.n.min(first + step);
                        let part = case.part(first, end, state);
                        let (y, after) = recurrence(part.of())?;
                        parts.push(y);
                        state = Some(after);
                        first = end;
                    }
                    let y = ops::concatenate(&parts.iter().collect::<Vec<_>>(), 1)?;
                    let squares = ops::multiply(&y, &y)?;
                    let size = squares.size() as i32;
                    let sum = ops::sum(&ops::reshape(&squares, &[size])?, 0, false)?;
                    Ok(vec![sum])
                };
                let beta = case.beta.clone().unwrap();
                let inputs = [&case.q, &case.k, &case.v, &case.log_decay, &beta];
                let inputs = inputs.map(Array::clone);
                let (_, chunks) = grad::value_and_grad(|x| run(x, 67), &inputs).unwrap();
                let (_, single) = grad::value_and_grad(|x| run(x, 1), &inputs).unwrap();
                for (i, (a, b)) in chunks.iter().zip(&single).enumerate() {
                    let what = format!("input {i}, {kind:?}, {by_channel} {normalise:?}");
                    let (a, b) = (f32s(a), f32s(b));
                    assert!(b.iter().any(|&x| x != 0.0), "{what}");
                    assert_close(&a, &b, 1e-4, &what);
                }
            }
        }
    });
}
