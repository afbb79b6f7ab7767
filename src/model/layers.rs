//! What modules are on the engine thread: linear layers, embeddings, norms.

use std::ops::Range;

use super::adapter::AdapterSet;
use super::modules::{Kind, Module, Site, Tensors, Weight};
use crate::dtype::{Dtype, Scheme};
use crate::error::{Error, Result};
use crate::kernels;
use crate::mlx::fast::{self, PackedExperts, PackedMatrix};
use crate::mlx::{memory, nn, ops, Array};

/// A module with its arrays.
pub enum Layer {
    Embedding(Embedding),
    Linear(Linear),
    Experts(Experts),
    Norm(Norm),
    Vector(Array),
    /// And what is stored of it.
    Number(f32, Array),
    /// An output layer that is the embedding.
    Tied,
}

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

    /// Some of packed experts: `[experts, out, …]`.
    fn experts(packed: &PackedExperts, experts: &Range<i32>) -> Result<Self> {
        let (weight, scales, biases) = packed.unpack(experts.clone())?;
        Ok(Quantized {
            weight,
            scales,
            biases,
            scheme: packed.scheme(),
        })
    }

    fn dense(&self) -> Result<Array> {
        ops::dequantize(
            &self.weight,
            &self.scales,
            self.biases.as_ref(),
            self.scheme,
        )
    }

    /// As `ExpertMatrix::product`.
    fn experts_product(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        let rows = ops::reshape(x, &[x.dim(0), 1, 1, x.dim(1)])?;
        let (biases, by) = (self.biases.as_ref(), (chosen, sorted));
        let y = ops::gather_qmm(&rows, &self.weight, &self.scales, biases, by, self.scheme)?;
        ops::reshape(&y, &[chosen.dim(0), chosen.dim(1), y.dim(-1)])
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
    fn new(tensors: Tensors<Array>, site: Site) -> Result<Self> {
        Ok(Linear {
            matrix: Matrix::new(tensors.weight)?,
            bias: tensors.bias,
            site,
        })
    }

    /// The tensors that it was made of, of the matrix these rows.
    fn stored(&self, rows: &Range<i32>) -> Result<Tensors<Array>> {
        Ok(Tensors {
            weight: self.matrix.stored(rows)?,
            bias: self.bias.clone(),
        })
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

    /// x `[…, in]` → `[…, out]` f32, not rounded to the type of x
    pub fn logits(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        let own = adapters.patch(self.site).is_none() && fast::products(x.dtype());
        let y = match &self.matrix {
            Matrix::Dense { weight, .. } if own => fast::linear_as(x, weight, Dtype::F32)?,
            Matrix::Packed(packed) if own => packed.product_as(x, Dtype::F32)?,
            _ => return self.forward(&ops::astype(x, Dtype::F32)?, adapters),
        };
        match &self.bias {
            Some(bias) => ops::add(&y, bias),
            None => Ok(y),
        }
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

/// Stacked matrices, of which each row is multiplied with some.
pub struct Experts {
    matrix: ExpertMatrix,
    /// `[experts, out]`
    bias: Option<Array>,
    site: Site,
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
    fn new(weight: Weight<Array>) -> Result<Self> {
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
    fn stored(&self, rows: &Range<i32>) -> Result<Weight<Array>> {
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
    fn weight(&self) -> Result<Array> {
        match self {
            ExpertMatrix::Dense(weight) => Ok(weight.clone()),
            ExpertMatrix::Quantized(q) => q.dense(),
            ExpertMatrix::Packed(packed) => Quantized::experts(packed, &ALL)?.dense(),
        }
    }

    /// x `[n, in]`, chosen `[n, k]` → `[n, k, out]`
    pub(super) fn product(&self, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
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

pub struct Embedding {
    matrix: Matrix,
}

impl Embedding {
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

/// An RMS norm.
pub struct Norm {
    /// `[size]`, as it is computed with
    weight: Array,
    /// `[size]`, as files have it
    stored: Array,
    eps: f32,
    site: Site,
}

impl Norm {
    /// x `[…, size]` → the same shape
    pub fn forward(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        ops::rms_norm(x, Some(self.adapted(adapters)), self.eps)
    }

    /// The weight to compute with.
    pub fn adapted<'a>(&'a self, adapters: &'a AdapterSet) -> &'a Array {
        adapters.norm(self.site, &self.weight)
    }

    pub fn eps(&self) -> f32 {
        self.eps
    }
}

/// A stored norm as it is computed with: the sum is made once, in the weight's type.
pub(super) fn computed_norm(stored: &Array, plus_one: bool) -> Result<Array> {
    match plus_one {
        true => ops::add(&Array::scalar(1.0, stored.dtype())?, stored),
        false => Ok(stored.clone()),
    }
}

impl Layer {
    pub fn new(module: &Module, tensors: Option<Tensors<Array>>) -> Result<Self> {
        let Some(tensors) = tensors else {
            return Ok(Layer::Tied);
        };
        Ok(match (module.kind, tensors.weight) {
            (Kind::Embedding, weight) => Layer::Embedding(Embedding {
                matrix: Matrix::new(weight)?,
            }),
            (Kind::Linear, weight) => {
                let bias = tensors.bias;
                Layer::Linear(Linear::new(Tensors { weight, bias }, module.site)?)
            }
            (Kind::Experts, weight) => Layer::Experts(Experts {
                matrix: ExpertMatrix::new(weight)?,
                bias: tensors.bias,
                site: module.site,
            }),
            (Kind::Norm { eps, plus_one }, Weight::Dense(stored)) => Layer::Norm(Norm {
                weight: computed_norm(&stored, plus_one)?,
                stored,
                eps,
                site: module.site,
            }),
            (Kind::Vector, Weight::Dense(vector)) => Layer::Vector(vector),
            (Kind::Number, Weight::Dense(stored)) => {
                let value = ops::astype(&stored, Dtype::F32)?.to_f32()?;
                Layer::Number(value.first().copied().unwrap_or_default(), stored)
            }
            (Kind::Norm { .. } | Kind::Vector | Kind::Number, _) => {
                return Err(Error::internal("a packed norm"));
            }
        })
    }

    /// The tensors that it was made of, of matrices these rows; None of a tied output layer.
    pub fn stored(&self, rows: &Range<i32>) -> Result<Option<Tensors<Array>>> {
        Ok(Some(match self {
            Layer::Embedding(embedding) => Tensors {
                weight: embedding.matrix.stored(rows)?,
                bias: None,
            },
            Layer::Linear(linear) => linear.stored(rows)?,
            Layer::Experts(experts) => Tensors {
                weight: experts.matrix.stored(rows)?,
                bias: experts.bias.clone(),
            },
            Layer::Norm(norm) => Tensors::dense(norm.stored.clone()),
            Layer::Vector(vector) | Layer::Number(_, vector) => Tensors::dense(vector.clone()),
            Layer::Tied => return Ok(None),
        }))
    }

    /// The base weight `[out, in]`, `[experts, out, in]` or `[vocab, hidden]`, unpacked; None where there is no matrix.
    pub fn weight(&self) -> Option<Result<Array>> {
        match self {
            Layer::Embedding(Embedding { matrix }) | Layer::Linear(Linear { matrix, .. }) => {
                Some(matrix.weight())
            }
            Layer::Experts(experts) => Some(experts.matrix.weight()),
            Layer::Norm(_) | Layer::Vector(_) | Layer::Number(..) | Layer::Tied => None,
        }
    }
}

/// All modules, in order. What the kernels pack takes the place of what was loaded, so that there is never more than all
/// weights and a block.
pub(super) fn make(modules: super::modules::Modules<Array>) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    let mut block = None;
    for (module, tensors) in modules.into_list() {
        if module.site.layer() != block && fast::active() {
            memory::give_back();
        }
        block = module.site.layer();
        layers.push(Layer::new(&module, tensors)?);
    }
    Ok(layers)
}
