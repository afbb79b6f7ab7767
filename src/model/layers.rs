//! The small layers: linear, embedding, MLP.

use std::ops::Range;

use super::adapter::AdapterSet;
use super::config::Activation;
use super::modules::Site;
use super::weights::{self, Weight};
use crate::dtype::{Dtype, Scheme};
use crate::error::Result;
use crate::kernels;
use crate::mlx::fast::{self, PackedMatrix};
use crate::mlx::{compiled, ops, Array};

pub struct Linear {
    matrix: Matrix,
    /// `[out]`
    bias: Option<Array>,
    site: Site,
}

/// A weight in the layout of its matrix product.
pub(super) enum Matrix {
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
pub(super) struct Quantized {
    /// `[out, in * bits / 32]`
    weight: Array,
    /// `[out, in / group_size]`
    scales: Array,
    biases: Option<Array>,
    scheme: Scheme,
}

/// As many rows as there are.
const ALL: Range<i32> = 0..i32::MAX;

impl Matrix {
    fn new(weight: Weight<Array>) -> Result<Self> {
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
    pub(super) fn dense(weight: &Array) -> Result<Self> {
        Ok(Matrix::Dense {
            transposed: ops::transpose(weight, &[1, 0])?,
            weight: weight.clone(),
        })
    }

    /// The tensors that it was made of, bit by bit, of each these rows. Queues a copy of those that are packed for the
    /// kernels.
    fn stored(&self, rows: &Range<i32>) -> Result<Weight<Array>> {
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
    pub(super) fn weight(&self) -> Result<Array> {
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
    pub(super) fn product(&self, x: &Array) -> Result<Array> {
        match self {
            Matrix::Dense { weight, .. } if fast::products(x.dtype()) => fast::linear(x, weight),
            Matrix::Dense { transposed, .. } => ops::matmul(x, transposed),
            Matrix::Quantized(q) => q.product(x),
            Matrix::Packed(packed) if fast::products(x.dtype()) => packed.product(x),
            Matrix::Packed(packed) => Quantized::unpacked(packed, &ALL)?.product(x),
        }
    }

    /// Rows by index, dense: i32 or u32 `[…]` → `[…, in]`.
    fn rows(&self, indices: &Array) -> Result<Array> {
        match self {
            Matrix::Dense { weight, .. } => ops::take(weight, indices),
            Matrix::Quantized(q) => q.rows(indices),
            Matrix::Packed(packed) if fast::products(packed.rows_type()) => packed.rows(indices),
            Matrix::Packed(packed) => Quantized::unpacked(packed, &ALL)?.rows(indices),
        }
    }
}

impl Quantized {
    fn unpacked(packed: &PackedMatrix, rows: &Range<i32>) -> Result<Self> {
        let (weight, scales, biases) = packed.unpack(rows.clone())?;
        Ok(Quantized {
            weight,
            scales,
            biases,
            scheme: packed.scheme(),
        })
    }

    fn into_weight(self) -> Weight<Array> {
        Weight::Quantized {
            weight: self.weight,
            scales: self.scales,
            biases: self.biases,
            scheme: self.scheme,
        }
    }

    fn product(&self, x: &Array) -> Result<Array> {
        let biases = self.biases.as_ref();
        ops::quantized_matmul(x, &self.weight, &self.scales, biases, self.scheme)
    }

    fn rows(&self, indices: &Array) -> Result<Array> {
        let take = |array: &Array| ops::take(array, indices);
        let biases = self.biases.as_ref().map(take).transpose()?;
        let (weight, scales) = (take(&self.weight)?, take(&self.scales)?);
        ops::dequantize(&weight, &scales, biases.as_ref(), self.scheme)
    }
}

impl Linear {
    pub fn new(weights: weights::Linear<Array>, site: Site) -> Result<Self> {
        Ok(Linear {
            matrix: Matrix::new(weights.weight)?,
            bias: weights.bias,
            site,
        })
    }

    pub fn site(&self) -> Site {
        self.site
    }

    /// The tensors that it was made of, of the matrix these rows.
    pub fn stored(&self, rows: &Range<i32>) -> Result<weights::Linear<Array>> {
        Ok(weights::Linear {
            weight: self.matrix.stored(rows)?,
            bias: self.bias.clone(),
        })
    }

    /// The base weight `[out, in]`, unpacked.
    pub fn weight(&self) -> Result<Array> {
        self.matrix.weight()
    }

    /// For the CPU's kernels, of x of this type; None where they do not know all of it.
    pub fn parts<'a>(
        &'a self,
        adapters: &'a AdapterSet,
        x: Dtype,
    ) -> Option<kernels::Linear<fast::Matrix<'a>, &'a Array>> {
        let weight = match &self.matrix {
            Matrix::Dense { weight, .. } if weight.dtype() == x => fast::Matrix::Dense(weight),
            Matrix::Packed(packed) if packed.product_type(x) == x => fast::Matrix::Packed(packed),
            _ => return None,
        };
        if self.bias.as_ref().is_some_and(|bias| bias.dtype() != x) {
            return None;
        }
        Some(kernels::Linear {
            weight,
            bias: self.bias.as_ref(),
            low: match adapters.patch(self.site) {
                None => Vec::new(),
                Some(patch) => patch.low_ranks()?,
            },
        })
    }

    /// x `[…, in]` → `[…, out]`
    pub fn forward(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        if let Some(patch) = adapters.patch(self.site) {
            return patch.linear(x, &self.matrix, self.bias.as_ref());
        }
        match (&self.matrix, &self.bias) {
            (Matrix::Dense { transposed, .. }, Some(bias)) if !fast::products(x.dtype()) => {
                ops::addmm(bias, x, transposed)
            }
            (matrix, None) => matrix.product(x),
            (matrix, Some(bias)) => ops::add(&matrix.product(x)?, bias),
        }
    }
}

pub struct Embedding {
    matrix: Matrix,
}

impl Embedding {
    pub fn new(weight: Weight<Array>) -> Result<Self> {
        Ok(Embedding {
            matrix: Matrix::new(weight)?,
        })
    }

    /// Rows of the tensors that it was made of.
    pub fn stored(&self, rows: &Range<i32>) -> Result<weights::Linear<Array>> {
        Ok(weights::Linear {
            weight: self.matrix.stored(rows)?,
            bias: None,
        })
    }

    /// The weight `[vocab, hidden]`, unpacked.
    pub fn weight(&self) -> Result<Array> {
        self.matrix.weight()
    }

    /// tokens `[1, n]` → `[1, n, hidden]`
    pub fn forward(&self, tokens: &Array, adapters: &AdapterSet) -> Result<Array> {
        let patch = adapters.patch(Site::EMBED_TOKENS);
        let rows = match patch.and_then(|patch| patch.full()) {
            Some(rows) => ops::take(rows, tokens)?,
            None => self.matrix.rows(tokens)?,
        };
        match patch {
            Some(patch) => patch.rows(rows, tokens),
            None => Ok(rows),
        }
    }

    /// The tied output layer: x `[…, hidden]` → `[…, vocab]`.
    pub fn as_linear(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        // An adapter of the output layer alone counts for more than one of the embedding that is tied to it.
        if let Some(patch) = adapters.patch(Site::LM_HEAD) {
            return patch.linear(x, &self.matrix, None);
        }
        match adapters.patch(Site::EMBED_TOKENS) {
            Some(patch) => patch.head(x, &self.matrix),
            None => self.matrix.product(x),
        }
    }
}

/// A norm's weight, `[size]`.
pub struct Norm {
    /// As it is computed with.
    weight: Array,
    stored: Array,
    site: Site,
}

impl Norm {
    pub fn new(weight: Array, stored: Array, site: Site) -> Self {
        Norm {
            weight,
            stored,
            site,
        }
    }

    pub fn site(&self) -> Site {
        self.site
    }

    /// The tensor that it was made of.
    pub fn stored(&self) -> weights::Linear<Array> {
        weights::Linear {
            weight: Weight::Dense(self.stored.clone()),
            bias: None,
        }
    }

    /// x `[…, size]` → the same shape
    pub fn forward(&self, x: &Array, eps: f32, adapters: &AdapterSet) -> Result<Array> {
        ops::rms_norm(x, Some(self.adapted(adapters)), eps)
    }

    /// The weight to compute with.
    pub fn adapted<'a>(&'a self, adapters: &'a AdapterSet) -> &'a Array {
        adapters.norm(self.site, &self.weight)
    }
}

pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
    pub activation: Activation,
}

impl Mlp {
    /// For the CPU's kernels.
    pub fn gate(&self) -> kernels::Activation {
        match self.activation {
            Activation::Silu => kernels::Activation::Silu,
            Activation::GeluTanh => kernels::Activation::GeluTanh,
        }
    }

