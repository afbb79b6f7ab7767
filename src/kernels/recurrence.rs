//! Linear attention: a state for each head that every token decays, adds to and reads. Gated delta rule, Kimi's delta
//! attention, Mamba 2.
//!
//! The rows of a state have nothing to do with each other once keys and queries are known, so a piece of work is some rows of
//! one head, over all tokens; how it is cut does not depend on the number of threads. Everything is f32.

mod steps;

use std::ops::Range;

use super::float::{with_element, Floats, FloatsMut};
use super::heads::Heads;
use super::qmatmul::Chunks;
use super::widen::Widen;
use super::Kernels;
use crate::dtype::Dtype;
use steps::{Begin, Exp, Norm, Steps};

/// Rows of the state of one piece of work.
const ROWS: usize = 32;
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
