//! Attention over a cache of keys and values: `softmax(scale q kᵀ) v` with grouped queries.
//!
//! Keys are taken in blocks; each row of scores keeps its largest score, the sum of its exponentials and the weighted sum
//! of values, scaled down when a larger score comes. The work is cut the same way whatever the number of threads.
//!
//! Errors, for scores s and with `e = 2^-24`: a score is off by `(dim + 4) e scale Σ |q k|`, a weight by that plus 2^-21,
//! relatively; an output by the weights' errors times the largest value, plus `(keys + 8) e` times it, and its rounding.

#![allow(unsafe_op_in_unsafe_fn)]
// Indices name registers here.
#![allow(clippy::needless_range_loop)]

mod pass;
mod texts;

use std::ops::Range;

use super::activations::tiles;
use super::float::{load, store, with_element, Element, Floats};
use super::heads::{HeadShape, Heads, HeadsMut};
use super::kept::{Factors, Rows};
use super::math::exp;
use super::microkernel::{accumulate, dots, rows_at_once, COLUMNS, VECTORS};
use super::numbers::Numbers;
use super::packed_heads::Stored;
use super::rowwise::Softcap;
use super::simd::{Kernel, Simd};
use super::Kernels;

pub(super) use pass::Asked;
pub use texts::Texts;

/// Keys of one block.
const BLOCK: usize = 64;
/// Rows (queries by heads that share keys) that go over the keys together.
const ROWS: usize = 16;
/// Keys of one piece of work where there are few queries.
const PIECE: usize = 512;

/// Which keys a query sees. The last query belongs to the last key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    All,
    /// Its own and those before, the last `window` of them where there is one.
    Causal {
        window: Option<usize>,
    },
    /// Those whose positions are less than `window` from its own, on both sides.
    Near {
        window: usize,
    },
}

/// What attention does beside products.
#[derive(Clone, Copy)]
pub struct AttentionOptions<'a> {
    pub scale: f32,
    pub visible: Visible,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// `[1, heads]`: one more score for each head, which takes part in the sum and has no value.
    pub sinks: Option<Floats<'a>>,
}

impl Kernels {
    /// queries `[heads, n, dim]`, keys `[kv_heads, tokens, dim]`, values `[kv_heads, tokens, value_dim]`, out `[heads, n,
    /// value_dim]`; `heads` a multiple of `kv_heads`. A query that sees no key gives zeros.
    ///
    /// Panics where the sizes do not fit, and where causal attention has more queries than keys.
    pub fn attention<'a>(
        &self,
        queries: &Heads,
        keys: impl Into<Stored<'a>>,
        values: impl Into<Stored<'a>>,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        let (keys, values) = (keys.into(), values.into());
        self.attend_in(queries, keys, None, values, options, out);
    }

    /// The same of queries and keys in two parts: the second are `[heads, n, more]` and `[kv_heads, tokens, more]`, the keys
    /// stored as the first are, and scores are the sums of both parts' products.
    pub fn attention_in_parts(
        &self,
        queries: [&Heads; 2],
        keys: [Stored; 2],
        values: Stored,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        let ([first, more], [keys, more_keys]) = (queries, keys);
        let more = Some((*more, more_keys));
        self.attend_in(first, keys, more, values, options, out);
    }

    fn attend_in(
        &self,
        queries: &Heads,
        keys: Stored,
        more: Option<(Heads, Stored)>,
        values: Stored,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        let tokens = out.shape().tokens;
        self.attend_all(&[Asked {
            queries: *queries,
            keys,
            more,
            values,
            options,
            out: out.some_tokens(0, tokens),
        }]);
    }
}

/// Some queries of the heads that share one key head, by some of its keys.
struct Job<'a> {
    queries: &'a Heads<'a>,
    /// Their second part.
    more: Option<&'a Heads<'a>>,
    /// Of all keys.
    keys: HeadShape,
    value_dim: usize,
    options: AttentionOptions<'a>,
    out: &'a HeadsMut<'a>,
    kv_head: usize,
    heads: Range<usize>,
    tokens: Range<usize>,
    /// Keys.
    span: Range<usize>,
}

