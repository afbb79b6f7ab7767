//! mlx-lm's `default_loss`: the mean cross entropy of the predictions that are trained.

use super::batches::Batch;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};
use crate::model::training::{Pass, Trained};
use crate::model::Decoder;

/// One f32. Logits are made only where a prediction is trained.
pub fn loss(
    decoder: &Decoder,
    trained: &Trained,
    parameters: &[Array],
    batch: &Batch,
    pass: Pass,
) -> Result<Array> {
    let count = batch.places.len() as i32;
    let tokens = ops::reshape(&Array::from_i32(&batch.inputs)?, &[batch.rows, batch.width])?;
    let hidden = decoder.forward_training(&tokens, trained, parameters, pass)?;
    let size = hidden.rows.dim(-1);
    let flat = ops::reshape(&hidden.rows, &[batch.rows * batch.width, size])?;
    let rows = ops::take(&flat, &Array::from_i32(&batch.places)?)?;
    // [count, vocab]
    let logits = decoder.logits(&rows, &hidden.adapters)?;
    let logits = ops::astype(&logits, Dtype::F32)?;
    let targets = ops::reshape(&Array::from_i32(&batch.targets)?, &[count, 1])?;
    let scores = ops::take_along_axis(&logits, &targets, 1)?;
    let entropy = ops::subtract(&ops::logsumexp(&logits, 1, true)?, &scores)?;
    let sum = ops::sum(&ops::reshape(&entropy, &[count])?, 0, false)?;
    ops::divide(&sum, &Array::scalar(count as f32, Dtype::F32)?)
}
