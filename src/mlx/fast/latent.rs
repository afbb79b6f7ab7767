//! Attention whose queries and keys have two parts, as an operation.

use super::{float_type, heads, one, queue, Array, View};
use crate::error::Result;
use crate::kernels::{AttentionOptions, HeadShape, HeadsMut, Kernels, Visible};

/// As `attention`, of queries `[1, heads, n, …]` and keys `[1, kv_heads, keys, …]` in two parts each, the sum of whose products are
/// the scores; keys and values v `[1, kv_heads, keys, dim]` are of one type. → `[1, n, heads * dim]`
pub fn attention_in_parts(
    queries: [&Array; 2],
    keys: [&Array; 2],
    v: &Array,
    scale: f32,
    visible: Visible,
) -> Result<Array> {
    let ([q, more_q], [k, more_k]) = (queries, keys);
    let (count, tokens, dim) = (q.dim(1), q.dim(2), v.dim(3));
    let shape = [1, tokens, count * dim];
    let dtype = q.dtype().wider(more_q.dtype());
    let dtype = dtype.wider(k.dtype()).wider(v.dtype());
    let (count, tokens, dim) = (count as usize, tokens as usize, dim as usize);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let shape = HeadShape::tokens_first(count, tokens, dim);
        // SAFETY: as for `floats_mut`; the shape is that of the output, cut into heads.
        let mut out = unsafe { HeadsMut::from_raw(to[0].data(), float_type(&to[0])?, shape) };
        let options = AttentionOptions {
            scale,
            visible,
            softcap: None,
            sinks: None,
        };
        let first = [&heads(&from[0])?, &heads(&from[1])?];
        let more = [&heads(&from[2])?, &heads(&from[3])?];
        kernels.attention_in_parts(first, more, &heads(&from[4])?, options, &mut out);
        Ok(())
    };
    let inputs = [q, k, more_q, more_k, v];
    let out = (&shape[..], dtype);
    Ok(one(queue(c"attention", 0b11111, &inputs, [out], run)?))
}
