//! Attention whose queries and keys have two parts, as an operation.

use super::kept::{stored, Kind};
use super::{float_type, heads, one, queue, Array, View};
use crate::error::Result;
use crate::kernels::{AttentionOptions, HeadShape, HeadsMut, Kernels, Visible};
use crate::mlx::stored::Stored;

/// As `attention`, of queries `[1, heads, n, …]` and keys `[1, kv_heads, keys, …]` in two parts each, the sum of whose products are
/// the scores; keys and values v `[1, kv_heads, keys, dim]` are stored alike. → `[1, n, heads * dim]`
pub fn attention_in_parts(
    queries: [&Array; 2],
    keys: [&Stored; 2],
    v: &Stored,
    scale: f32,
    visible: Visible,
) -> Result<Array> {
    let ([q, more_q], [k, more_k]) = (queries, keys);
    let kinds = [k, more_k, v].map(Kind::of);
    let (count, tokens, dim) = (q.dim(1), q.dim(2), v.dim());
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
        let queries = [&heads(&from[0])?, &heads(&from[1])?];
        let [k, more_k, v] = kinds;
        let (second, third) = (2 + k.count(), 2 + k.count() + more_k.count());
        let keys = [stored(from, 2, k)?, stored(from, second, more_k)?];
        kernels.attention_in_parts(queries, keys, stored(from, third, v)?, options, &mut out);
        Ok(())
    };
    let mut inputs = vec![q, more_q];
    inputs.extend([k, more_k, v].into_iter().flat_map(Stored::arrays));
    let strided = (1 << inputs.len()) - 1;
    let out = (&shape[..], dtype);
    Ok(one(queue(c"attention", strided, &inputs, [out], run)?))
}
