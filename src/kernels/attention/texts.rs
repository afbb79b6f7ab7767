//! Attention of several texts at once, each of which sees itself alone.

use super::super::heads::{Heads, HeadsMut};
use super::super::kept::FloatRows;
use super::super::shared::SharedMut;
use super::super::Kernels;
use super::{with_element, Attend, AttentionOptions, Finish, Job, Visible, ROWS};

/// Rows that are texts, one after the other.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    /// Of each text, in tokens.
    pub lengths: &'a [usize],
    /// What a token sees of its own text.
    pub visible: Visible,
}

impl Texts<'_> {
    /// Where each text begins, and its length.
    pub(in super::super) fn places(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut first = 0;
        self.lengths.iter().map(move |&length| {
            first += length;
            (first - length, length)
        })
    }

    pub(in super::super) fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// One text, and the number of its first job.
struct Part<'a> {
    queries: Heads<'a>,
    keys: Heads<'a>,
    values: Heads<'a>,
    first_job: usize,
}

impl Kernels {
    /// As `attention`, of texts: queries `[heads, tokens, dim]`, keys `[kv_heads, tokens, dim]`, values `[kv_heads, tokens,
    /// value_dim]`, out `[heads, tokens, value_dim]`. A text's rows do not depend on the others.
    ///
    /// Panics where the sizes do not fit, or the texts have another number of tokens together.
    pub fn attention_of_texts(
        &self,
        [queries, keys, values]: [&Heads; 3],
        texts: &Texts,
        options: AttentionOptions,
        out: &mut HeadsMut,
    ) {
        let (q, k, v, o) = (queries.shape(), keys.shape(), values.shape(), out.shape());
        let fits = q.dim == k.dim
            && k.heads == v.heads
            && [q.tokens, k.tokens, v.tokens, o.tokens] == [texts.tokens(); 4]
            && (o.heads, o.dim) == (q.heads, v.dim)
            && q.heads.checked_rem(k.heads).unwrap_or(q.heads) == 0
            && options
                .sinks
                .is_none_or(|sinks| sinks.rows() == 1 && sinks.width() == q.heads);
        assert!(
            fits,
            "attention of texts: {q:?} by {k:?} and {v:?} to {o:?}"
        );
        assert!(keys.dtype() == values.dtype(), "attention: two types");
        if q.heads == 0 || q.tokens == 0 {
            return;
        }
        let group = q.heads / k.heads;
        let tile = (ROWS / group).max(1);
        let head_parts = group.div_ceil(ROWS);
        let mut jobs = 0;
        let (mut parts, mut outs) = (Vec::new(), Vec::new());
        for (first, length) in texts.places() {
            parts.push(Part {
                queries: queries.some_tokens(first, length),
                keys: keys.some_tokens(first, length),
                values: values.some_tokens(first, length),
                first_job: jobs,
            });
            // SAFETY: the tokens are part of `out`, which this call alone has; no two texts share one.
            outs.push(unsafe { out.shared_tokens(first, length) });
            jobs += k.heads * head_parts * length.div_ceil(tile);
        }
        // Each job's rows: weighted sum, largest score, sum.
        let row = v.dim + 2;
        let mut partial = self.scratch.floats();
        partial.resize(jobs * ROWS * row, 0.0);
        let memory = SharedMut::new(&mut partial);
        self.pool.parallel(jobs, |index| {
            let text = parts.partition_point(|part| part.first_job <= index) - 1;
            let Part {
                queries,
                keys,
                values,
                first_job,
            } = &parts[text];
            let length = queries.shape().tokens;
            let tiles = length.div_ceil(tile);
            let (rest, at) = ((index - first_job) / tiles, (index - first_job) % tiles);
            let (kv_head, head_part) = (rest / head_parts, rest % head_parts);
            let heads = head_part * ROWS..group.min((head_part + 1) * ROWS);
            // SAFETY: every job has its own part.
            let partial = unsafe { memory.slice(index * ROWS * row, ROWS * row) };
            let job = Job {
                queries,
                more: None,
                keys: keys.shape(),
                value_dim: values.shape().dim,
                options,
                out: &outs[text],
                kv_head,
                heads: kv_head * group + heads.start..kv_head * group + heads.end,
                tokens: at * tile..length.min((at + 1) * tile),
                span: 0..length,
            };
            with_element!(keys.dtype(), K => self.path.run(Attend {
                job: &job,
                keys: FloatRows::<K>::new(keys),
                more: None,
                values: FloatRows::<K>::new(values),
                partial,
            }));
            self.path.run(Finish {
                job: &job,
                partial,
                pieces: 1,
            });
        });
    }
}