impl Job<'_> {
    /// Of both parts.
    fn query_dim(&self) -> usize {
        let more = self.more.map_or(0, |queries| queries.shape().dim);
        self.queries.shape().dim + more
    }

    fn rows(&self) -> usize {
        self.heads.len() * self.tokens.len()
    }

    /// The head and token of a row: the heads of one token follow each other.
    fn place(&self, row: usize) -> (usize, usize) {
        (
            self.heads.start + row % self.heads.len(),
            self.tokens.start + row / self.heads.len(),
        )
    }

    /// The keys that a row sees, of those in `span`.
    fn sees(&self, row: usize) -> Range<usize> {
        let keys = self.keys.tokens;
        // The position among the keys; there are at least as many keys as queries.
        let (_, token) = self.place(row);
        let own = || keys - self.queries.shape().tokens + token;
        let (first, end) = match self.options.visible {
            Visible::All => return self.span.clone(),
            Visible::Causal { window } => {
                let end = own() + 1;
                (window.map_or(0, |window| end.saturating_sub(window)), end)
            }
            Visible::Near { window } => ((own() + 1).saturating_sub(window), own() + window),
        };
        let end = self.span.end.min(end);
        self.span.start.max(first).min(end)..end
    }
}

struct Attend<'a, K> {
    job: &'a Job<'a>,
    keys: K,
    /// Their second part.
    more: Option<K>,
    values: K,
    /// For each row the weighted sum of values, the largest score, and the sum of weights.
    partial: &'a mut [f32],
}

impl<K: Rows> Kernel for Attend<'_, K> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let job = self.job;
        let (rows, dim, value_dim) = (job.rows(), job.query_dim(), job.value_dim);
        let width = value_dim + 2;
        let mut queries = vec![0.0_f32; rows * dim];
        for (row, to) in queries.chunks_exact_mut(dim.max(1)).enumerate() {
            let (head, token) = job.place(row);
            let (first, rest) = to.split_at_mut(job.queries.shape().dim);
            let more = job.more.map(|queries| (queries, rest));
            for (queries, to) in [(job.queries, first)].into_iter().chain(more) {
                with_element!(queries.dtype(), Q => scaled::<S, Q>(
                    queries.row::<Q>(head, token),
                    job.options.scale,
                    to,
                ));
            }
        }
        let mut seen = job.span.end..job.span.start;
        for row in 0..rows {
            let sees = job.sees(row);
            if !sees.is_empty() {
                seen = seen.start.min(sees.start)..seen.end.max(sees.end);
            }
        }
        for partial in self.partial.chunks_exact_mut(width).take(rows) {
            partial.fill(0.0);
            partial[value_dim] = f32::NEG_INFINITY;
        }
        let mut scores = [[0.0_f32; BLOCK]; ROWS];
        let mut factors: [Factors; 3] = Default::default();
        let [own, second, of_values] = &mut factors;
        let mut start = seen.start;
        while start < seen.end {
            let n = BLOCK.min(seen.end - start);
            let span = start..start + n;
            let keys = self.keys.block::<S>(job.kv_head, span.clone(), own);
            let more = self.more.as_ref();
            let more = more.map(|more| more.block::<S>(job.kv_head, span.clone(), second));
            let keys = (keys, more);
            for (first, size) in tiles(rows, rows_at_once(S::LANES)) {
                let scores = &mut scores[first..first + size];
                let queries = queries.as_ptr().add(first * dim);
                // The next block's keys, once.
                let fetch = first == 0;
                match size {
                    4 => self.score::<S, 4>(queries, keys, n, scores, fetch),
                    2 => self.score::<S, 2>(queries, keys, n, scores, fetch),
                    _ => self.score::<S, 1>(queries, keys, n, scores, fetch),
                }
            }
            let mut keep = [1.0; ROWS];
            for row in 0..rows {
                let scores = &mut scores[row][..n];
                if let Some(cap) = job.options.softcap {
                    Softcap { x: scores, cap }.run::<S>();
                }
                let sees = job.sees(row);
                let from = sees.start.clamp(start, start + n) - start;
                let to = sees.end.clamp(start, start + n) - start;
                scores[..from].fill(f32::NEG_INFINITY);
                scores[to.max(from)..].fill(f32::NEG_INFINITY);
                let state = &mut self.partial[row * width + value_dim..(row + 1) * width];
                keep[row] = weigh::<S>(scores, state);
            }
            let values = self.values.block::<S>(job.kv_head, span, of_values);
            for (first, size) in tiles(rows, rows_at_once(S::LANES)) {
                let partial = self.partial.as_mut_ptr().add(first * width);
                let (scores, keep) = (scores[first].as_ptr(), keep[first..].as_ptr());
                let fetch = first == 0;
                match size {
                    4 => self.weighted::<S, 4>(partial, scores, keep, values, n, fetch),
                    2 => self.weighted::<S, 2>(partial, scores, keep, values, n, fetch),
                    _ => self.weighted::<S, 1>(partial, scores, keep, values, n, fetch),
                }
            }
            start += n;
        }
    }
}

