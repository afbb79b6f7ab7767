//! Linear attention: a state for each head that every token decays, adds to and reads. Gated delta rule, Kimi's delta
//! attention, Mamba 2.
//!
//! The rows of a state have nothing to do with each other once keys and queries are known, so a piece of work is some rows of
//! one head, over all tokens; how it is cut does not depend on the number of threads. Everything is f32.

#![allow(unsafe_op_in_unsafe_fn)]

use std::ops::Range;

use super::float::{load, store, with_element, Floats, FloatsMut};
use super::heads::Heads;
use super::math::exp;
use super::qmatmul::Chunks;
use super::simd::{Kernel, Simd};
use super::widen::Widen;
use super::Kernels;
use crate::dtype::Dtype;

/// Rows of the state of one piece of work.
const ROWS: usize = 32;
/// Rows that share what is read of keys and queries.
const TOGETHER: usize = 4;
/// Tokens whose keys and queries are made ready together, beside the rows in the nearest cache.
const TOKENS: usize = 16;
/// Elements of the state, by tokens, under which the work is not worth handing out.
const ALONE: usize = 1 << 14;

/// What a state is multiplied by before a token is added, as its logarithm in f32.
#[derive(Clone, Copy)]
pub enum Decay<'a> {
    /// `[n, value heads]`
    Head(Floats<'a>),
    /// One for each channel of the keys: `[n, value heads * key dim]`.
    Channel(Floats<'a>),
}

/// Queries and keys become `x * scale / sqrt(mean(x²) + eps)`, head by head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    pub eps: f32,
    pub q_scale: f32,
    pub k_scale: f32,
}

/// What a state meets.
#[derive(Clone, Copy)]
pub struct Recurrence<'a> {
    /// `[key heads, n, key dim]`
    pub q: Heads<'a>,
    /// The same.
    pub k: Heads<'a>,
    /// `[value heads, n, value dim]`; each key head serves as many value heads, one after the other.
    pub v: Heads<'a>,
    pub decay: Decay<'a>,
    /// f32 `[n, value heads]`: how much of the value replaces what the state has for the key. None: values are added.
    pub beta: Option<Floats<'a>>,
    pub normalise: Option<Normalise>,
}

impl Kernels {
    /// For each value head with its state S `[value dim, key dim]`, one token after the other:
    /// `S = S exp(decay); S += d kᵀ; y = S q`, with `d = beta (v - S k)`, or v where there is no beta.
    ///
    /// The states f32 `[value heads * value dim, key dim]`, at first zeros where there is none; y `[n, value heads * value dim]`.
    /// What comes out does not depend on how the tokens are divided into calls. A sum over a key's channels has a relative
    /// error of `(key dim / lanes + 8) * 2^-24` of its terms' sizes, a decay by channel 2^-22. Panics where shapes differ.
    pub fn recurrence(
        &self,
        of: &Recurrence,
        state: Option<&Floats>,
        new_state: &mut FloatsMut,
        y: &mut FloatsMut,
    ) {
        let (q, k, v) = (of.q.shape(), of.k.shape(), of.v.shape());
        let (n, heads, rows, dim) = (v.tokens, v.heads, v.dim, k.dim);
        let (decay, per_head) = match &of.decay {
            Decay::Head(decay) => (decay, 1),
            Decay::Channel(decay) => (decay, dim),
        };
        let is = |floats: &Floats, rows: usize, width: usize| {
            floats.dtype() == Dtype::F32 && (floats.rows(), floats.width()) == (rows, width)
        };
        let fits = (q.heads, q.tokens, q.dim) == (k.heads, n, dim)
            && k.tokens == n
            && heads.checked_rem(k.heads).unwrap_or(heads) == 0
            && is(decay, n, heads * per_head)
            && of.beta.is_none_or(|beta| is(&beta, n, heads))
            && state.is_none_or(|state| is(state, heads * rows, dim))
            && new_state.dtype() == Dtype::F32
            && (new_state.rows(), new_state.width()) == (heads * rows, dim)
            && (y.rows(), y.width()) == (n, heads * rows);
        assert!(fits, "recurrence: {q:?} and {k:?} of {v:?}");
        if heads == 0 || rows == 0 {
            return;
        }
        let (new_state, y) = (&*new_state, &*y);
        let blocks = rows.div_ceil(ROWS);
        let work = |units: Range<usize>| {
            let mut memory = self.scratch.floats();
            memory.resize(Ready::size(dim), 0.0);
            let mut ready = Ready::new(&mut memory, dim);
            for unit in units {
                let (head, block) = (unit / blocks, unit % blocks);
                let piece = Piece {
                    of,
                    state,
                    new_state,
                    y,
                    head,
                    key_head: head / (heads / k.heads),
                    rows: block * ROWS..rows.min((block + 1) * ROWS),
                };
                self.walk(&piece, &mut ready);
            }
        };
        let units = heads * blocks;
        if heads * rows * dim * n.max(1) < ALONE {
            return work(0..units);
        }
        let jobs = Chunks {
            count: units.min(4 * self.pool.threads()),
            items: units,
        };
        self.pool.parallel(jobs.count, |job| work(jobs.range(job)));
    }

