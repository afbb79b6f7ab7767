//! The attention of a block whose rows are several texts: nothing is kept of them.

use super::super::attention::{AttentionOptions, Texts};
use super::super::float::Floats;
use super::super::heads::{Heads, HeadsMut};
use super::super::scratch::Buffer;
use super::super::Kernels;
use super::{Attention, Matrix};

impl Kernels {
    /// What was projected of the texts' rows, `[tokens, heads * head_dim]` and twice `[tokens, kv_heads * head_dim]` → y
    /// `[tokens, hidden]`. Each text's first token is at position 0.
    pub(super) fn attend_texts(
        &self,
        attention: &Attention<Matrix, Floats>,
        [queries, keys, values]: [Floats; 3],
        texts: &Texts,
        y: &mut Buffer,
    ) {
        let sizes = &attention.sizes;
        let dim = sizes.head_dim;
        // x, or a copy of it in which each text went through `turn`
        let each = |x: Floats, turn: &dyn Fn(&Heads, &mut HeadsMut)| {
            let mut made = Buffer::new(&self.scratch, x.dtype(), x.rows(), x.width());
            let (from, mut to) = (x.heads(dim), made.floats_mut().heads(dim));
            for (first, length) in texts.places() {
                let from = from.some_tokens(first, length);
                turn(&from, &mut to.some_tokens(first, length));
            }
            made
        };
        let turned = |x: Floats| {
            let rope = sizes.rope.as_ref()?;
            Some(each(x, &|from, to| self.rope(rope, from, 0, to)))
        };
        let tempered = |x: Floats| {
            let temperature = sizes.temperature.as_ref()?;
            Some(each(x, &|from, to| self.temper(temperature, from, 0, to)))
        };
        let normed_keys = self.head_norm(&keys, attention.k_norm.as_ref());
        let keys = normed_keys.as_ref().map_or(keys, Buffer::floats);
        let turned_keys = turned(keys);
        let keys = turned_keys.as_ref().map_or(keys, Buffer::floats);

        let normed_queries = self.head_norm(&queries, attention.q_norm.as_ref());
        let queries = normed_queries.as_ref().map_or(queries, Buffer::floats);
        let turned_queries = turned(queries);
        let queries = turned_queries.as_ref().map_or(queries, Buffer::floats);
        let tempered_queries = tempered(queries);
        let queries = tempered_queries.as_ref().map_or(queries, Buffer::floats);

        let width = sizes.heads * dim;
        let mut attended = Buffer::new(&self.scratch, queries.dtype(), queries.rows(), width);
        let options = AttentionOptions {
            scale: sizes.scale,
            visible: texts.visible,
            softcap: sizes.softcap,
            sinks: attention.sinks,
        };
        self.attention_of_texts(
            [&queries.heads(dim), &keys.heads(dim), &values.heads(dim)],
            texts,
            options,
            &mut attended.floats_mut().heads(dim),
        );
        self.linears(&attended.floats(), &[&attention.o_proj], &mut [y]);
    }
}
