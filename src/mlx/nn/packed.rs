//! Attention over packed keys and values by MLX's own operations, as mlx-lm has it; and what that does not know: sinks, and a
//! bound of the scores.

use super::{lowest, softcap, AttentionMask, Scores};
use crate::error::Result;
use crate::mlx::device::on_cuda;
use crate::mlx::stored::PackedTokens;
use crate::mlx::{ops, Array};

/// q `[1, heads, n, dim]`, k and v `[1, kv_heads, keys, dim]` → `[1, heads, n, dim]`
pub(super) fn attention(
    q: &Array,
    k: &PackedTokens,
    v: &PackedTokens,
    mask: &AttentionMask,
    how: Scores,
) -> Result<Array> {
    let [heads, n, dim] = [q.dim(1), q.dim(2), q.dim(3)];
    let [kv_heads, keys] = [k.codes.dim(1), k.codes.dim(2)];
    // Heads that share keys lie in a dimension of their own.
    let group = heads / kv_heads.max(1);
    let q = ops::multiply(q, &Array::scalar(how.scale, q.dtype())?)?;
    let q = ops::reshape(&q, &[1, kv_heads, group, n, dim])?;
    // [1, kv_heads, group, n, keys]
    let mut scores = product(&q, k, true)?;
    if let Some(cap) = how.softcap {
        scores = softcap(&scores, cap)?;
    }
    if let Some(seen) = mask.rows(n, keys)? {
        let lowest = Array::scalar(lowest(scores.dtype()), scores.dtype())?;
        scores = ops::select(&seen, &scores, &lowest)?;
    }
    let weights = match how.sinks {
        None => ops::softmax(&scores, -1)?,
        Some(sinks) => {
            // One more score for each row, whose weight no value gets.
            let sinks = ops::astype(sinks, scores.dtype())?;
            let sinks = ops::reshape(&sinks, &[1, kv_heads, group, 1, 1])?;
            let sinks = ops::broadcast_to(&sinks, &[1, kv_heads, group, n, 1])?;
            let weights = ops::softmax(&ops::concatenate(&[&sinks, &scores], -1)?, -1)?;
            ops::columns(&weights, 1..keys + 1)?
        }
    };
    let output = product(&weights, v, false)?;
    ops::reshape(&output, &[1, heads, n, output.dim(4)])
}

/// x `[1, heads, group, n, …]` by the packed tokens of its head: `x @ tokensᵀ` where `transposed`, else `x @ tokens`.
fn product(x: &Array, tokens: &PackedTokens, transposed: bool) -> Result<Array> {
    // [1, heads, tokens, …] → [1, heads, 1, tokens, …]
    let shared = |x: &Array| {
        // MLX's CUDA kernels refuse what does not lie in one piece, as the heads of a cache that has room for more tokens.
        let x = match on_cuda() {
            true => &ops::contiguous(x)?,
            false => x,
        };
        ops::reshape(x, &[1, x.dim(1), 1, x.dim(2), x.dim(3)])
    };
    ops::quantized_matmul(
        x,
        &shared(&tokens.codes)?,
        &shared(&tokens.scales)?,
        Some(&shared(&tokens.biases)?),
        tokens.scheme,
        transposed,
    )
}
