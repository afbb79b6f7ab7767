//! Adapters fused into the base's weights: what `Patch` computes beside a weight, as one weight. Rows are made in blocks,
//! in f32, so that a weight's copies need little memory and the sum is rounded once. What was packed is packed by
//! `kernels::requantize`, on whoever's thread saves it.

use std::ops::Range;

use super::{Adapter, AdapterSet, LowRank, Part, Patch};
use crate::dtype::Dtype;
use crate::error::{Code, Error, Result};
use crate::mlx::{ops, Array};
use crate::model::modules::{Site, Tensors, Weight};
use crate::model::Decoder;

/// What a norm may be off by, as a part of it.
const ROUNDING: f32 = 1.0 / (1 << 18) as f32;

/// Rows of a module's tensors, for a file.
pub struct Fused {
    /// As they are; what is not packed and what an adapter changes is changed already.
    pub tensors: Tensors<Array>,
    /// Where a packed weight is changed: what it is to be, `[rows, in]` f32.
    pub wanted: Option<Array>,
}

/// How a module's weight is looked at.
#[derive(Clone, Copy, PartialEq)]
enum View {
    /// `[out, in]`
    Linear,
    /// `[vocab, hidden]`, looked up
    Rows,
    /// The same as the output layer
    Head,
}

impl Decoder {
    /// Adds an adapter to a set that is to be fused, not computed with: its norms stay as files have them.
    pub fn add_to_fuse(
        &self,
        set: &mut AdapterSet,
        adapter: &mut Adapter,
        strength: f32,
    ) -> Result<()> {
        let stored = |_: Site, norm: &Array| Ok(norm.clone());
        set.add(adapter, strength, &|site| self.weight(site), &stored)
    }

    /// Whether the output layer is the embedding and cannot be that any more with this set.
    pub fn is_untied_by(&self, set: &AdapterSet) -> bool {
        let embedding = set.patch(Site::EMBED_TOKENS);
        self.is_tied()
            && (set.patch(Site::LM_HEAD).is_some() || embedding.is_some_and(Patch::is_of_one_end))
    }

    /// Whether a set changes a module's tensors.
    pub fn is_changed_by(&self, set: &AdapterSet, site: Site) -> bool {
        let tied = site == Site::LM_HEAD && self.is_tied();
        set.patch(site).is_some() || (tied && set.patch(Site::EMBED_TOKENS).is_some())
    }

    /// A module's tensors as files have them, with a set's changes in them, or beside them where they are packed: of matrices
    /// these rows, and the bias beside the first of them. What is not packed is of the type that it had. LM_HEAD of a tied
    /// model is the embedding as the output layer.
    ///
    /// # Errors
    /// INCOMPATIBLE where the numbers are too large for the type.
    pub fn fused(&self, set: &AdapterSet, site: Site, rows: Range<i32>) -> Result<Fused> {
        let mut stored = self.stored(site, &rows)?;
        if rows.start > 0 {
            stored.bias = None;
        }
        let tied = site == Site::LM_HEAD && self.is_tied();
        let (patch, view) = match (set.patch(site), set.patch(Site::EMBED_TOKENS)) {
            (Some(patch), _) if site == Site::EMBED_TOKENS => (patch, View::Rows),
            (Some(patch), _) => (patch, View::Linear),
            (None, Some(patch)) if tied => (patch, View::Head),
            _ => return Ok(Fused::unchanged(stored)),
        };
        let (weight, wanted) = match patch.fused(&stored.weight, view, &rows)? {
            None => (stored.weight, None),
            Some(sum) => match stored.weight {
                Weight::Dense(old) => (Weight::Dense(changed(&old, &sum)?), None),
                packed => (packed, Some(sum)),
            },
        };
        if let (Weight::Quantized { scales, biases, .. }, Some(wanted)) = (&weight, &wanted) {
            // A bias, of the scales' type, is about as large as the largest number of its group.
            match biases {
                Some(_) => as_type_of(scales, wanted)?,
                None => finite(wanted.clone())?,
            };
        }
        let bias = match (stored.bias, &patch.bias) {
            (Some(old), Some(new)) => Some(as_type_of(&old, new)?),
            (None, Some(_)) if rows.start == 0 => {
                let message = "an adapter has a bias for a layer that has none";
                return Err(Error::new(Code::Incompatible, message));
            }
            (old, _) => old,
        };
        let tensors = Tensors { weight, bias };
        Ok(Fused { tensors, wanted })
    }
}

