//! The small layers: linear, embedding, MLP.

use super::adapter::AdapterSet;
use super::config::Activation;
use super::modules::Site;
use super::weights::{self, Weight};
use crate::dtype::{Dtype, Scheme};
use crate::error::Result;
use crate::kernels::Gate;
use crate::mlx::fast::{self, PackedMatrix};
use crate::mlx::{ops, Array};

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

pub(super) struct Quantized {
    /// `[out, in * bits / 32]`
    weight: Array,
    /// `[out, in / group_size]`
    scales: Array,
    biases: Option<Array>,
    scheme: Scheme,
}

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

    /// The tensors that it was made of, bit by bit. Queues a copy of those that are packed for the kernels.
    fn stored(&self) -> Result<Weight<Array>> {
        Ok(match self {
            Matrix::Dense { weight, .. } => Weight::Dense(weight.clone()),
            Matrix::Quantized(q) => Weight::Quantized {
                weight: q.weight.clone(),
                scales: q.scales.clone(),
                biases: q.biases.clone(),
                scheme: q.scheme,
            },
            Matrix::Packed(packed) => {
                let (weight, scales, biases) = packed.unpack()?;
                Weight::Quantized {
                    weight,
                    scales,
                    biases,
                    scheme: packed.scheme(),
                }
            }
        })
    }

    /// The weight `[out, in]`, dense.
    pub(super) fn weight(&self) -> Result<Array> {
        match self.stored()? {
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
            Matrix::Dense { weight, .. } if fast::active() => fast::linear(x, weight),
            Matrix::Dense { transposed, .. } => ops::matmul(x, transposed),
            Matrix::Quantized(q) => {
                ops::quantized_matmul(x, &q.weight, &q.scales, q.biases.as_ref(), q.scheme)
            }
            Matrix::Packed(packed) if fast::active() => packed.product(x),
            Matrix::Packed(packed) => {
                let (weight, scales, biases) = packed.unpack()?;
                ops::quantized_matmul(x, &weight, &scales, biases.as_ref(), packed.scheme())
            }
        }
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

    /// The tensors that it was made of.
    pub fn stored(&self) -> Result<weights::Linear<Array>> {
        Ok(weights::Linear {
            weight: self.matrix.stored()?,
            bias: self.bias.clone(),
        })
    }

    /// The base weight `[out, in]`, unpacked.
    pub fn weight(&self) -> Result<Array> {
        self.matrix.weight()
    }

    /// x `[…, in]` → `[…, out]`
    pub fn forward(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        if let Some(patch) = adapters.patch(self.site) {
            return patch.linear(x, &self.matrix, self.bias.as_ref());
        }
        match (&self.matrix, &self.bias) {
            (Matrix::Dense { transposed, .. }, Some(bias)) if !fast::active() => {
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

    /// The tensors that it was made of.
    pub fn stored(&self) -> Result<weights::Linear<Array>> {
        Ok(weights::Linear {
            weight: self.matrix.stored()?,
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
            None => self.base_rows(tokens)?,
        };
        match patch {
            Some(patch) => patch.rows(rows, tokens),
            None => Ok(rows),
        }
    }

    fn base_rows(&self, tokens: &Array) -> Result<Array> {
        match &self.matrix {
            Matrix::Dense { weight, .. } => ops::take(weight, tokens),
            Matrix::Packed(packed) if fast::active() => packed.rows(tokens),
            Matrix::Packed(packed) => {
                let (weight, scales, biases) = packed.unpack()?;
                quantized_rows(&weight, &scales, biases.as_ref(), packed.scheme(), tokens)
            }
            Matrix::Quantized(q) => {
                quantized_rows(&q.weight, &q.scales, q.biases.as_ref(), q.scheme, tokens)
            }
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

/// Rows by index, unpacked.
fn quantized_rows(
    weight: &Array,
    scales: &Array,
    biases: Option<&Array>,
    scheme: Scheme,
    indices: &Array,
) -> Result<Array> {
    let biases = biases
        .map(|biases| ops::take(biases, indices))
        .transpose()?;
    let (weight, scales) = (ops::take(weight, indices)?, ops::take(scales, indices)?);
    ops::dequantize(&weight, &scales, biases.as_ref(), scheme)
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
        ops::rms_norm(x, Some(adapters.norm(self.site, &self.weight)), eps)
    }

    pub fn dtype(&self) -> Dtype {
        self.weight.dtype()
    }
}

pub struct Mlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
    pub activation: Activation,
}

impl Mlp {
    /// x `[1, n, hidden]` → the same shape
    pub fn forward(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        let gate = self.gate_proj.forward(x, adapters)?;
        let up = self.up_proj.forward(x, adapters)?;
        if fast::active() && gate.dtype() == up.dtype() {
            let kind = match self.activation {
                Activation::Silu => Gate::Silu,
                Activation::GeluTanh => Gate::GeluTanh,
            };
            let inner = fast::gated(&gate, &up, kind)?;
            return self.down_proj.forward(&inner, adapters);
        }
        let gate = match self.activation {
            Activation::Silu => ops::multiply(&gate, &ops::sigmoid(&gate)?)?,
            Activation::GeluTanh => gelu_tanh(&gate)?,
        };
        self.down_proj
            .forward(&ops::multiply(&gate, &up)?, adapters)
    }
}

/// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
fn gelu_tanh(x: &Array) -> Result<Array> {
    let number = |value: f32| Array::scalar(value, x.dtype());
    let cube = ops::power(x, &number(3.0)?)?;
    let inner = ops::add(x, &ops::multiply(&number(0.044715)?, &cube)?)?;
    let tanh = ops::tanh(&ops::multiply(
        &number((2.0 / std::f32::consts::PI).sqrt())?,
        &inner,
    )?)?;
    let half = ops::multiply(&number(0.5)?, x)?;
    ops::multiply(&half, &ops::add(&number(1.0)?, &tanh)?)
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
