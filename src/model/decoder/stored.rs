//! The base's weights, for adapters, training and saving.

use std::ops::Range;

use super::{Adapter, AdapterSet, Decoder};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::{ops, Array};
use crate::model::layers::computed_norm;
use crate::model::modules::{Kind, Site, Tensors};

impl Decoder {
    /// The norm of each row of a module's base weight, f32: `[out]`, of the embedding `[vocab]`.
    pub fn row_norms(&self, site: Site) -> Result<Array> {
        let weight = ops::astype(&self.weight(site)?, Dtype::F32)?;
        ops::sqrt(&ops::sum(&ops::multiply(&weight, &weight)?, -1, false)?)
    }

    /// The tensors that a module was made of, of matrices these rows. The output layer of a tied model is the embedding.
    pub(in crate::model) fn stored(&self, site: Site, rows: &Range<i32>) -> Result<Tensors<Array>> {
        let own = self.live.layer(site)?.stored(rows)?;
        let tied = || self.live.layer(Site::EMBED_TOKENS)?.stored(rows);
        let stored = match own {
            Some(stored) => Some(stored),
            None => tied()?,
        };
        stored.ok_or_else(|| Error::internal("a module without tensors"))
    }

    /// The base weight of a linear layer or the embedding, unpacked.
    pub(in crate::model) fn weight(&self, site: Site) -> Result<Array> {
        self.live.weight(site)
    }

    /// Adds an adapter to a set, at `strength` times its own scale.
    pub fn add_adapter(
        &self,
        set: &mut AdapterSet,
        adapter: &mut Adapter,
        strength: f32,
    ) -> Result<()> {
        let norm = |site: Site, stored: &Array| {
            let kind = self.live.modules.get(site.index).map(|module| module.kind);
            let plus_one = matches!(kind, Some(Kind::Norm { plus_one: true, .. }));
            computed_norm(stored, plus_one)
        };
        set.add(adapter, strength, &|site| self.weight(site), &norm)
    }
}