impl Fused {
    fn unchanged(tensors: Tensors<Array>) -> Self {
        Fused {
            tensors,
            wanted: None,
        }
    }
}

impl Adapter {
    /// Bytes that DoRA's gains take while they are made, one after the other: a few copies of a weight.
    pub fn cost_of_gains(&self) -> u64 {
        let elements = |part: &Part| match part {
            Part::Low {
                a,
                b,
                magnitude: Some(_),
                ..
            } => a.dim(0) as u64 * b.dim(1) as u64,
            _ => 0,
        };
        let most = self.parts.iter().map(|(_, part)| elements(part)).max();
        16 * most.unwrap_or(0)
    }
}

impl Patch {
    /// Whether something of an embedding's changes the input alone.
    fn is_of_one_end(&self) -> bool {
        let full = self.full.as_ref().is_some_and(|(_, tied)| !tied);
        full || self.low.iter().any(|low| !low.tied)
    }

    /// A weight's rows with what is added to them, f32. None where nothing is.
    fn fused(
        &self,
        stored: &Weight<Array>,
        view: View,
        rows: &Range<i32>,
    ) -> Result<Option<Array>> {
        let own = |tied: bool| view != View::Head || tied;
        let full = self.full.as_ref().filter(|(_, tied)| own(*tied));
        let low: Vec<&LowRank> = self.low.iter().filter(|low| own(low.tied)).collect();
        if full.is_none() && low.is_empty() {
            return Ok(None);
        }
        let base = match full {
            Some((weight, _)) if weight.shape().len() == 1 => weight.clone(),
            Some((weight, _)) if weight.shape().len() == 3 => {
                let [experts, out, input] = [weight.dim(0), weight.dim(1), weight.dim(2)];
                let flat = ops::reshape(weight, &[experts * out, input])?;
                ops::slice(&flat, &[rows.start, 0], &[rows.end, input])?
            }
            Some((weight, _)) => ops::slice(weight, &[rows.start, 0], &[rows.end, weight.dim(1)])?,
            None => unpacked(stored)?,
        };
        let base = ops::astype(&base, Dtype::F32)?;
        let mut sum = base.clone();
        for low in &low {
            let adapted = ops::add(&base, &low.rows(view, rows)?)?;
            let adapted = match &low.gain {
                None => adapted,
                Some(gain) => ops::multiply(&gain_of_rows(gain, low, view, rows)?, &adapted)?,
            };
            sum = ops::add(&sum, &ops::subtract(&adapted, &base)?)?;
            if self.low.len() == 1 {
                sum = adapted;
            }
        }
        Ok(Some(sum))
    }
}

impl LowRank {
    /// Rows of what it adds, f32.
    fn rows(&self, view: View, rows: &Range<i32>) -> Result<Array> {
        let (a, b) = (&self.a, &self.b);
        let product = match view {
            View::Linear if a.shape().len() == 3 => self.rows_of_experts(rows)?,
            View::Linear => {
                let b = ops::slice(b, &[0, rows.start], &[b.dim(0), rows.end])?;
                let (a, b) = (ops::transpose(a, &[1, 0])?, ops::transpose(&b, &[1, 0])?);
                ops::matmul(&ops::astype(&b, Dtype::F32)?, &ops::astype(&a, Dtype::F32)?)?
            }
            View::Rows | View::Head => {
                let a = ops::slice(a, &[rows.start, 0], &[rows.end, a.dim(1)])?;
                ops::matmul(&ops::astype(&a, Dtype::F32)?, &ops::astype(b, Dtype::F32)?)?
            }
        };
        ops::multiply(&Array::scalar(self.scale, Dtype::F32)?, &product)
    }
}

