//! Stacked matrices of which each head has its own.

use super::experts::{ExpertMatrix, Experts};
use super::matrix::{Quantized, ALL};
use crate::error::{Error, Result};
use crate::mlx::{self, fast, ops, Array};
use crate::model::modules::Weight;

impl ExpertMatrix {
    /// Of a packed weight `[heads, in, out]`, which is unpacked: packed the other way it would be another one.
    pub fn turned(weight: Weight<Array>) -> Result<Self> {
        let Weight::Quantized {
            weight,
            scales,
            biases,
            scheme,
        } = weight
        else {
            return Err(Error::internal("a turned weight that is not packed"));
        };
        let dense = ops::dequantize(&weight, &scales, biases.as_ref(), scheme)?;
        // [heads, in, out] → [heads, out, in]
        let dense = ops::contiguous(&ops::transpose(&dense, &[0, 2, 1])?)?;
        mlx::eval(&[&dense])?;
        Ok(ExpertMatrix::Dense(dense))
    }
}

impl Experts {
    /// Each head by its own: x `[batch, n, heads, in]` → `[batch, n, heads, out]`
    pub fn by_head(&self, x: &Array) -> Result<Array> {
        if fast::products(x.dtype()) {
            let heads = ops::arange(0, x.dim(2))?;
            let own = ops::broadcast_to(&heads, &[x.dim(0), x.dim(1), x.dim(2)])?;
            match &self.matrix {
                ExpertMatrix::Dense(weight) => return fast::expert_linear(x, weight, &own),
                ExpertMatrix::Packed(packed) => return packed.product(x, &own),
                ExpertMatrix::Quantized(_) => {}
            }
        }
        let y = self.of_heads(&ops::transpose(x, &[0, 2, 1, 3])?)?;
        ops::transpose(&y, &[0, 2, 1, 3])
    }

    /// By MLX's own operations: x `[batch, 1 or heads, n, in]` → `[batch, heads, n, out]`
    pub fn of_heads(&self, x: &Array) -> Result<Array> {
        match &self.matrix {
            ExpertMatrix::Dense(weight) => ops::matmul(x, &ops::transpose(weight, &[0, 2, 1])?),
            ExpertMatrix::Quantized(q) => q.product(x),
            ExpertMatrix::Packed(packed) => Quantized::experts(packed, &ALL)?.product(x),
        }
    }

    /// The other way: x `[batch, 1 or heads, n, out]` → `[batch, heads, n, in]`
    pub fn back_of_heads(&self, x: &Array) -> Result<Array> {
        match &self.matrix {
            ExpertMatrix::Dense(weight) => ops::matmul(x, weight),
            ExpertMatrix::Quantized(q) => q.product_back(x),
            ExpertMatrix::Packed(packed) => Quantized::experts(packed, &ALL)?.product_back(x),
        }
    }
}
