//! The model's arrays, as parts compute with them.

use super::Adapters;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::{ops, Array};
use crate::model::adapter::AdapterSet;
use crate::model::layers::{Embedding, Layer};
use crate::model::modules::{Module, Site};
use crate::model::rope::RotaryEmbedding;

/// What parts compute with.
pub(in crate::model) struct Live {
    /// By site.
    pub(super) layers: Vec<Layer>,
    pub(super) modules: Vec<Module>,
    pub(in crate::model) ropes: Vec<RotaryEmbedding>,
    /// The scalar that embeddings are multiplied by.
    pub(super) embed_scale: Option<Array>,
    pub(super) clip_residual: bool,
}

/// The model's arrays and a request's adapters, as parts look at them.
pub struct Forward<'a> {
    pub(in crate::model) live: &'a Live,
    pub adapters: Adapters<'a>,
    pub clip_residual: bool,
}

impl Live {
    pub fn with<'a>(&'a self, adapters: &'a AdapterSet) -> Forward<'a> {
        self.with_each(Adapters::One(adapters))
    }

    pub fn with_each<'a>(&'a self, adapters: Adapters<'a>) -> Forward<'a> {
        Forward {
            live: self,
            adapters,
            clip_residual: self.clip_residual,
        }
    }

    pub(in crate::model) fn layer(&self, site: Site) -> Result<&Layer> {
        let layer = self.layers.get(site.index);
        layer.ok_or_else(|| Error::internal("a module that is not there"))
    }

    pub(in crate::model) fn is_linear(&self, index: usize) -> bool {
        matches!(self.layers.get(index), Some(Layer::Linear(_)))
    }

    /// What embeddings of this type are multiplied by.
    pub(in crate::model) fn scale_of_embeddings(&self, dtype: Dtype) -> Result<f32> {
        let Some(scale) = &self.embed_scale else {
            return Ok(1.0);
        };
        let scale = ops::astype(&ops::astype(scale, dtype)?, Dtype::F32)?;
        Ok(scale.to_f32()?.first().copied().unwrap_or(1.0))
    }

    pub(in crate::model) fn embedding(&self) -> Result<&Embedding> {
        match self.layer(Site::EMBED_TOKENS)? {
            Layer::Embedding(embedding) => Ok(embedding),
            _ => Err(other_kind()),
        }
    }

    /// As `Decoder::weight`.
    pub fn weight(&self, site: Site) -> Result<Array> {
        let layer = match self.layer(site)? {
            Layer::Tied => self.layer(Site::EMBED_TOKENS)?,
            layer => layer,
        };
        layer.weight().unwrap_or_else(|| Err(other_kind()))
    }
}

pub(in crate::model) fn other_kind() -> Error {
    Error::internal("a module of another kind")
}
