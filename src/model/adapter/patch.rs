//! What adapters do to one module.

use std::ops::Range;

use super::LowRank;
use crate::error::Result;
use crate::kernels;
use crate::mlx::{ops, Array};
use crate::model::layers::Matrix;

/// What the adapters of a set do to one module.
#[derive(Default)]
pub struct Patch {
    /// The weight in place of the base's, and whether also where an embedding is the output layer.
    pub(super) full: Option<(Array, bool)>,
    pub(super) bias: Option<Array>,
    pub(super) low: Vec<LowRank>,
}

impl Patch {
    /// What is there in place of the base's weight.
    pub fn full(&self) -> Option<&Array> {
        self.full.as_ref().map(|(weight, _)| weight)
    }

    pub fn bias(&self) -> Option<&Array> {
        self.bias.as_ref()
    }

    /// Experts: y `[n, k, out]` is the base's of x `[n, in]` by the chosen ones `[n, k]` → the same shape.
    pub fn experts(&self, mut y: Array, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        for low in &self.low {
            let z = low.experts_product(x, chosen, sorted)?;
            y = ops::add(&y, &low.scaled(&z, &y)?)?;
        }
        Ok(y)
    }

    /// For the CPU's kernels, where low-rank parts are all that there is: of these rows, or of all.
    pub fn low_ranks(&self, rows: Option<Range<usize>>) -> Option<Vec<kernels::LowRank<&Array>>> {
        if self.full.is_some() || self.bias.is_some() {
            return None;
        }
        let part = |low: &'_ LowRank| low.gain.is_none() && low.dropout.is_none();
        self.low.iter().all(part).then(|| {
            self.low
                .iter()
                .map(|low| kernels::LowRank {
                    a: &low.a,
                    b: &low.b,
                    scale: low.scale,
                    rows: rows.clone(),
                })
                .collect()
        })
    }

    /// A linear layer: x `[…, in]` → `[…, out]`. `bias`: `[out]`.
    pub fn linear(&self, x: &Array, base: &Matrix, bias: Option<&Array>) -> Result<Array> {
        self.linear_by(x, || base.product(x), bias)
    }

    /// The same, where somebody makes the base's product of x.
    pub fn linear_by(
        &self,
        x: &Array,
        base: impl FnOnce() -> Result<Array>,
        bias: Option<&Array>,
    ) -> Result<Array> {
        let y = match self.full() {
            None => base()?,
            Some(weight) => Matrix::dense(weight)?.product(x)?,
        };
        let bias = self.bias.as_ref().or(bias);
        let low = self.low.iter().map(|low| (low, low.product(x)));
        match bias {
            // The order in which mlx-lm adds: what DoRA scales has no bias yet.
            Some(bias) if self.low.iter().all(|low| low.gain.is_none()) => {
                self.sum(ops::add(&y, bias)?, low, None)
            }
            bias => self.sum(y, low, bias),
        }
    }

    /// Rows of an embedding: base `[1, n, hidden]` of tokens `[1, n]` → the same shape.
    pub fn rows(&self, base: Array, tokens: &Array) -> Result<Array> {
        let mut y = base.clone();
        for low in &self.low {
            let z = ops::matmul(&ops::take(&low.a, tokens)?, &low.b)?;
            let gain = match &low.gain {
                Some(gain) if gain.dim(0) == low.a.dim(0) => {
                    // Of each row: [1, n] → [1, n, 1]
                    let gain = ops::take(gain, tokens)?;
                    Some(ops::reshape(&gain, &[gain.dim(0), gain.dim(1), 1])?)
                }
                gain => gain.clone(),
            };
            y = self.with_low(y, &base, low, &low.dropped(&z)?, gain.as_ref())?;
        }
        Ok(y)
    }

    /// The embedding as the output layer: x `[…, hidden]` → `[…, vocab]`.
    pub fn head(&self, x: &Array, base: &Matrix) -> Result<Array> {
        let low = self.low.iter().filter(|low| low.tied);
        let low = low.map(|low| (low, low.transposed_product(x)));
        let y = match &self.full {
            Some((weight, true)) => Matrix::dense(weight)?.product(x)?,
            _ => base.product(x)?,
        };
        self.sum(y, low, None)
    }

    fn sum<'a>(
        &self,
        base: Array,
        low: impl Iterator<Item = (&'a LowRank, Result<Array>)>,
        bias: Option<&Array>,
    ) -> Result<Array> {
        let mut y = base.clone();
        for (low, z) in low {
            y = self.with_low(y, &base, low, &z?, low.gain.as_ref())?;
        }
        match bias {
            Some(bias) => ops::add(&y, bias),
            None => Ok(y),
        }
    }

    /// y with one low-rank part, whose product is z. DoRA: alone gain * (base + z); among others its difference to the
    /// base is added to what they give.
    fn with_low(
        &self,
        y: Array,
        base: &Array,
        low: &LowRank,
        z: &Array,
        gain: Option<&Array>,
    ) -> Result<Array> {
        let z = &low.scaled(z, base)?;
        let Some(gain) = gain else {
            return ops::add(&y, z);
        };
        let gain = ops::astype(gain, base.dtype())?;
        let adapted = ops::multiply(&gain, &ops::add(base, z)?)?;
        if self.low.len() == 1 {
            return Ok(adapted);
        }
        ops::add(&y, &ops::subtract(&adapted, base)?)
    }
}