    /// x `[1, n, hidden]` → the same shape
    pub fn forward(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        let gate = self.gate_proj.forward(x, adapters)?;
        let up = self.up_proj.forward(x, adapters)?;
        if fast::active() && gate.dtype() == up.dtype() {
            let inner = fast::gated(&gate, &up, self.gate())?;
            return self.down_proj.forward(&inner, adapters);
        }
        let gated = match self.activation {
            Activation::Silu => swiglu,
            Activation::GeluTanh => geglu_tanh,
        };
        let inner = compiled::fused([&gate, &up], gated)?;
        self.down_proj.forward(&inner, adapters)
    }
}

/// silu(gate) * up
fn swiglu([gate, up]: &[Array; 2]) -> Result<Array> {
    ops::multiply(&ops::multiply(gate, &ops::sigmoid(gate)?)?, up)
}

/// gelu(gate) * up, with gelu(x) = 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
fn geglu_tanh([gate, up]: &[Array; 2]) -> Result<Array> {
    let number = |value: f32| Array::scalar(value, gate.dtype());
    let cube = ops::power(gate, &number(3.0)?)?;
    let inner = ops::add(gate, &ops::multiply(&number(0.044715)?, &cube)?)?;
    let tanh = ops::tanh(&ops::multiply(
        &number((2.0 / std::f32::consts::PI).sqrt())?,
        &inner,
    )?)?;
    let half = ops::multiply(&number(0.5)?, gate)?;
    let gelu = ops::multiply(&half, &ops::add(&number(1.0)?, &tanh)?)?;
    ops::multiply(&gelu, up)
}

/// `x + y`; in float16 with `clip` the sum is made in f32 and clipped to what f16 holds.
pub fn add_residual(x: &Array, y: &Array, clip: bool) -> Result<Array> {
    if !clip || x.dtype() != Dtype::F16 {
        return ops::add(x, y);
    }
    let bound = f32::from(half::f16::MAX);
    let sum = ops::add(&ops::astype(x, Dtype::F32)?, &ops::astype(y, Dtype::F32)?)?;
    let (low, high) = (
        Array::scalar(-bound, Dtype::F32)?,
        Array::scalar(bound, Dtype::F32)?,
    );
    ops::astype(&ops::clip(&sum, &low, &high)?, Dtype::F16)
}
