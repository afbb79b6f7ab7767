//! A weight on the engine thread: dense, packed as MLX packs, or packed for the CPU's kernels.

use std::ops::Range;

use super::super::modules::Weight;
use crate::dtype::Scheme;
use crate::error::Result;
use crate::mlx::fast::{self, PackedExperts, PackedMatrix};
use crate::mlx::{ops, Array};

/// A weight in the layout of its matrix product.
pub(in crate::model) enum Matrix {
    Dense {
        /// `[out, in]`
        weight: Array,
        /// `[in, out]`, a view of it
        transposed: Array,
    },
    Quantized(Quantized),
    /// For the CPU's kernels, in place of the arrays it was made of.
    Packed(PackedMatrix),
}

#[derive(Clone)]
pub(in crate::model) struct Quantized {
    /// `[out, in * bits / 32]`
    pub weight: Array,
    /// `[out, in / group_size]`
    pub scales: Array,
    pub biases: Option<Array>,
    pub scheme: Scheme,
}

/// As many rows as there are.
pub(super) const ALL: Range<i32> = 0..i32::MAX;

impl Matrix {
    pub(super) fn new(weight: Weight<Array>) -> Result<Self> {
        Ok(match weight {
            Weight::Dense(weight) => Matrix::dense(&weight)?,
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            } => match PackedMatrix::new(&weight, &scales, biases.as_ref(), scheme)? {
                Some(packed) => Matrix::Packed(packed),
                None => Matrix::Quantized(Quantized {
                    weight,
                    scales,
                    biases,
                    scheme,
                }),
            },
        })
    }

    /// Of a stored `[out, in]`.
    pub(in crate::model) fn dense(weight: &Array) -> Result<Self> {
        Ok(Matrix::Dense {
            transposed: ops::transpose(weight, &[1, 0])?,
            weight: weight.clone(),
        })
    }

    /// The tensors that it was made of, bit by bit, of each these rows. Queues a copy of those that are packed for the
    /// kernels.
    pub(super) fn stored(&self, rows: &Range<i32>) -> Result<Weight<Array>> {
        let cut = |array: Array| {
            let [all, columns] = [array.dim(0), array.dim(1)];
            match rows.start > 0 || rows.end < all {
                true => ops::slice(&array, &[rows.start, 0], &[rows.end.min(all), columns]),
                false => Ok(array),
            }
        };
        match self {
            Matrix::Dense { weight, .. } => Weight::Dense(weight.clone()).try_map(&mut { cut }),
            Matrix::Quantized(q) => q.clone().into_weight().try_map(&mut { cut }),
            Matrix::Packed(packed) => Ok(Quantized::unpacked(packed, rows)?.into_weight()),
        }
    }

    /// The weight `[out, in]`, dense.
    pub(in crate::model) fn weight(&self) -> Result<Array> {
        match self.stored(&ALL)? {
            Weight::Dense(weight) => Ok(weight),
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            } => ops::dequantize(&weight, &scales, biases.as_ref(), scheme),
        }
    }

    /// x `[…, in]` → `[…, out]`
    pub(in crate::model) fn product(&self, x: &Array) -> Result<Array> {
        match self {
            Matrix::Dense { weight, .. } if fast::products(x.dtype()) => fast::linear(x, weight),
            Matrix::Dense { transposed, .. } => ops::matmul(x, transposed),
            Matrix::Quantized(q) => q.product(x),
            Matrix::Packed(packed) if fast::products(x.dtype()) => packed.product(x),
            Matrix::Packed(packed) => Quantized::unpacked(packed, &ALL)?.product(x),
        }
    }

    /// Rows by index, dense: i32 or u32 `[…]` → `[…, in]`.
    pub(super) fn rows(&self, indices: &Array) -> Result<Array> {
        match self {
            Matrix::Dense { weight, .. } => ops::take(weight, indices),
            Matrix::Quantized(q) => q.rows(indices),
            Matrix::Packed(packed) if fast::products(packed.rows_type()) => packed.rows(indices),
            Matrix::Packed(packed) => Quantized::unpacked(packed, &ALL)?.rows(indices),
        }
    }
}

impl Quantized {
    pub(super) fn as_mlx(&self) -> fast::AsMlx<'_> {
        fast::AsMlx {
            weight: &self.weight,
            scales: &self.scales,
            biases: self.biases.as_ref(),
            scheme: self.scheme,
        }
    }

    fn unpacked(packed: &PackedMatrix, rows: &Range<i32>) -> Result<Self> {
        let (weight, scales, biases) = packed.unpack(rows.clone())?;
        Ok(Quantized {
            weight,
            scales,
            biases,
            scheme: packed.scheme(),
        })
    }

    pub(super) fn into_weight(self) -> Weight<Array> {
        Weight::Quantized {
            weight: self.weight,
            scales: self.scales,
            biases: self.biases,
            scheme: self.scheme,
        }
    }

    /// Some of packed experts: `[experts, out, …]`.
    pub(super) fn experts(packed: &PackedExperts, experts: &Range<i32>) -> Result<Self> {
        let (weight, scales, biases) = packed.unpack(experts.clone())?;
        Ok(Quantized {
            weight,
            scales,
            biases,
            scheme: packed.scheme(),
        })
    }

    pub(super) fn dense(&self) -> Result<Array> {
        ops::dequantize(
            &self.weight,
            &self.scales,
            self.biases.as_ref(),
            self.scheme,
        )
    }

    /// As `ExpertMatrix::product`.
    pub(super) fn experts_product(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        let rows = ops::reshape(x, &[x.dim(0), 1, 1, x.dim(1)])?;
        let (biases, by) = (self.biases.as_ref(), (chosen, sorted));
        let y = ops::gather_qmm(&rows, &self.weight, &self.scales, biases, by, self.scheme)?;
        ops::reshape(&y, &[chosen.dim(0), chosen.dim(1), y.dim(-1)])
    }

    /// x `[…, in]` → `[…, out]`
    pub(super) fn product(&self, x: &Array) -> Result<Array> {
        let biases = self.biases.as_ref();
        ops::quantized_matmul(x, &self.weight, &self.scales, biases, self.scheme, true)
    }

    /// The other way: x `[…, out]` → `[…, in]`
    pub(super) fn product_back(&self, x: &Array) -> Result<Array> {
        let biases = self.biases.as_ref();
        ops::quantized_matmul(x, &self.weight, &self.scales, biases, self.scheme, false)
    }

    fn rows(&self, indices: &Array) -> Result<Array> {
        let take = |array: &Array| ops::take(array, indices);
        let biases = self.biases.as_ref().map(take).transpose()?;
        let (weight, scales) = (take(&self.weight)?, take(&self.scales)?);
        ops::dequantize(&weight, &scales, biases.as_ref(), self.scheme)
    }
}