    /// One piece over all tokens.
    fn walk(&self, piece: &Piece, ready: &mut Ready) {
        self.path.run(Begin { piece });
        let n = piece.of.v.shape().tokens;
        let mut first = 0;
        while first < n {
            let tokens = first..n.min(first + TOKENS);
            self.prepare(piece, tokens.clone(), ready);
            self.path.run(Steps {
                piece,
                ready: &mut *ready,
                tokens,
            });
            first += TOKENS;
        }
    }

    /// What the steps of some tokens need, in f32.
    fn prepare(&self, piece: &Piece, tokens: Range<usize>, ready: &mut Ready) {
        let of = piece.of;
        let dim = of.k.shape().dim;
        for (i, token) in tokens.enumerate() {
            let row = i * dim..(i + 1) * dim;
            for (heads, to, query) in [(&of.q, &mut *ready.q, true), (&of.k, &mut *ready.k, false)]
            {
                let to = &mut to[row.clone()];
                with_element!(heads.dtype(), E => self.path.run(Widen {
                    x: heads.row::<E>(piece.key_head, token),
                    to: &mut *to,
                }));
                if let Some(normalise) = of.normalise {
                    let (scale, eps) = match query {
                        true => (normalise.q_scale, normalise.eps),
                        false => (normalise.k_scale, normalise.eps),
                    };
                    self.path.run(Norm { x: to, scale, eps });
                }
            }
            let decay = &mut ready.decay[row];
            match &of.decay {
                Decay::Head(given) => {
                    // SAFETY: the token has a number for the head.
                    let log = unsafe { given.row::<f32>(token).add(piece.head).read_unaligned() };
                    decay.fill(log.exp());
                }
                Decay::Channel(given) => self.path.run(Exp {
                    x: given.row::<f32>(token).wrapping_add(piece.head * dim),
                    to: decay,
                }),
            }
            let values = &mut ready.v[i * ROWS..][..piece.rows.len()];
            with_element!(of.v.dtype(), E => self.path.run(Widen {
                x: of.v.row::<E>(piece.head, token).wrapping_add(piece.rows.start),
                to: values,
            }));
            ready.beta[i] = of.beta.map_or(1.0, |beta| {
                // SAFETY: the token has a number for the head.
                unsafe { beta.row::<f32>(token).add(piece.head).read_unaligned() }
            });
        }
    }
}

/// Some rows of one head's state.
struct Piece<'a> {
    of: &'a Recurrence<'a>,
    state: Option<&'a Floats<'a>>,
    new_state: &'a FloatsMut<'a>,
    y: &'a FloatsMut<'a>,
    head: usize,
    key_head: usize,
    rows: Range<usize>,
}

impl Piece<'_> {
    /// A row of the head's among all.
    fn row(&self, row: usize) -> usize {
        self.head * self.of.v.shape().dim + row
    }
}

/// What the steps of some tokens need, token by token.
struct Ready<'a> {
    /// `[tokens, dim]`
    q: &'a mut [f32],
    k: &'a mut [f32],
    decay: &'a mut [f32],
    /// `[tokens, ROWS]`; y takes the place of v.
    v: &'a mut [f32],
    /// `[tokens]`
    beta: &'a mut [f32],
}

impl<'a> Ready<'a> {
    const fn size(dim: usize) -> usize {
        TOKENS * (3 * dim + ROWS + 1)
    }

    fn new(memory: &'a mut [f32], dim: usize) -> Ready<'a> {
        let (q, rest) = memory.split_at_mut(TOKENS * dim);
        let (k, rest) = rest.split_at_mut(TOKENS * dim);
        let (decay, rest) = rest.split_at_mut(TOKENS * dim);
        let (v, beta) = rest.split_at_mut(TOKENS * ROWS);
        Ready {
            q,
            k,
            decay,
            v,
            beta,
        }
    }
}

/// The rows as they were before the first token.
struct Begin<'a> {
    piece: &'a Piece<'a>,
}

impl Kernel for Begin<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let piece = self.piece;
        let dim = piece.new_state.width();
        for row in piece.rows.clone() {
            let row = piece.row(row);
            let to = piece.new_state.row::<f32>(row);
            let from = piece.state.map(|state| state.row::<f32>(row));
            let mut i = 0;
            while i < dim {
                let x = match from {
                    Some(from) => load::<S, f32>(from.add(i), dim - i),
                    None => S::splat(0.0),
                };
                store::<S, f32>(to.add(i), dim - i, x);
                i += S::LANES;
            }
        }
    }
}

