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

mod texts;

use std::ops::Range;

use super::activations::tiles;
use super::float::{load, store, with_element, Element, Floats};
use super::heads::{Heads, HeadsMut};
use super::math::exp;
use super::microkernel::{accumulate, dots, rows_at_once, COLUMNS, VECTORS};
use super::rowwise::Softcap;
use super::shared::SharedMut;
use super::simd::{Kernel, Simd};
use super::Kernels;

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
    pub fn attention(
        &self,
        queries: &Heads,
        keys: &Heads,
        values: &Heads,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        self.attend_in([queries, keys], None, values, options, out);
    }

    /// The same of queries and keys in two parts: `more` is the second of each, `[heads, n, more]` and `[kv_heads, tokens, more]`,
    /// the keys of the type of the first, and scores are the sums of both parts' products.
    pub fn attention_in_parts(
        &self,
        first: [&Heads; 2],
        more: [&Heads; 2],
        values: &Heads,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        self.attend_in(first, Some(more), values, options, out);
    }

    fn attend_in(
        &self,
        [queries, keys]: [&Heads; 2],
        more: Option<[&Heads; 2]>,
        values: &Heads,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        let (q, k, v, o) = (queries.shape(), keys.shape(), values.shape(), out.shape());
        let fits = q.dim == k.dim
            && k.heads == v.heads
            && k.tokens == v.tokens
            && (o.heads, o.tokens, o.dim) == (q.heads, q.tokens, v.dim)
            && q.heads.checked_rem(k.heads).unwrap_or(q.heads) == 0
            && (options.visible == Visible::All || q.tokens <= k.tokens)
            && options
                .sinks
                .is_none_or(|sinks| sinks.rows() == 1 && sinks.width() == q.heads);
        assert!(fits, "attention: {q:?} by {k:?} and {v:?} to {o:?}");
        assert!(keys.dtype() == values.dtype(), "attention: two types");
        let fits = more.is_none_or(|[queries, keys]| {
            let (more, own) = (queries.shape(), keys.shape());
            more.dim == own.dim
                && (more.heads, more.tokens) == (q.heads, q.tokens)
                && (own.heads, own.tokens) == (k.heads, k.tokens)
                && keys.dtype() == values.dtype()
        });
        assert!(fits, "attention: a second part that does not fit");
        if q.heads == 0 || q.tokens == 0 {
            return;
        }
        let group = q.heads / k.heads;
        let tile = (ROWS / group).max(1);
        // A head's queries that share one pass over the keys; more heads than rows go in several.
        let head_parts = group.div_ceil(ROWS);
        let parts = q.tokens.div_ceil(tile);
        let pieces = match parts {
            1 => k.tokens.div_ceil(PIECE).max(1),
            _ => 1,
        };
        let jobs = k.heads * head_parts * parts * pieces;
        // Each piece's rows: weighted sum, largest score, sum.
        let row = v.dim + 2;
        let mut partial = self.scratch.floats();
        partial.resize(jobs * ROWS * row, 0.0);
        let memory = SharedMut::new(&mut partial);
        let out = &*out;
        let job = |index: usize| {
            let (rest, piece) = (index / pieces, index % pieces);
            let (rest, part) = (rest / parts, rest % parts);
            let (kv_head, head_part) = (rest / head_parts, rest % head_parts);
            let heads = head_part * ROWS..group.min((head_part + 1) * ROWS);
            Job {
                queries,
                keys,
                more,
                values,
                options,
                out,
                kv_head,
                heads: kv_head * group + heads.start..kv_head * group + heads.end,
                tokens: part * tile..q.tokens.min((part + 1) * tile),
                span: if pieces == 1 {
                    0..k.tokens
                } else {
                    piece * PIECE..k.tokens.min((piece + 1) * PIECE)
                },
            }
        };
        let work = |index: usize| {
            // SAFETY: every job has its own part.
            let partial = unsafe { memory.slice(index * ROWS * row, ROWS * row) };
            let job = job(index);
            with_element!(keys.dtype(), K => self.path.run(Attend::<K> {
                job: &job,
                partial,
                element: std::marker::PhantomData,
            }));
            if pieces == 1 {
                self.path.run(Finish {
                    job: &job,
                    partial,
                    pieces,
                });
            }
        };
        if q.heads * q.tokens * k.tokens * q.dim < 1 << 16 {
            (0..jobs).for_each(work);
        } else {
            self.pool.parallel(jobs, work);
        }
        if pieces > 1 {
            for (index, partial) in partial.chunks_exact_mut(pieces * ROWS * row).enumerate() {
                let job = job(index * pieces);
                self.path.run(Finish {
                    job: &job,
                    partial,
                    pieces,
                });
            }
        }
    }
}

/// Some queries of the heads that share one key head, by some of its keys.
struct Job<'a> {
    queries: &'a Heads<'a>,
    keys: &'a Heads<'a>,
    /// The second part of both.
    more: Option<[&'a Heads<'a>; 2]>,
    values: &'a Heads<'a>,
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
        let more = self.more.map_or(0, |[queries, _]| queries.shape().dim);
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
        let keys = self.keys.shape().tokens;
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
    /// For each row the weighted sum of values, the largest score, and the sum of weights.
    partial: &'a mut [f32],
    element: std::marker::PhantomData<K>,
}

