//! Short causal convolutions, which linear attention has before it.

use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{fast, ops, Array};

/// Each channel of x `[batch, n, channels]` and of the rows before it, past `[batch, k - 1, channels]` (None: zeros), by its own
/// taps, `[channels, k]` or `[channels, k, 1]`, the last one for a token itself; with a bias `[channels]`, and `s sigmoid(s)` of
/// the sum s where `silu` says so → y, in the type of x, and what the next tokens take for past.
pub fn short_conv(
    x: &Array,
    past: Option<&Array>,
    taps: &Array,
    bias: Option<&Array>,
    silu: bool,
) -> Result<(Array, Array)> {
    let [batch, n, channels] = [x.dim(0), x.dim(1), x.dim(2)];
    let k = taps.dim(1);
    let past = match past {
        Some(past) => ops::astype(past, x.dtype())?,
        None => ops::zeros(&[batch, k - 1, channels], x.dtype())?,
    };
    if fast::active() && batch == 1 && n > 0 && (2..=8).contains(&k) {
        return fast::short_conv(x, &past, taps, bias, silu);
    }
    let rows = ops::concatenate(&[&past, x], 1)?;
    let wide = ops::astype(&rows, Dtype::F32)?;
    // [channels, k] → [k, channels]
    let taps = ops::reshape(&ops::astype(taps, Dtype::F32)?, &[channels, k])?;
    let taps = ops::transpose(&taps, &[1, 0])?;
    let mut sum: Option<Array> = None;
    for j in 0..k {
        let tap = ops::slice(&taps, &[j, 0], &[j + 1, channels])?;
        let part = ops::slice(&wide, &[0, j, 0], &[batch, j + n, channels])?;
        let term = ops::multiply(&part, &tap)?;
        sum = Some(match sum {
            Some(sum) => ops::add(&sum, &term)?,
            None => term,
        });
    }
    let mut y = sum.unwrap_or(wide);
    if let Some(bias) = bias {
        y = ops::add(&y, &ops::astype(bias, Dtype::F32)?)?;
    }
    if silu {
        y = ops::multiply(&y, &ops::sigmoid(&y)?)?;
    }
    // A copy: a view would keep all rows.
    let last = ops::slice(&rows, &[0, n, 0], &[batch, n + k - 1, channels])?;
    Ok((ops::astype(&y, x.dtype())?, ops::contiguous(&last)?))
}

#[cfg(all(test, not(target_os = "macos")))]
#[path = "short_conv_tests.rs"]
mod tests;
