//! What modules are on the engine thread: linear layers, experts, embeddings, norms.

use std::ops::Range;

mod experts;
mod heads;
mod matrix;

use super::adapter::AdapterSet;
use super::modules::{Kind, Module, Site, Tensors, Weight};
use super::segments::Adapters;
use crate::dtype::{Dtype, Mode};
use crate::error::{Error, Result};
use crate::kernels;
use crate::mlx::fast;
use crate::mlx::{memory, ops, Array};
use experts::ExpertMatrix;
pub use experts::Experts;
pub(super) use matrix::Matrix;

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
    /// What this model has not.
    Absent,
}

pub struct Linear {
    matrix: Matrix,
    /// `[out]`
    bias: Option<Array>,
    site: Site,
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
        adapters: Adapters<'a>,
        x: Dtype,
    ) -> Option<kernels::Linear<fast::Matrix<'a>, &'a Array>> {
        let weight = match &self.matrix {
            Matrix::Dense { weight, .. } if weight.dtype() == x => fast::Matrix::Dense(weight),
            Matrix::Packed(packed) if packed.product_type(x) == x => fast::Matrix::Packed(packed),
            Matrix::Quantized(packed) if !fast::active() => fast::Matrix::AsMlx(packed.as_mlx()),
            _ => return None,
        };
        if self.bias.as_ref().is_some_and(|bias| bias.dtype() != x) {
            return None;
        }
        Some(kernels::Linear {
            weight,
            bias: self.bias.as_ref(),
            low: self.low_ranks(adapters)?,
        })
    }

    /// What adapters add, for the CPU's kernels.
    fn low_ranks<'a>(&self, adapters: Adapters<'a>) -> Option<Vec<kernels::LowRank<&'a Array>>> {
        let (mut all, mut first) = (Vec::new(), 0);
        for (rows, set) in adapters.rows() {
            let rows = rows.map(|rows| usize::try_from(rows).unwrap_or(0));
            let range = rows.map(|rows| first..first + rows);
            first += rows.unwrap_or(0);
            if let Some(patch) = set.patch(self.site) {
                all.extend(patch.low_ranks(range)?);
            }
        }
        Some(all)
    }

    /// x `[…, rows, in]` → `[…, rows, out]`, of rows with different adapters: the base's product is made of all at once.
    pub fn forward_each(&self, x: &Array, adapters: Adapters) -> Result<Array> {
        let base = self.matrix.product(x)?;
        let bias = self.bias.as_ref();
        adapters.each([x, &base], |[x, base], set| match set.patch(self.site) {
            Some(patch) => patch.linear_by(&x, || Ok(base), bias),
            None => bias.map_or(Ok(base.clone()), |bias| ops::add(&base, bias)),
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

    /// For a GPU's kernels, with the type of its rows; None where they do not know it.
    pub fn as_mlx(&self) -> Option<(fast::Matrix<'_>, Dtype)> {
        match &self.matrix {
            Matrix::Dense { weight, .. } => Some((fast::Matrix::Dense(weight), weight.dtype())),
            Matrix::Quantized(packed) => {
                let dtype = match packed.scheme.mode {
                    Mode::Affine => packed.scales.dtype(),
                    // What MLX makes of such numbers.
                    _ => Dtype::BF16,
                };
                Some((fast::Matrix::AsMlx(packed.as_mlx()), dtype))
            }
            Matrix::Packed(_) => None,
        }
    }

    /// The rows as they are: tokens `[batch, n]` → `[batch, n, width]`.
    pub fn rows(&self, tokens: &Array) -> Result<Array> {
        self.matrix.rows(tokens)
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

/// An RMS norm, or a layer norm.
pub struct Norm {
    /// `[size]`, as it is computed with
    weight: Array,
    /// `[size]`
    bias: Option<Array>,
    /// `[size]`, as files have it
    stored: Array,
    eps: f32,
    layer: bool,
    site: Site,
}

impl Norm {
    /// x `[…, size]` → the same shape
    pub fn forward(&self, x: &Array, adapters: &AdapterSet) -> Result<Array> {
        match self.layer {
            true => ops::layer_norm(x, self.adapted(adapters), self.bias.as_ref(), self.eps),
            false => ops::rms_norm(x, Some(self.adapted(adapters)), self.eps),
        }
    }

    /// The weight to compute with.
    pub fn adapted<'a>(&'a self, adapters: &'a AdapterSet) -> &'a Array {
        adapters.norm(self.site, &self.weight)
    }

    pub fn eps(&self) -> f32 {
        self.eps
    }

    pub fn bias(&self) -> Option<&Array> {
        self.bias.as_ref()
    }

    /// Whether it is a layer norm.
    pub fn is_layer(&self) -> bool {
        self.layer
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
            return Ok(match module.kind {
                Kind::Absent => Layer::Absent,
                _ => Layer::Tied,
            });
        };
        Ok(match (module.kind, tensors.weight) {
            (Kind::Embedding | Kind::Table, weight) => Layer::Embedding(Embedding {
                matrix: Matrix::new(weight)?,
            }),
            (Kind::Linear, weight) => {
                let bias = tensors.bias;
                Layer::Linear(Linear::new(Tensors { weight, bias }, module.site)?)
            }
            (Kind::Experts(_), weight) => Layer::Experts(Experts {
                matrix: ExpertMatrix::new(weight)?,
                bias: tensors.bias,
                site: module.site,
            }),
            (Kind::Heads { turned }, weight) => Layer::Experts(Experts {
                matrix: match turned {
                    true => ExpertMatrix::turned(weight)?,
                    false => ExpertMatrix::new(weight)?,
                },
                bias: None,
                site: module.site,
            }),
            (
                Kind::Norm {
                    eps,
                    plus_one,
                    unconverted,
                    layer,
                },
                Weight::Dense(stored),
            ) => {
                let stored = computed_norm(&stored, unconverted)?;
                Layer::Norm(Norm {
                    weight: computed_norm(&stored, plus_one)?,
                    stored,
                    bias: tensors.bias,
                    eps,
                    layer,
                    site: module.site,
                })
            }
            (Kind::Vector, Weight::Dense(vector)) => Layer::Vector(vector),
            (Kind::Number, Weight::Dense(stored)) => {
                let value = ops::astype(&stored, Dtype::F32)?.to_f32()?;
                Layer::Number(value.first().copied().unwrap_or_default(), stored)
            }
            (Kind::Norm { .. } | Kind::Vector | Kind::Number | Kind::Absent, _) => {
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
            Layer::Norm(norm) => Tensors {
                weight: Weight::Dense(norm.stored.clone()),
                bias: norm.bias.clone(),
            },
            Layer::Vector(vector) | Layer::Number(_, vector) => Tensors::dense(vector.clone()),
            Layer::Tied | Layer::Absent => return Ok(None),
        }))
    }

    /// The base weight `[out, in]`, `[experts, out, in]` or `[vocab, hidden]`, unpacked; None where there is no matrix.
    pub fn weight(&self) -> Option<Result<Array>> {
        match self {
            Layer::Embedding(Embedding { matrix }) | Layer::Linear(Linear { matrix, .. }) => {
                Some(matrix.weight())
            }
            Layer::Experts(experts) => Some(experts.matrix.weight()),
            Layer::Norm(_) | Layer::Vector(_) | Layer::Number(..) => None,
            Layer::Tied | Layer::Absent => None,
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