impl<K: Element> Kernel for Attend<'_, K> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let job = self.job;
        let (rows, dim, value_dim) = (job.rows(), job.query_dim(), job.values.shape().dim);
        let width = value_dim + 2;
        let mut queries = vec![0.0_f32; rows * dim];
        for (row, to) in queries.chunks_exact_mut(dim.max(1)).enumerate() {
            let (head, token) = job.place(row);
            let (first, rest) = to.split_at_mut(job.queries.shape().dim);
            let more = job.more.map(|[queries, _]| (queries, rest));
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
        let mut start = seen.start;
        while start < seen.end {
            let n = BLOCK.min(seen.end - start);
            for (first, size) in tiles(rows, rows_at_once(S::LANES)) {
                let scores = &mut scores[first..first + size];
                let queries = queries.as_ptr().add(first * dim);
                // The next block's keys, once.
                let fetch = first == 0;
                match size {
                    4 => self.score::<S, 4>(queries, start, n, scores, fetch),
                    2 => self.score::<S, 2>(queries, start, n, scores, fetch),
                    _ => self.score::<S, 1>(queries, start, n, scores, fetch),
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
            for (first, size) in tiles(rows, rows_at_once(S::LANES)) {
                let partial = self.partial.as_mut_ptr().add(first * width);
                let (scores, keep) = (scores[first].as_ptr(), keep[first..].as_ptr());
                let fetch = first == 0;
                match size {
                    4 => self.weighted::<S, 4>(partial, scores, keep, start, n, fetch),
                    2 => self.weighted::<S, 2>(partial, scores, keep, start, n, fetch),
                    _ => self.weighted::<S, 1>(partial, scores, keep, start, n, fetch),
                }
            }
            start += n;
        }
    }
}

impl<K: Element> Attend<'_, K> {
    /// Scores of R rows for the `n` keys from `start` on.
    #[inline(always)]
    unsafe fn score<S: Simd, const R: usize>(
        &self,
        queries: *const f32,
        start: usize,
        n: usize,
        scores: &mut [[f32; BLOCK]],
        fetch: bool,
    ) {
        let (keys, head) = (self.job.keys, self.job.kv_head);
        let (dim, whole) = (keys.shape().dim, self.job.query_dim());
        let mut a = [queries; R];
        for (r, a) in a.iter_mut().enumerate() {
            *a = a.add(r * whole);
        }
        let ahead = usize::from(fetch) * BLOCK * keys.shape().token_stride;
        let mut key = 0;
        while key < n {
            // Past the end the last key is scored again.
            let b = [
                keys.row::<K>(head, start + key),
                keys.row::<K>(head, start + (key + 1).min(n - 1)),
                keys.row::<K>(head, start + (key + 2).min(n - 1)),
                keys.row::<K>(head, start + (key + 3).min(n - 1)),
            ];
            let sums = dots::<S, K, R>(a, b, dim, ahead);
            for (scores, sums) in scores.iter_mut().zip(sums) {
                scores[key..key + COLUMNS].copy_from_slice(&sums);
            }
            key += COLUMNS;
        }
        if let Some([_, more]) = self.job.more {
            self.add_scores::<S, R>(a.map(|a| a.add(dim)), more, start..start + n, scores);
        }
    }

    /// What the second part of queries and keys adds to the scores of R rows.
    #[inline(always)]
    unsafe fn add_scores<S: Simd, const R: usize>(
        &self,
        queries: [*const f32; R],
        keys: &Heads,
        span: Range<usize>,
        scores: &mut [[f32; BLOCK]],
    ) {
        let (head, dim, last) = (self.job.kv_head, keys.shape().dim, span.end - 1);
        for key in span.clone().step_by(COLUMNS) {
            let b = std::array::from_fn(|c| keys.row::<K>(head, (key + c).min(last)));
            let sums = dots::<S, K, R>(queries, b, dim, 0);
            for (scores, sums) in scores.iter_mut().zip(sums) {
                let at = key - span.start;
                for (score, sum) in scores[at..at + COLUMNS].iter_mut().zip(sums) {
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
        start: usize,
        n: usize,
        fetch: bool,
    ) {
        let shape = self.job.values.shape();
        let mut at = 0;
        while at < shape.dim {
            let left = shape.dim - at;
            let (mut y, mut p, mut k) = ([partial; R], [weights; R], [0.0; R]);
            for r in 0..R {
                y[r] = partial.add(r * (shape.dim + 2) + at);
                p[r] = weights.add(r * BLOCK);
                k[r] = *keep.add(r);
            }
            let v = self.job.values.row::<K>(self.job.kv_head, start).add(at);
            let stride = shape.token_stride;
            let ahead = usize::from(fetch) * BLOCK * stride;
            if left >= VECTORS * S::LANES {
                let columns = VECTORS * S::LANES;
                accumulate::<S, K, R, VECTORS>(y, k, p, v, stride, n, columns, ahead);
                at += columns;
            } else {
                accumulate::<S, K, R, 1>(y, k, p, v, stride, n, left.min(S::LANES), ahead);
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
    /// One after the other, as `Attend` left them; the first takes the result.
    partial: &'a mut [f32],
    pieces: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (job, dim) = (self.job, self.job.values.shape().dim);
        let width = dim + 2;
        for row in 0..job.rows() {
            let (head, token) = job.place(row);
            let piece = |piece: usize| (piece * ROWS + row) * width;
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
