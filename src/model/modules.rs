//! The one list of a decoder's modules: each is declared once, by the part that it belongs to, and found by its place in
//! the list. Loading, adapters, saving, fusing, training and counting go over it.

use super::cost::{rows_type, Known};
use crate::dtype::{Dtype, Scheme};
use crate::load::{ExpertPlace, ModuleShape};

/// A module's place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub(super) index: usize,
    layer: Option<usize>,
}

impl Site {
    pub const EMBED_TOKENS: Site = Site::outside(0);
    pub const NORM: Site = Site::outside(1);
    pub const LM_HEAD: Site = Site::outside(2);

    const fn outside(index: usize) -> Site {
        Site { index, layer: None }
    }

    /// The block it is in; none: outside of them.
    pub fn layer(self) -> Option<usize> {
        self.layer
    }

    /// A number that no other site of the model has.
    pub fn number(self) -> u64 {
        self.index as u64
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Without a prefix: `layers.0.self_attn.q_proj`, `embed_tokens`, `norm`, `lm_head`.
    pub name: String,
    pub site: Site,
    pub shape: ModuleShape,
    pub kind: Kind,
}

/// What a module is computed as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Embedding,
    /// Rows for tokens that adapters do not reach.
    Table,
    Linear,
    /// Stacked: each token is multiplied with some.
    Experts(ExpertPlace),
    /// Stacked: each head is multiplied with its own, which no adapter reaches. `turned`: what is read of the files is packed, and
    /// rows are columns there, so that it is unpacked once it is loaded.
    Heads {
        turned: bool,
    },
    /// An RMS norm, or a layer norm. `plus_one`: its weight is stored minus one. `unconverted`: only this folder's is, and once it is loaded
    /// it is as others have it.
    Norm {
        eps: f32,
        plus_one: bool,
        unconverted: bool,
        layer: bool,
    },
    /// Numbers that a part looks at itself.
    Vector,
    /// One of them.
    Number,
    /// What other models have in its place.
    Absent,
}

/// Modules and what is known of their tensors: first header entries that the config implies, then bytes in MLX's memory,
/// then arrays.
pub struct Modules<T> {
    list: Vec<(Module, Option<Tensors<T>>)>,
    /// From here on they are of a head that predicts further tokens.
    ahead: Option<usize>,
}

/// A module's tensors.
#[derive(Clone)]
pub struct Tensors<T> {
    /// Norms and vectors have one of one dimension, experts of three.
    pub weight: Weight<T>,
    /// `[out]`, of experts `[experts, out]`
    pub bias: Option<T>,
}

#[derive(Clone)]
pub enum Weight<T> {
    /// `[out, in]`
    Dense(T),
    Quantized {
        /// `[out, in * bits / 32]`, u32
        weight: T,
        /// `[out, in / group_size]`
        scales: T,
        /// `[out, in / group_size]`; affine only
        biases: Option<T>,
        scheme: Scheme,
    },
}

impl<T> Modules<T> {
    pub(super) fn new() -> Self {
        Modules {
            list: Vec::new(),
            ahead: None,
        }
    }

    /// What is put in from now on is of a head that predicts further tokens.
    pub(super) fn begin_ahead(&mut self) {
        self.ahead = Some(self.list.len());
    }

    /// As if there were none.
    pub(super) fn drop_ahead(&mut self) {
        if let Some(first) = self.ahead.take() {
            self.list.truncate(first);
        }
    }

    /// Of a model without such a head how many tensors there would be.
    pub fn tensors_before_ahead(&self) -> usize {
        let own = self
            .iter()
            .filter(|(module, _)| !self.is_ahead(module.site));
        own.map(|(_, tensors)| tensors.iter().count()).sum()
    }

    /// Whether it is of a head that predicts further tokens.
    pub fn is_ahead(&self, site: Site) -> bool {
        self.ahead.is_some_and(|first| site.index >= first)
    }

    /// `tensors`: none for an output layer that is the embedding.
    pub(super) fn push(
        &mut self,
        layer: Option<usize>,
        name: String,
        (shape, kind): (ModuleShape, Kind),
        tensors: Option<Tensors<T>>,
    ) -> Site {
        let index = self.list.len();
        let site = Site { index, layer };
        let module = Module {
            name,
            site,
            shape,
            kind,
        };
        self.list.push((module, tensors));
        site
    }

