//! Several attentions at once: what all of them have to do is handed to the threads as one list of jobs.
//!
//! Each is cut as it would be alone, so that what it gives does not depend on the others.

use std::iter::repeat_n;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::heads::{Heads, HeadsMut};
use super::super::kept::{FloatRows, PackedRows};
use super::super::packed_heads::Stored;
use super::super::shared::SharedMut;
use super::super::Kernels;
use super::{with_element, Attend, AttentionOptions, Finish, Job, Visible, PIECE, ROWS};

/// Queries, what they are asked of, and where the answer goes. Sizes as for `Kernels::attention`.
pub(in super::super) struct Asked<'a> {
    pub queries: Heads<'a>,
    pub keys: Stored<'a>,
    /// The second part of queries and keys, see `Kernels::attention_in_parts`.
    pub more: Option<(Heads<'a>, Stored<'a>)>,
    pub values: Stored<'a>,
    pub options: AttentionOptions<'a>,
    pub out: HeadsMut<'a>,
}

impl Asked<'_> {
    fn check(&self) {
        let (q, k) = (self.queries.shape(), self.keys.shape());
        let (v, o) = (self.values.shape(), self.out.shape());
        let fits = q.dim == k.dim
            && k.heads == v.heads
            && k.tokens == v.tokens
            && (o.heads, o.tokens, o.dim) == (q.heads, q.tokens, v.dim)
            && q.heads.checked_rem(k.heads).unwrap_or(q.heads) == 0
            && (self.options.visible == Visible::All || q.tokens <= k.tokens)
            && self
                .options
                .sinks
                .is_none_or(|sinks| sinks.rows() == 1 && sinks.width() == q.heads);
        assert!(fits, "attention: {q:?} by {k:?} and {v:?} to {o:?}");
        let fits = self.more.as_ref().is_none_or(|(queries, keys)| {
            let (more, own) = (queries.shape(), keys.shape());
            more.dim == own.dim
                && (more.heads, more.tokens) == (q.heads, q.tokens)
                && (own.heads, own.tokens) == (k.heads, k.tokens)
        });
        assert!(fits, "attention: a second part that does not fit");
    }
}

/// How one attention is cut into jobs: by key heads, by heads and by queries that share them, and by keys.
struct Cut {
    /// Query heads of one key head.
    group: usize,
    /// Queries of one job.
    tile: usize,
    /// A head's queries that share one pass over the keys; more heads than rows go in several.
    head_parts: usize,
    parts: usize,
    /// Of the keys.
    pieces: usize,
    /// Rows that its pieces share, and how many such there are.
    shares: usize,
    /// Numbers of one job: for each row the weighted sum, the largest score, the sum of weights.
    size: usize,
    first_job: usize,
    first_share: usize,
    first_number: usize,
}

impl Cut {
    /// Behind all that is cut already.
    fn new(asked: &Asked, before: Option<&Cut>) -> Cut {
        let (q, k) = (asked.queries.shape(), asked.keys.shape());
        let group = q.heads.checked_div(k.heads).unwrap_or(0);
        let tile = (ROWS / group.max(1)).max(1);
        let head_parts = group.div_ceil(ROWS);
        let parts = q.tokens.div_ceil(tile);
        // By the number of queries and not by how they are cut: so many at once have the bits of one at a time.
        let pieces = match q.tokens {
            0..=ROWS => k.tokens.div_ceil(PIECE).max(1),
            _ => 1,
        };
        let rows = group.min(ROWS) * tile.min(q.tokens);
        Cut {
            group,
            tile,
            head_parts,
            parts,
            pieces,
            shares: k.heads * head_parts * parts,
            size: rows * (asked.values.shape().dim + 2),
            first_job: before.map_or(0, |cut| cut.first_job + cut.jobs()),
            first_share: before.map_or(0, |cut| cut.first_share + cut.shares),
            first_number: before.map_or(0, |cut| cut.first_number + cut.jobs() * cut.size),
        }
    }

    fn jobs(&self) -> usize {
        self.shares * self.pieces
    }

