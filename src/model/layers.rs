//! The small layers: linear, embedding, MLP.

use super::config::Activation;
use super::weights::{self, Weight};
use crate::dtype::{Dtype, Scheme};
use crate::error::Result;
use crate::mlx::{ops, Array};

pub struct Linear {
    matrix: Matrix,
    /// `[out]`
    bias: Option<Array>,
}

/// A weight in the layout of its matrix product.
enum Matrix {
    /// `[in, out]`, a view of the stored `[out, in]`
    Dense(Array),
    Quantized(Quantized),
}

struct Quantized {
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
            Weight::Dense(weight) => Matrix::Dense(ops::transpose(&weight, &[1, 0])?),
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            } => Matrix::Quantized(Quantized {
                weight,
                scales,
                biases,
                scheme,
            }),
        })
    }

    /// x `[…, in]` → `[…, out]`
    fn product(&self, x: &Array) -> Result<Array> {
        match self {
            Matrix::Dense(weight) => ops::matmul(x, weight),
            Matrix::Quantized(q) => {
                ops::quantized_matmul(x, &q.weight, &q.scales, q.biases.as_ref(), q.scheme)
            }
        }
    }
}

impl Linear {
    pub fn new(weights: weights::Linear<Array>) -> Result<Self> {
        Ok(Linear {
            matrix: Matrix::new(weights.weight)?,
            bias: weights.bias,
        })
    }

    /// x `[…, in]` → `[…, out]`
    pub fn forward(&self, x: &Array) -> Result<Array> {
        match (&self.matrix, &self.bias) {
            (Matrix::Dense(weight), Some(bias)) => ops::addmm(bias, x, weight),
            (matrix, None) => matrix.product(x),
            (matrix, Some(bias)) => ops::add(&matrix.product(x)?, bias),
        }
    }
}

pub struct Embedding {
    matrix: Matrix,
    /// `[vocab, hidden]`; none where the matrix is packed
    rows: Option<Array>,
}

impl Embedding {
    pub fn new(weight: Weight<Array>) -> Result<Self> {
        let rows = match &weight {
            Weight::Dense(rows) => Some(rows.clone()),
            Weight::Quantized { .. } => None,
        };
        Ok(Embedding {
            matrix: Matrix::new(weight)?,
            rows,
        })
    }

    /// tokens `[1, n]` → `[1, n, hidden]`
    pub fn forward(&self, tokens: &Array) -> Result<Array> {
        match (&self.rows, &self.matrix) {
            (Some(rows), _) | (None, Matrix::Dense(rows)) => ops::take(rows, tokens),
            (None, Matrix::Quantized(q)) => {
                let biases = q
                    .biases
                    .as_ref()
                    .map(|biases| ops::take(biases, tokens))
                    .transpose()?;
                let (weight, scales) =
                    (ops::take(&q.weight, tokens)?, ops::take(&q.scales, tokens)?);
                ops::dequantize(&weight, &scales, biases.as_ref(), q.scheme)
            }
        }
    }

    /// The tied output layer: x `[…, hidden]` → `[…, vocab]`.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        self.matrix.product(x)
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
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let gate = self.gate_proj.forward(x)?;
        let up = self.up_proj.forward(x)?;
        let gate = match self.activation {
            Activation::Silu => ops::multiply(&gate, &ops::sigmoid(&gate)?)?,
            Activation::GeluTanh => gelu_tanh(&gate)?,
        };
        self.down_proj.forward(&ops::multiply(&gate, &up)?)
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
