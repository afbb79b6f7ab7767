//! The attention of a block whose rows are several sessions': each has keys and values of its own.

use std::ops::Range;

use super::super::attention::{Asked, AttentionOptions, Visible};
use super::super::float::Floats;
use super::super::rope::Run;
use super::super::scratch::Buffer;
use super::super::Kernels;
use super::{Attention, Matrix, Segment};

impl Kernels {
    /// What was projected of the segments' rows, `[rows, heads * head_dim]` and twice `[rows, kv_heads * head_dim]` → y
    /// `[rows, hidden]`. All keys and values are written.
    pub(super) fn attend_segments(
        &self,
        attention: &Attention<Matrix, Floats>,
        [queries, keys, values]: [Floats; 3],
        segments: &mut [Segment],
        y: &mut Buffer,
    ) {
        let sizes = &attention.sizes;
        let dim = sizes.head_dim;
        let new = |x: &Floats| Buffer::new(&self.scratch, x.dtype(), x.rows(), x.width());
        let runs = segments.iter().map(|segment| Run {
            offset: segment.past.offset,
            tokens: segment.rows,
        });
        let runs: Vec<Run> = runs.collect();
        let turned = |x: Floats| {
            let rope = sizes.rope.as_ref()?;
            let mut made = new(&x);
            let to = &mut made.floats_mut().heads(dim);
            self.rope_runs(rope, &x.heads(dim), &runs, to);
            Some(made)
        };
        let tempered = |x: Floats| {
            let temperature = sizes.temperature.as_ref()?;
            let mut made = new(&x);
            let (from, mut to) = (x.heads(dim), made.floats_mut().heads(dim));
            for (first, run) in places(&runs) {
                let from = from.some_tokens(first, run.tokens);
                let to = &mut to.some_tokens(first, run.tokens);
                self.temper(temperature, &from, run.offset, to);
            }
            Some(made)
        };
        let normed_keys = self.head_norm(&keys, attention.k_norm.as_ref());
        let keys = normed_keys.as_ref().map_or(keys, Buffer::floats);
        let turned_keys = turned(keys);
        let keys = turned_keys.as_ref().map_or(keys, Buffer::floats).heads(dim);
        let values = values.heads(dim);

        let normed_queries = self.head_norm(&queries, attention.q_norm.as_ref());
        let queries = normed_queries.as_ref().map_or(queries, Buffer::floats);
        let turned_queries = turned(queries);
        let queries = turned_queries.as_ref().map_or(queries, Buffer::floats);
        let tempered_queries = tempered(queries);
        let queries = tempered_queries.as_ref().map_or(queries, Buffer::floats);

        let mut attended = new(&queries);
        let out = attended.floats_mut().heads(dim);
        let queries = queries.heads(dim);
        // In the first round all tokens that go in together, and of others the first one; then the next one of each.
        let rounds = segments.iter().map(Segment::rounds).max().unwrap_or(0);
        for round in 0..rounds {
            for (segment, (first, _)) in segments.iter_mut().zip(places(&runs)) {
                let Some(tokens) = segment.tokens_of(round) else {
                    continue;
                };
                let (first, at) = (first + tokens.start, segment.past.place(tokens.start));
                let past = &mut segment.past;
                for (from, to) in [(&keys, &mut past.keys), (&values, &mut past.values)] {
                    let from = from.some_tokens(first, tokens.len());
                    self.keep_heads(&from, &mut to.some_tokens(at, tokens.len()));
                }
            }
            let mut asked = Vec::with_capacity(segments.len());
            for (segment, (first, _)) in segments.iter().zip(places(&runs)) {
                let Some(tokens) = segment.tokens_of(round) else {
                    continue;
                };
                let (past, first) = (&segment.past, first + tokens.start);
                let (seen, visible) = match past.ring {
                    Some(_) => (past.seen(round), Visible::All),
                    None => (past.keys.tokens(), past.visible),
                };
                asked.push(Asked {
                    queries: queries.some_tokens(first, tokens.len()),
                    keys: past.keys.read().first_tokens(seen),
                    more: None,
                    values: past.values.read().first_tokens(seen),
                    options: AttentionOptions {
                        scale: sizes.scale,
                        visible,
                        softcap: sizes.softcap,
                        sinks: attention.sinks,
                    },
                    // SAFETY: the tokens are part of `out`, which is nobody else's; no two segments or rounds share one.
                    out: unsafe { out.shared_tokens(first, tokens.len()) },
                });
            }
            self.attend_all(&asked);
        }
        self.linears(&attended.floats(), &[&attention.o_proj], &mut [y]);
    }
}

impl Segment<'_> {
    fn rounds(&self) -> usize {
        match self.past.ring {
            Some(_) => self.rows,
            None => 1,
        }
    }

    /// Those of its tokens that go in together.
    fn tokens_of(&self, round: usize) -> Option<Range<usize>> {
        let tokens = match self.past.ring {
            Some(_) => round..round + 1,
            None => 0..self.rows,
        };
        (round < self.rounds()).then_some(tokens)
    }
}

/// Each run with the row that it begins at.
fn places(runs: &[Run]) -> impl Iterator<Item = (usize, &Run)> {
    let mut end = 0;
    runs.iter().map(move |run| {
        end += run.tokens;
        (end - run.tokens, run)
    })
}
