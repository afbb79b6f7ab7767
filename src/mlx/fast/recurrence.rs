//! What linear attention keeps from token to token, as operations: its states, and what its convolutions look back at.

use super::{float_type, floats, floats_mut, queue, Array, Outcome, View};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels::{self, Decay, Floats, FloatsMut, HeadShape, Heads, Kernels, ShortConv};
use crate::mlx::nn::Recurrence;

/// x `[1, n, channels]` behind past `[1, taps - 1, channels]` of its type, by taps `[channels, taps]` or `[channels, taps, 1]`,
/// 2 to 8 of them, with a bias `[channels]` → y and the last rows, in the type of x; see `kernels::ShortConv`
pub fn short_conv(
    x: &Array,
    past: &Array,
    taps: &Array,
    bias: Option<&Array>,
    silu: bool,
) -> Result<(Array, Array)> {
    let mut inputs = vec![x, past, taps];
    inputs.extend(bias);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let conv = ShortConv {
            taps: first_rows(&from[2])?,
            bias: from.get(3).map(floats).transpose()?,
            silu,
        };
        let (x, past) = (floats(&from[0])?, floats(&from[1])?);
        let (mut y, mut last) = (floats_mut(&to[0])?, floats_mut(&to[1])?);
        kernels.short_conv(&x, &past, &conv, &mut y, &mut last);
        Ok(())
    };
    let outputs = [(x.shape(), x.dtype()), (past.shape(), x.dtype())];
    let [y, last] = queue(c"short_conv", 0, &inputs, outputs, run)?;
    Ok((y, last))
}

/// One sequence: y `[1, n, value heads, value dim]` in the type of v, and the states f32 `[1, value heads, value dim, key dim]`.
/// Decays, betas and states are f32.
pub fn recurrence(of: &Recurrence) -> Result<(Array, Array)> {
    let (beta, state) = (of.beta.is_some(), of.state.is_some());
    let by_channel = of.log_decay.shape().len() == 4;
    let normalise = of.normalise;
    let mut inputs = vec![of.q, of.k, of.v, of.log_decay];
    inputs.extend(of.beta);
    inputs.extend(of.state);
    let run = move |kernels: &Kernels, from: &[View], to: &[View]| {
        let [q, k, v, log_decay, more @ ..] = from else {
            return Err("an array is missing".to_owned());
        };
        let mut more = more.iter();
        let mut next = |given: bool| given.then(|| more.next()).flatten();
        let (beta, state) = (next(beta), next(state));
        let log_decay = token_rows(log_decay)?;
        let of = kernels::Recurrence {
            q: token_heads(q)?,
            k: token_heads(k)?,
            v: token_heads(v)?,
            decay: match by_channel {
                true => Decay::Channel(log_decay),
                false => Decay::Head(log_decay),
            },
            beta: beta.map(token_rows).transpose()?,
            normalise,
        };
        let state = state.map(floats).transpose()?;
        let (mut y, mut new_state) = (token_rows_mut(&to[0])?, floats_mut(&to[1])?);
        kernels.recurrence(&of, state.as_ref(), &mut new_state, &mut y);
        Ok(())
    };
    let states = [1, of.v.dim(2), of.v.dim(3), of.k.dim(3)];
    let outputs = [(of.v.shape(), of.v.dtype()), (&states[..], Dtype::F32)];
    let [y, state] = queue(c"recurrence", 0, &inputs, outputs, run)?;
    Ok((y, state))
}

/// `[rows, …]`, all that a row has one after the other.
fn first_rows<'a>(view: &'a View) -> Outcome<Floats<'a>> {
    let (rows, width) = split(view, 0);
    // SAFETY: as for `floats`.
    Ok(unsafe { Floats::from_raw(view.data(), float_type(view)?, rows, width, width) })
}

/// `[1, tokens, …]`, all that a token has in one row.
fn token_rows<'a>(view: &'a View) -> Outcome<Floats<'a>> {
    let (rows, width) = split(view, 1);
    // SAFETY: as for `floats`.
    Ok(unsafe { Floats::from_raw(view.data(), float_type(view)?, rows, width, width) })
}

/// The same of an output.
fn token_rows_mut<'a>(view: &'a View) -> Outcome<FloatsMut<'a>> {
    let (rows, width) = split(view, 1);
    // SAFETY: as for `floats_mut`.
    Ok(unsafe { FloatsMut::from_raw(view.data(), float_type(view)?, rows, width, width) })
}

/// The sizes up to an axis, and those behind it, multiplied.
fn split(view: &View, axis: usize) -> (usize, usize) {
    let size = |sizes: &[i32]| sizes.iter().map(|&n| n as usize).product();
    let (rows, width) = view.shape().split_at(view.shape().len().min(axis + 1));
    (size(rows), size(width))
}

/// `[1, tokens, heads, dim]`, row-major.
fn token_heads<'a>(view: &'a View) -> Outcome<Heads<'a>> {
    let &[1, tokens, heads, dim] = view.shape() else {
        return Err("an array is not [1, tokens, heads, dim]".to_owned());
    };
    let shape = HeadShape::tokens_first(heads as usize, tokens as usize, dim as usize);
    // SAFETY: as for `floats`.
    Ok(unsafe { Heads::from_raw(view.data(), float_type(view)?, shape) })
}