/// One row, in place.
struct Norm<'a> {
    x: &'a mut [f32],
    scale: f32,
    eps: f32,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (n, x) = (self.x.len(), self.x.as_mut_ptr());
        let mut sum = S::splat(0.0);
        let mut i = 0;
        while i < n {
            let v = load::<S, f32>(x.add(i), n - i);
            sum = S::fma(v, v, sum);
            i += S::LANES;
        }
        let scale = S::splat(self.scale / (S::sum(sum) / n as f32 + self.eps).sqrt());
        let mut i = 0;
        while i < n {
            let v = load::<S, f32>(x.add(i), n - i);
            store::<S, f32>(x.add(i), n - i, S::mul(v, scale));
            i += S::LANES;
        }
    }
}

/// As many exponentials as `to` has.
struct Exp<'a> {
    x: *const f32,
    to: &'a mut [f32],
}

impl Kernel for Exp<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (n, to) = (self.to.len(), self.to.as_mut_ptr());
        let mut i = 0;
        while i < n {
            let e = exp::<S>(load::<S, f32>(self.x.add(i), n - i));
            store::<S, f32>(to.add(i), n - i, e);
            i += S::LANES;
        }
    }
}

/// Some tokens by all rows of a piece.
struct Steps<'a, 'b> {
    piece: &'a Piece<'a>,
    ready: &'a mut Ready<'b>,
    tokens: Range<usize>,
}

impl Kernel for Steps<'_, '_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (piece, ready) = (self.piece, self.ready);
        let rows = piece.rows.len();
        let whole = rows / TOGETHER * TOGETHER;
        let mut row = 0;
        while row < whole {
            some_rows::<S, TOGETHER>(piece, ready, row, self.tokens.len());
            row += TOGETHER;
        }
        while row < rows {
            some_rows::<S, 1>(piece, ready, row, self.tokens.len());
            row += 1;
        }
        for (i, token) in self.tokens.enumerate() {
            let mut row = 0;
            while row < rows {
                // ROWS is a multiple of 16, so that there are as many numbers.
                let from = ready.v.as_ptr().add(i * ROWS + row);
                let column = piece.row(piece.rows.start + row);
                piece.y.put::<S>(token, column, from, (rows - row).min(16));
                row += 16;
            }
        }
    }
}

/// `R` rows from `row` of the piece on, over the tokens that are ready; y takes the place of v.
#[inline(always)]
unsafe fn some_rows<S: Simd, const R: usize>(
    piece: &Piece,
    ready: &mut Ready,
    row: usize,
    tokens: usize,
) {
    let dim = piece.new_state.width();
    let first = piece.row(piece.rows.start + row);
    let states: [*mut f32; R] = std::array::from_fn(|r| piece.new_state.row::<f32>(first + r));
    let learns = piece.of.beta.is_some();
    for token in 0..tokens {
        let k = ready.k.as_ptr().add(token * dim);
        let q = ready.q.as_ptr().add(token * dim);
        let decay = ready.decay.as_ptr().add(token * dim);
        let v = ready.v.as_mut_ptr().add(token * ROWS + row);
        let mut d: [f32; R] = std::array::from_fn(|r| *v.add(r));
        if learns {
            // What the decayed state has for the key.
            let mut sums = [S::splat(0.0); R];
            let mut i = 0;
            while i < dim {
                let n = dim - i;
                let key = load::<S, f32>(k.add(i), n);
                let by = load::<S, f32>(decay.add(i), n);
                for r in 0..R {
                    let s = S::mul(load::<S, f32>(states[r].add(i), n), by);
                    sums[r] = S::fma(s, key, sums[r]);
                }
                i += S::LANES;
            }
            let beta = *ready.beta.as_ptr().add(token);
            for (d, has) in d.iter_mut().zip(totals::<S, R>(sums)) {
                *d = beta * (*d - has);
            }
        }
        let mut sums = [S::splat(0.0); R];
        let mut i = 0;
        while i < dim {
            let n = dim - i;
            let key = load::<S, f32>(k.add(i), n);
            let query = load::<S, f32>(q.add(i), n);
            let by = load::<S, f32>(decay.add(i), n);
            for r in 0..R {
                let s = S::mul(load::<S, f32>(states[r].add(i), n), by);
                let s = S::fma(S::splat(d[r]), key, s);
                store::<S, f32>(states[r].add(i), n, s);
                sums[r] = S::fma(s, query, sums[r]);
            }
            i += S::LANES;
        }
        for (r, y) in totals::<S, R>(sums).into_iter().enumerate() {
            *v.add(r) = y;
        }
    }
}

/// The sums of `R` vectors.
#[inline(always)]
unsafe fn totals<S: Simd, const R: usize>(sums: [S::F; R]) -> [f32; R] {
    if R == 4 {
        let all = S::sum4(std::array::from_fn(|r| sums[r % R]));
        return std::array::from_fn(|r| all[r % 4]);
    }
    sums.map(|sum| S::sum(sum))
}