impl LowRank {
    /// `(A B)ᵀ` of experts, whose rows lie one after the other, f32.
    fn rows_of_experts(&self, rows: &Range<i32>) -> Result<Array> {
        let (a, b) = (&self.a, &self.b);
        let [rank, out, input] = [b.dim(1), b.dim(2), a.dim(1)];
        let mut parts = Vec::new();
        let mut start = rows.start;
        while start < rows.end {
            let expert = start / out;
            let end = rows.end.min((expert + 1) * out);
            let (from, to) = (start - expert * out, end - expert * out);
            let b = ops::slice(b, &[expert, 0, from], &[expert + 1, rank, to])?;
            let a = ops::slice(a, &[expert, 0, 0], &[expert + 1, input, rank])?;
            // [rank, rows] and [input, rank] → [rows, input]
            let b = ops::transpose(&ops::reshape(&b, &[rank, to - from])?, &[1, 0])?;
            let a = ops::transpose(&ops::reshape(&a, &[input, rank])?, &[1, 0])?;
            let (a, b) = (ops::astype(&a, Dtype::F32)?, ops::astype(&b, Dtype::F32)?);
            parts.push(ops::matmul(&b, &a)?);
            start = end;
        }
        ops::concatenate(&parts.iter().collect::<Vec<_>>(), 0)
    }
}

/// DoRA's gain for a block of rows: `[rows, 1]`, or that of an embedding's columns. One that is 1 but for what the norm was
/// rounded to is 1, so that a new adapter changes nothing.
fn gain_of_rows(gain: &Array, low: &LowRank, view: View, rows: &Range<i32>) -> Result<Array> {
    let gain = ops::astype(gain, Dtype::F32)?;
    let one = Array::scalar(1.0, Dtype::F32)?;
    let off = ops::subtract(&gain, &one)?;
    let rounding = Array::scalar(ROUNDING * ROUNDING, Dtype::F32)?;
    let is_one = ops::greater_equal(&rounding, &ops::multiply(&off, &off)?)?;
    let gain = ops::select(&is_one, &one, &gain)?;
    if view != View::Linear && gain.dim(0) != low.a.dim(0) {
        return Ok(gain);
    }
    let gain = ops::slice(&gain, &[rows.start], &[rows.end])?;
    ops::reshape(&gain, &[rows.end - rows.start, 1])
}

/// Exactly what is packed.
fn unpacked(weight: &Weight<Array>) -> Result<Array> {
    match weight {
        Weight::Dense(weight) => Ok(weight.clone()),
        Weight::Quantized {
            weight,
            scales,
            biases,
            scheme,
        } => match biases {
            Some(biases) => {
                let scales = ops::astype(scales, Dtype::F32)?;
                let biases = ops::astype(biases, Dtype::F32)?;
                ops::dequantize(weight, &scales, Some(&biases), *scheme)
            }
            None => ops::dequantize(weight, scales, None, *scheme),
        },
    }
}

/// A weight's numbers in its type. What is the same keeps its bits: a zero its sign.
fn changed(old: &Array, new: &Array) -> Result<Array> {
    let new = as_type_of(old, new)?;
    ops::select(&ops::equal(&new, old)?, old, &new)
}

fn as_type_of(like: &Array, x: &Array) -> Result<Array> {
    finite(ops::astype(x, like.dtype())?)
}

/// Refuses what would be infinite in a file.
fn finite(x: Array) -> Result<Array> {
    let flat = ops::reshape(&ops::astype(&x, Dtype::F32)?, &[x.size() as i32])?;
    // 0, or NaN where an element is not finite.
    let zero = ops::multiply(&flat, &Array::scalar(0.0, Dtype::F32)?)?;
    let sum = ops::sum(&zero, 0, false)?.to_f32()?;
    if sum.first() == Some(&0.0) {
        return Ok(x);
    }
    Err(Error::new(
        Code::Incompatible,
        format!("a fused weight is not finite in {}", x.dtype().name()),
    ))
}