impl<K: Rows> Attend<'_, K> {
    /// Scores of R rows for the first `n` keys of a block, and of their second part.
    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize>(
        &self,
        queries: *const f32,
        (keys, more): (K::Numbers, Option<K::Numbers>),
        n: usize,
        scores: &mut [[f32; BLOCK]],
        fetch: bool,
    ) {
        let stride = self.keys.stride();
        let (dim, whole) = (self.job.keys.dim, self.job.query_dim());
        let mut a = [queries; R];
        for (r, a) in a.iter_mut().enumerate() {
            *a = a.add(r * whole);
        }
        let ahead = usize::from(fetch) * BLOCK * stride;
        let mut key = 0;
        while key < n {
            // Past the end the last key is scored again.
            let b = [
                keys.skip(key, stride),
                keys.skip((key + 1).min(n - 1), stride),
                keys.skip((key + 2).min(n - 1), stride),
                keys.skip((key + 3).min(n - 1), stride),
            ];
            let sums = dots::<S, K::Numbers, R>(a, b, dim, ahead);
            for (scores, sums) in scores.iter_mut().zip(sums) {
                scores[key..key + COLUMNS].copy_from_slice(&sums);
            }
            key += COLUMNS;
        }
        if let (Some(more), Some(rows)) = (more, &self.more) {
            let queries = a.map(|a| a.add(dim));
            self.add_scores::<S, R>((queries, whole - dim), more, rows.stride(), n, scores);
        }
    }

    /// What the second part of queries and keys adds to the scores of R rows.
    #[inline(always)]
    unsafe fn add_scores<S: Simd, const R: usize>(
        &self,
        (queries, dim): ([*const f32; R], usize),
        keys: K::Numbers,
        stride: usize,
        n: usize,
        scores: &mut [[f32; BLOCK]],
    ) {
        for key in (0..n).step_by(COLUMNS) {
            let b = std::array::from_fn(|c| keys.skip((key + c).min(n - 1), stride));
            let sums = dots::<S, K::Numbers, R>(queries, b, dim, 0);
            for (scores, sums) in scores.iter_mut().zip(sums) {
                for (score, sum) in scores[key..key + COLUMNS].iter_mut().zip(sums) {
                    *score += sum;
                }
            }
        }
    }

    /// Adds the weighted values of `n` keys to R rows of weighted sums, which are first multiplied by `keep`.
    #[inline(always)]
    unsafe fn weighted<S: Simd, const R: usize>(
        &self,
        partial: *mut f32,
        weights: *const f32,
        keep: *const f32,
        values: K::Numbers,
        n: usize,
        fetch: bool,
    ) {
        let (dim, stride) = (self.job.value_dim, self.values.stride());
        let ahead = usize::from(fetch) * BLOCK * stride;
        let mut at = 0;
        while at < dim {
            let left = dim - at;
            let (mut y, mut p, mut k) = ([partial; R], [weights; R], [0.0; R]);
            for r in 0..R {
                y[r] = partial.add(r * (dim + 2) + at);
                p[r] = weights.add(r * BLOCK);
                k[r] = *keep.add(r);
            }
            let v = (values, at);
            if left >= VECTORS * S::LANES {
                let columns = VECTORS * S::LANES;
                accumulate::<S, _, R, VECTORS>(y, k, p, v, stride, n, columns, ahead);
                at += columns;
            } else {
                accumulate::<S, _, R, 1>(y, k, p, v, stride, n, left.min(S::LANES), ahead);
                at += S::LANES;
            }
        }
    }
}

