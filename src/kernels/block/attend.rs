//! The attention of a block: projections, norms, rope, keys and values into their cache, and what the queries make of it.

use super::super::attention::AttentionOptions;
use super::super::float::Floats;
use super::super::heads::Heads;
use super::super::packed_heads::StoredMut;
use super::super::scratch::Buffer;
use super::super::Kernels;
use super::{Attention, Matrix, Norm, Projections, Sees};

impl Kernels {
    /// x `[n, hidden]` → y `[asking, hidden]`, its last rows. All n keys and values are written, where there is a past.
    pub(super) fn attend(
        &self,
        attention: &Attention<Matrix, Floats>,
        x: &Floats,
        sees: Sees,
        y: &mut Buffer,
    ) {
        let sizes = &attention.sizes;
        let (n, asking, dim) = (x.rows(), y.floats().rows(), sizes.head_dim);
        let new = |rows, width| Buffer::new(&self.scratch, x.dtype(), rows, width);
        let query_size = sizes.heads * dim;
        let key_size = sizes.kv_heads * dim;

        // `[asking, query_size]` and twice `[n, key_size]`, or all of it as `[n, query_size + 2 * key_size]`.
        let (mut first, mut second, mut third);
        let (queries, keys, values) = match &attention.projections {
            Projections::Apart {
                q_proj,
                k_proj,
                v_proj,
            } => {
                first = new(asking, query_size);
                (second, third) = (new(n, key_size), new(n, key_size));
                if asking == n {
                    self.linears(
                        x,
                        &[q_proj, k_proj, v_proj],
                        &mut [&mut first, &mut second, &mut third],
                    );
                } else {
                    self.linears(x, &[k_proj, v_proj], &mut [&mut second, &mut third]);
                    let last = x.some_rows(n - asking, asking);
                    self.linears(&last, &[q_proj], &mut [&mut first]);
                }
                (first.floats(), second.floats(), third.floats())
            }
            Projections::Fused(qkv_proj) => {
                first = new(n, query_size + 2 * key_size);
                self.linears(x, &[qkv_proj], &mut [&mut first]);
                let all = first.floats();
                let last = all.some_rows(n - asking, asking);
                (
                    last.columns(0, query_size),
                    all.columns(query_size, key_size),
                    all.columns(query_size + key_size, key_size),
                )
            }
        };

        let past = match sees {
            Sees::Past(past) => past,
            Sees::Segments(segments) => {
                return self.attend_segments(attention, [queries, keys, values], segments, y);
            }
            Sees::Texts(texts) => {
                return self.attend_texts(attention, [queries, keys, values], texts, y);
            }
            Sees::Nothing => panic!("block: attention without keys and values"),
        };
        let normed = self.head_norm(&keys, attention.k_norm.as_ref());
        let keys = normed.as_ref().map_or(keys, Buffer::floats).heads(dim);
        let rope = sizes.rope.as_deref();
        match past.keys.some_tokens(past.at, n) {
            StoredMut::Floats(mut to) => match rope {
                Some(rope) => self.rope(rope, &keys, past.offset, &mut to),
                None => self.copy_heads(&keys, &mut to),
            },
            StoredMut::Packed(mut to) => match rope {
                Some(rope) => {
                    let mut turned = new(n, key_size);
                    self.rope(
                        rope,
                        &keys,
                        past.offset,
                        &mut turned.floats_mut().heads(dim),
                    );
                    self.pack_heads(&turned.floats().heads(dim), &mut to);
                }
                None => self.pack_heads(&keys, &mut to),
            },
        }
        drop(normed);
        let values = values.heads(dim);
        self.keep_heads(&values, &mut past.values.some_tokens(past.at, n));

        let offset = past.offset + (n - asking) as i32;
        let normed = self.head_norm(&queries, attention.q_norm.as_ref());
        let mut queries = normed.as_ref().map_or(queries, Buffer::floats);
        let mut turned;
        if let Some(rope) = &sizes.rope {
            turned = new(asking, query_size);
            let to = &mut turned.floats_mut().heads(dim);
            self.rope(rope, &queries.heads(dim), offset, to);
            queries = turned.floats();
        }
        let mut tempered;
        if let Some(temperature) = &sizes.temperature {
            tempered = new(asking, query_size);
            let to = &mut tempered.floats_mut().heads(dim);
            self.temper(temperature, &queries.heads(dim), offset, to);
            queries = tempered.floats();
        }

        let mut attended = new(asking, query_size);
        let options = AttentionOptions {
            scale: sizes.scale,
            visible: past.visible,
            softcap: sizes.softcap,
            sinks: attention.sinks,
        };
        self.attention(
            &queries.heads(dim),
            past.keys.read(),
            past.values.read(),
            options,
            &mut attended.floats_mut().heads(dim),
        );
        self.linears(&attended.floats(), &[&attention.o_proj], &mut [y]);
    }

    /// Writes keys or values to their places in a cache.
    pub(super) fn keep_heads(&self, x: &Heads, to: &mut StoredMut) {
        match to {
            StoredMut::Floats(to) => self.copy_heads(x, to),
            StoredMut::Packed(to) => self.pack_heads(x, to),
        }
    }

    /// Each row normed in parts as wide as the weight, where there is a norm.
    pub(super) fn head_norm(&self, x: &Floats, norm: Option<&Norm<Floats>>) -> Option<Buffer<'_>> {
        let norm = norm?;
        let width = norm.weight.width();
        assert!(
            x.width().checked_rem(width) == Some(0),
            "block: {} to be normed by {width}",
            x.width()
        );
        let mut y = Buffer::new(&self.scratch, x.dtype(), x.rows(), x.width());
        if x.has_gaps() {
            for first in (0..x.width()).step_by(width) {
                let to = &mut y.floats_mut().columns(first, width);
                let x = &x.columns(first, width);
                self.rms_norm(x, Some(&norm.weight), 0.0, norm.eps, to);
            }
        } else {
            let to = &mut y.floats_mut().split(width);
            self.rms_norm(&x.split(width), Some(&norm.weight), 0.0, norm.eps, to);
        }
        Some(y)
    }
}