    fn job<'a>(&self, asked: &'a Asked<'a>, share: usize, piece: usize) -> Job<'a> {
        let (rest, part) = (share / self.parts, share % self.parts);
        let (kv_head, head_part) = (rest / self.head_parts, rest % self.head_parts);
        let heads = head_part * ROWS..self.group.min((head_part + 1) * ROWS);
        let first = kv_head * self.group;
        let (tokens, keys) = (asked.queries.shape().tokens, asked.keys.shape());
        Job {
            queries: &asked.queries,
            more: asked.more.as_ref().map(|(queries, _)| queries),
            keys,
            value_dim: asked.values.shape().dim,
            options: asked.options,
            out: &asked.out,
            kv_head,
            heads: first + heads.start..first + heads.end,
            tokens: part * self.tile..tokens.min((part + 1) * self.tile),
            span: match self.pieces {
                1 => 0..keys.tokens,
                _ => piece * PIECE..keys.tokens.min((piece + 1) * PIECE),
            },
        }
    }
}

impl Kernels {
    /// Panics where sizes do not fit, and where causal attention has more queries than keys.
    pub(in super::super) fn attend_all(&self, all: &[Asked]) {
        let mut cuts: Vec<Cut> = Vec::with_capacity(all.len());
        let mut products = 0;
        for asked in all {
            asked.check();
            cuts.push(Cut::new(asked, cuts.last()));
            let (q, k) = (asked.queries.shape(), asked.keys.shape());
            products += q.heads * q.tokens * k.tokens * q.dim;
        }
        let Some(end) = all.last().map(|asked| Cut::new(asked, cuts.last())) else {
            return;
        };
        let mut numbers = self.scratch.floats();
        numbers.resize(end.first_number, 0.0);
        let memory = SharedMut::new(&mut numbers);
        // Pieces that are still to be done.
        let left = cuts.iter().flat_map(|cut| repeat_n(cut.pieces, cut.shares));
        let left: Vec<AtomicUsize> = left.map(AtomicUsize::new).collect();
        let work = |index: usize| {
            let which = cuts.partition_point(|cut| cut.first_job <= index) - 1;
            let (asked, cut) = (&all[which], &cuts[which]);
            let own = index - cut.first_job;
            let (share, piece) = (own / cut.pieces, own % cut.pieces);
            let job = cut.job(asked, share, piece);
            // SAFETY: every job has its own part.
            let partial = unsafe { memory.slice(cut.first_number + own * cut.size, cut.size) };
            self.attend_job(asked, &job, partial);
            // Whoever has done the last piece of some rows joins all of them.
            if left[cut.first_share + share].fetch_sub(1, Ordering::AcqRel) == 1 {
                let first = cut.first_number + share * cut.pieces * cut.size;
                // SAFETY: the pieces are done, as their threads released, and none of them is looked at elsewhere any more.
                let partial = unsafe { memory.slice(first, cut.pieces * cut.size) };
                self.path.run(Finish {
                    job: &job,
                    partial,
                    pieces: cut.pieces,
                });
            }
        };
        if products < 1 << 16 {
            (0..end.first_job).for_each(work);
        } else {
            self.pool.parallel(end.first_job, work);
        }
    }

    fn attend_job(&self, asked: &Asked, job: &Job, partial: &mut [f32]) {
        let more = asked.more.as_ref().map(|(_, keys)| keys);
        match (&asked.keys, more, &asked.values) {
            (Stored::Floats(keys), None | Some(Stored::Floats(_)), Stored::Floats(values)) => {
                let more = more.and_then(Stored::as_floats);
                let all = more.into_iter().chain([values]);
                let alike = all.into_iter().all(|rows| rows.dtype() == keys.dtype());
                assert!(alike, "attention: two types");
                with_element!(keys.dtype(), K => self.path.run(Attend {
                    job,
                    keys: FloatRows::<K>::new(keys),
                    more: more.map(FloatRows::<K>::new),
                    values: FloatRows::<K>::new(values),
                    partial,
                }));
            }
            (Stored::Packed(keys), None | Some(Stored::Packed(_)), Stored::Packed(values)) => {
                let more = more.and_then(Stored::as_packed);
                let all = more.into_iter().chain([values]);
                let alike = all.into_iter().all(|rows| rows.bits() == keys.bits());
                assert!(alike, "attention: two numbers of bits");
                match keys.bits() {
                    4 => self.path.run(Attend {
                        job,
                        keys: PackedRows::<4>::new(keys),
                        more: more.map(PackedRows::<4>::new),
                        values: PackedRows::<4>::new(values),
                        partial,
                    }),
                    _ => self.path.run(Attend {
                        job,
                        keys: PackedRows::<8>::new(keys),
                        more: more.map(PackedRows::<8>::new),
                        values: PackedRows::<8>::new(values),
                        partial,
                    }),
                }
            }
            _ => panic!("attention: keys and values that are not stored alike"),
        }
    }
}
