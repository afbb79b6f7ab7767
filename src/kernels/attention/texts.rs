//! Attention of several texts at once, each of which sees itself alone.

use super::super::heads::{Heads, HeadsMut};
use super::super::packed_heads::Stored;
use super::super::Kernels;
use super::{Asked, AttentionOptions, Visible};

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
        assert!(
            [q.tokens, k.tokens, v.tokens, o.tokens] == [texts.tokens(); 4],
            "attention of texts: {q:?} by {k:?} and {v:?} to {o:?}"
        );
        let out = &*out;
        let asked = texts.places().map(|(first, length)| Asked {
            queries: queries.some_tokens(first, length),
            keys: Stored::Floats(keys.some_tokens(first, length)),
            more: None,
            values: Stored::Floats(values.some_tokens(first, length)),
            options,
            // SAFETY: the tokens are part of `out`, which this call alone has; no two texts share one.
            out: unsafe { out.shared_tokens(first, length) },
        });
        self.attend_all(&asked.collect::<Vec<_>>());
    }
}
