//! Attention whose scores have two parts: of what each head makes of a token's latent, and of turned keys that all heads share.

use super::{lowest, AttentionMask};
use crate::error::Result;
use crate::mlx::ops::{self, Mask};
use crate::mlx::stored::Stored;
use crate::mlx::{fast, Array};

/// Of queries (arrays) or of keys, `[batch, heads, tokens, …]`, of keys that all heads share `[batch, 1, tokens, …]`.
#[derive(Clone, Copy)]
pub struct InParts<'a, T> {
    pub plain: &'a T,
    /// Turned by their positions.
    pub turned: &'a T,
}

/// Latents or keys as what computes them knows them: MLX's own operations want floats.
pub fn known(stored: Stored) -> Result<Stored> {
    match fast::active() {
        true => Ok(stored),
        false => stored.floats().map(Stored::Floats),
    }
}

/// Whether so many queries look at the latents themselves; else keys and values are made of the latents for each head. That is
/// fewer products for many queries on a GPU; on the CPU's kernels a prompt's chunks are too short for it, and keys and values
/// of a long past too large.
pub fn looks_at_latents(asking: i32) -> bool {
    asking == 1 || fast::active()
}

/// Values `[batch, 1 or heads, keys, dim]` → `[batch, asking, heads, dim]`. `traced`: gradients are wanted, which MLX's own
/// operation may not have by a mask.
pub fn latent_attention(
    queries: InParts<Array>,
    keys: InParts<Stored>,
    values: &Stored,
    mask: &AttentionMask,
    (scale, traced): (f32, bool),
) -> Result<Array> {
    let [batch, heads, asking, dim] = [
        queries.plain.dim(0),
        queries.plain.dim(1),
        queries.plain.dim(2),
        values.dim(),
    ];
    if fast::active() {
        let (q, k) = ([queries.plain, queries.turned], [keys.plain, keys.turned]);
        let output = fast::attention_in_parts(q, k, values, scale, mask.visible())?;
        return ops::reshape(&output, &[batch, asking, heads, dim]);
    }
    let (k, turned) = (&keys.plain.floats()?, &keys.turned.floats()?);
    let values = &values.floats()?;
    let scaled = |q: &Array| ops::multiply(q, &Array::scalar(scale, q.dtype())?);
    let scores = ops::matmul(&scaled(queries.turned)?, &upright(turned)?)?;
    let scores = match mask.rows(asking, scores.dim(3))? {
        Some(seen) => {
            let lowest = Array::scalar(lowest(scores.dtype()), scores.dtype())?;
            ops::select(&seen, &scores, &lowest)?
        }
        None => scores,
    };
    let q = queries.plain;
    let output = match traced {
        false => {
            ops::scaled_dot_product_attention(q, k, values, scale, Mask::Array(&scores), None)?
        }
        true => {
            let plain = ops::matmul(&scaled(q)?, &upright(k)?)?;
            let weights = ops::softmax(&ops::add(&plain, &scores)?, -1)?;
            ops::matmul(&weights, values)?
        }
    };
    // [batch, heads, asking, dim] → [batch, asking, heads, dim]
    ops::transpose(&output, &[0, 2, 1, 3])
}

/// `[batch, heads, tokens, dim]` → `[batch, heads, dim, tokens]`
fn upright(x: &Array) -> Result<Array> {
    ops::transpose(x, &[0, 1, 3, 2])
}