/// A row times a number, as f32.
#[inline(always)]
unsafe fn scaled<S: Simd, E: Element>(x: *const E, scale: f32, to: &mut [f32]) {
    let n = to.len();
    let mut i = 0;
    while i < n {
        let v = S::mul(load::<S, E>(x.add(i), n - i), S::splat(scale));
        store::<S, f32>(to.as_mut_ptr().add(i), n - i, v);
        i += S::LANES;
    }
}

/// Turns scores into weights against the largest so far; `state` is the largest score and the sum of weights. Gives what
/// older weights are multiplied by.
#[inline(always)]
unsafe fn weigh<S: Simd>(scores: &mut [f32], state: &mut [f32]) -> f32 {
    let n = scores.len();
    // NaN among the scores is not the largest of anything; it comes back in the exponentials.
    let largest = scores.iter().fold(state[0], |a, &b| a.max(b));
    if largest == f32::NEG_INFINITY {
        // Nothing is seen so far, or NaN alone.
        for score in scores.iter_mut() {
            *score = if score.is_nan() { *score } else { 0.0 };
            state[1] += *score;
        }
        return 1.0;
    }
    let p = scores.as_mut_ptr();
    let shift = S::splat(largest);
    let mut sums = 0.0;
    let mut i = 0;
    while i < n {
        let e = exp::<S>(S::sub(load::<S, f32>(p.add(i), n - i), shift));
        store::<S, f32>(p.add(i), n - i, e);
        i += S::LANES;
    }
    for &score in scores.iter() {
        sums += score;
    }
    let keep = (state[0] - largest).exp();
    state[1] = state[1] * keep + sums;
    state[0] = largest;
    keep
}

/// Joins the pieces of each row, adds the sink, divides, and writes.
struct Finish<'a> {
    job: &'a Job<'a>,
    /// One after the other and equally long, as `Attend` left them; the first takes the result.
    partial: &'a mut [f32],
    pieces: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (job, dim) = (self.job, self.job.value_dim);
        let (width, size) = (dim + 2, self.partial.len() / self.pieces);
        for row in 0..job.rows() {
            let (head, token) = job.place(row);
            let piece = |piece: usize| piece * size + row * width;
            let sink = job.options.sinks.map(|sinks| {
                with_element!(sinks.dtype(), E => {
                    sinks.row::<E>(0).add(head).read_unaligned().to_f32()
                })
            });
            let largest = (0..self.pieces)
                .map(|p| self.partial[piece(p) + dim])
                .fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
            let mut sum = sink.map_or(0.0, |sink| (sink - largest).exp());
            for p in 0..self.pieces {
                let at = piece(p);
                let own = self.partial[at + dim];
                // Nothing seen: the sum is zero, or NaN if a score was.
                let factor = if own == f32::NEG_INFINITY {
                    1.0
                } else {
                    (own - largest).exp()
                };
                sum += self.partial[at + dim + 1] * factor;
                for i in 0..dim {
                    let value = self.partial[at + i] * factor;
                    if p == 0 {
                        self.partial[at + i] = value;
                    } else {
                        self.partial[row * width + i] += value;
                    }
                }
            }
            // A query that sees nothing, without a sink.
            let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
            let from = self.partial.as_ptr().add(row * width);
            with_element!(job.out.dtype(), O => {
                let to = job.out.row::<O>(head, token);
                let mut i = 0;
                while i < dim {
                    let v = S::mul(load::<S, f32>(from.add(i), dim - i), S::splat(inverse));
                    store::<S, O>(to.add(i), dim - i, v);
                    i += S::LANES;
                }
            });
        }
    }
}
