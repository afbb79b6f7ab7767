//! Filters over log-probabilities `[vocab]`: what is cut becomes -infinity. Each is mlx-lm's of the same name.

use super::Xtc;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};

fn minus_infinity(like: &Array) -> Result<Array> {
    Array::scalar(f32::NEG_INFINITY, like.dtype())
}

/// The smallest set of most likely tokens whose probabilities reach `p`; equals of its last member stay too.
pub fn top_p(logprobs: &Array, p: f32) -> Result<Array> {
    let sorted = ops::sort(logprobs)?;
    let probs = ops::exp(&ops::astype(&sorted, Dtype::F32)?)?;
    let above = ops::cumsum(&probs, -1, true, false)?;
    let total = ops::add(
        &ops::slice(&above, &[0], &[1])?,
        &ops::slice(&probs, &[0], &[1])?,
    )?;
    let enough = ops::multiply(&Array::scalar(p, Dtype::F32)?, &total)?;
    let dropped = ops::sum(
        &ops::astype(&ops::greater_equal(&above, &enough)?, Dtype::I32)?,
        -1,
        true,
    )?;
    let threshold = ops::take_along_axis(&sorted, &dropped, 0)?;
    ops::select(
        &ops::less(logprobs, &threshold)?,
        &minus_infinity(logprobs)?,
        logprobs,
    )
}

/// Tokens at least `p` times as likely as the most likely one.
pub fn min_p(logprobs: &Array, p: f32) -> Result<Array> {
    let least = ops::add(
        &ops::max(logprobs, -1, true)?,
        &Array::scalar(p.ln(), logprobs.dtype())?,
    )?;
    ops::select(
        &ops::less(logprobs, &least)?,
        &minus_infinity(logprobs)?,
        logprobs,
    )
}

/// The `k` most likely tokens.
pub fn top_k(logprobs: &Array, k: u32) -> Result<Array> {
    let vocab = logprobs.dim(0);
    let Some(k) = i32::try_from(k).ok().filter(|&k| k < vocab) else {
        return Ok(logprobs.clone());
    };
    let order = ops::argpartition(&ops::negative(logprobs)?, k - 1, -1)?;
    ops::put_along_axis(
        logprobs,
        &ops::slice(&order, &[k], &[vocab])?,
        &minus_infinity(logprobs)?,
        -1,
    )
}

/// Ids of the `k` most likely tokens (at most the vocabulary), u32 `[k]`, in no order.
pub fn top_ids(logprobs: &Array, k: i32) -> Result<Array> {
    let kth = (k - 1).min(logprobs.dim(0) - 1);
    ops::slice(
        &ops::argpartition(&ops::negative(logprobs)?, kth, -1)?,
        &[0],
        &[k],
    )
}

/// With the given probability, removes all tokens above the threshold but the least likely of them.
pub fn xtc(logprobs: &Array, xtc: &Xtc, key: &Array) -> Result<Array> {
    let probs = ops::softmax(logprobs, -1)?;
    let threshold = Array::scalar(xtc.threshold, probs.dtype())?;
    let infinity = Array::scalar(f32::INFINITY, probs.dtype())?;
    let above = ops::select(&ops::greater(&probs, &threshold)?, &probs, &infinity)?;
    let mut removed = ops::greater(&probs, &ops::min(&above, -1, true)?)?;
    if !xtc.spared.is_empty() {
        let no = ops::zeros(&[], Dtype::Bool)?;
        removed = ops::put_along_axis(&removed, &Array::from_i32(&xtc.spared)?, &no, 0)?;
    }
    let skipped = ops::greater(
        &ops::random_uniform(key)?,
        &Array::scalar(xtc.probability, Dtype::F32)?,
    )?;
    let cut = ops::logical_and(&ops::logical_not(&skipped)?, &removed)?;
    ops::select(&cut, &minus_infinity(logprobs)?, logprobs)
}
