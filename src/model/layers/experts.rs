//! Stacked experts on the engine thread.

use std::ops::Range;

use super::super::adapter::AdapterSet;
use super::super::modules::{Site, Weight};
use super::matrix::{Quantized, ALL};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::kernels;
use crate::mlx::fast::{self, PackedExperts};
use crate::mlx::{nn, ops, Array};

/// Stacked matrices, of which each row is multiplied with some.
pub struct Experts {
    pub(super) matrix: ExpertMatrix,
    /// `[experts, out]`
    pub(super) bias: Option<Array>,
    pub(super) site: Site,
}

pub(super) enum ExpertMatrix {
    /// `[experts, out, in]`
    Dense(Array),
    /// The same, packed.
    Quantized(Quantized),
    /// For the CPU's kernels, in place of the arrays it was made of.
    Packed(PackedExperts),
}

impl ExpertMatrix {
    pub fn new(weight: Weight<Array>) -> Result<Self> {
        Ok(match weight {
            Weight::Dense(weight) => ExpertMatrix::Dense(weight),
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            } => match PackedExperts::new(&weight, &scales, biases.as_ref(), scheme)? {
                Some(packed) => ExpertMatrix::Packed(packed),
                None => ExpertMatrix::Quantized(Quantized {
                    weight,
                    scales,
                    biases,
                    scheme,
                }),
            },
        })
    }

    /// The tensors that it was made of, rows of all experts one after the other: `[rows, in]`.
    pub fn stored(&self, rows: &Range<i32>) -> Result<Weight<Array>> {
        // Of what holds the rows of all experts from `first` on.
        let cut = |first: i32| {
            move |array: Array| {
                let (all, columns) = (array.dim(0) * array.dim(1), array.dim(2));
                let flat = ops::reshape(&array, &[all, columns])?;
                let end = rows.end.saturating_sub(first).min(all);
                ops::slice(&flat, &[rows.start - first, 0], &[end, columns])
            }
        };
        match self {
            ExpertMatrix::Dense(weight) => Weight::Dense(weight.clone()).try_map(&mut cut(0)),
            ExpertMatrix::Quantized(q) => q.clone().into_weight().try_map(&mut cut(0)),
            ExpertMatrix::Packed(packed) => {
                let out = packed.rows().max(1);
                let (first, end) = (rows.start / out, rows.end.saturating_add(out - 1) / out);
                let unpacked = Quantized::experts(packed, &(first..end))?;
                unpacked.into_weight().try_map(&mut cut(first * out))
            }
        }
    }

    /// `[experts, out, in]`, dense.
    pub fn weight(&self) -> Result<Array> {
        match self {
            ExpertMatrix::Dense(weight) => Ok(weight.clone()),
            ExpertMatrix::Quantized(q) => q.dense(),
            ExpertMatrix::Packed(packed) => Quantized::experts(packed, &ALL)?.dense(),
        }
    }

    /// x `[n, in]`, chosen `[n, k]` → `[n, k, out]`
    fn product(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        match self {
            ExpertMatrix::Dense(weight) => nn::experts(x, weight, chosen, sorted),
            ExpertMatrix::Quantized(q) => q.experts_product(x, chosen, sorted),
            ExpertMatrix::Packed(packed) if fast::products(x.dtype()) => {
                let rows = ops::reshape(x, &[x.dim(0), 1, x.dim(1)])?;
                packed.product(&rows, chosen)
            }
            ExpertMatrix::Packed(packed) => {
                let all = Quantized::experts(packed, &ALL)?;
                all.experts_product(x, chosen, sorted)
            }
        }
    }
}

impl Experts {
    /// As `Linear::parts`.
    pub fn parts<'a>(
        &'a self,
        adapters: &AdapterSet,
        x: Dtype,
    ) -> Option<kernels::ExpertLinear<fast::Matrix<'a>, &'a Array>> {
        let weight = match &self.matrix {
            ExpertMatrix::Dense(weight) if weight.dtype() == x => {
                fast::Matrix::DenseExperts(weight)
            }
            ExpertMatrix::Packed(packed) if packed.product_type(x) == x => {
                fast::Matrix::PackedExperts(packed)
            }
            ExpertMatrix::Quantized(q) if !fast::active() => fast::Matrix::AsMlx(q.as_mlx()),
            _ => return None,
        };
        let bias = self.bias.as_ref();
        let fits = adapters.patch(self.site).is_none() && bias.is_none_or(|bias| bias.dtype() == x);
        fits.then_some(kernels::ExpertLinear { weight, bias })
    }

    /// x `[n, in]`, the experts of each row u32 `[n, k]` → `[n, k, out]`. `sorted`: the experts come in order.
    pub fn forward(
        &self,
        x: &Array,
        chosen: &Array,
        sorted: bool,
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let patch = adapters.patch(self.site);
        let bias = patch.and_then(|patch| patch.bias()).or(self.bias.as_ref());
        let y = match patch.and_then(|patch| patch.full()) {
            Some(weight) => nn::experts(x, weight, chosen, sorted)?,
            None => self.matrix.product(x, chosen, sorted)?,
        };
        let y = match bias {
            Some(bias) => ops::add(&y, &ops::take(bias, chosen)?)?,
            None => y,
        };
        match patch {
            Some(patch) => patch.experts(y, x, chosen, sorted),
            None => Ok(y),
        }
    }
}