    /// All that adapters can reach. The output layer is one also where it is the embedding: an adapter can change it alone.
    pub fn described(&self) -> Vec<Module> {
        let alone = |kind| {
            matches!(
                kind,
                Kind::Heads { .. } | Kind::Vector | Kind::Number | Kind::Table | Kind::Absent
            )
        };
        let reached = |module: &&Module| !alone(module.kind) && !self.is_ahead(module.site);
        let all = self.list.iter().map(|(module, _)| module);
        all.filter(reached).cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<Module> {
        let all = self.list.iter().map(|(module, _)| module);
        all.cloned().collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Module, &Tensors<T>)> {
        let all = self.list.iter();
        all.filter_map(|(module, tensors)| Some((module, tensors.as_ref()?)))
    }

    pub fn get(&self, site: Site) -> Option<&Tensors<T>> {
        self.list.get(site.index)?.1.as_ref()
    }

    /// Every tensor: of each module a matrix, its scales and biases, and then the bias.
    pub fn tensors(&self) -> impl Iterator<Item = &T> {
        self.iter().flat_map(|(_, tensors)| tensors.iter())
    }

    /// Every tensor through `f`, in order; the first error ends it.
    pub fn try_map<U, E>(
        self,
        mut f: impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Modules<U>, E> {
        let list = self
            .list
            .into_iter()
            .map(|(module, tensors)| {
                let tensors = tensors.map(|tensors| tensors.try_map(&mut f)).transpose()?;
                Ok((module, tensors))
            })
            .collect::<std::result::Result<_, E>>()?;
        Ok(Modules {
            list,
            ahead: self.ahead,
        })
    }

    /// In order.
    pub(super) fn into_list(self) -> Vec<(Module, Option<Tensors<T>>)> {
        self.list
    }
}

impl<T> Tensors<T> {
    pub(super) fn dense(weight: T) -> Self {
        Tensors {
            weight: Weight::Dense(weight),
            bias: None,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.weight.tensors().into_iter().chain(&self.bias)
    }

    /// Of a matrix that is unpacked once it is loaded what was its packed one, and its type and shape then.
    pub fn unpacked(&self, module: &Module) -> Option<(&T, Dtype, [i32; 3])>
    where
        T: Known,
    {
        match (module.kind, module.shape, &self.weight) {
            (
                Kind::Heads { turned: true },
                ModuleShape::Experts {
                    experts,
                    input,
                    output,
                    ..
                },
                Weight::Quantized { weight, .. },
            ) => Some((weight, rows_type(&self.weight), [experts, output, input])),
            _ => None,
        }
    }

    /// In the same order.
    pub fn into_list(self) -> Vec<T> {
        let mut all = match self.weight {
            Weight::Dense(weight) => vec![weight],
            Weight::Quantized {
                weight,
                scales,
                biases,
                ..
            } => [weight, scales].into_iter().chain(biases).collect(),
        };
        all.extend(self.bias);
        all
    }

    pub(super) fn try_map<U, E>(
        self,
        f: &mut impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Tensors<U>, E> {
        Ok(Tensors {
            weight: self.weight.try_map(f)?,
            bias: self.bias.map(f).transpose()?,
        })
    }
}

impl<T> Weight<T> {
    pub(super) fn tensors(&self) -> Vec<&T> {
        match self {
            Weight::Dense(weight) => vec![weight],
            Weight::Quantized {
                weight,
                scales,
                biases,
                ..
            } => [weight, scales].into_iter().chain(biases).collect(),
        }
    }

    pub(super) fn try_map<U, E>(
        self,
        f: &mut impl FnMut(T) -> std::result::Result<U, E>,
    ) -> std::result::Result<Weight<U>, E> {
        Ok(match self {
            Weight::Dense(weight) => Weight::Dense(f(weight)?),
            Weight::Quantized {
                weight,
                scales,
                biases,
                scheme,
            } => Weight::Quantized {
                weight: f(weight)?,
                scales: f(scales)?,
                biases: biases.map(f).transpose()?,
                scheme,
            },
        })
    }
}
