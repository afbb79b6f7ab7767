//! The models and adapters whose arrays are there.

use std::collections::HashMap;

use super::running::in_use;
use super::Worker;
use crate::error::{Error, Result};
use crate::mlx::memory;
use crate::model::adapter::Adapter;
use crate::model::{AdapterSet, Decoder};
use crate::runtime::caches::AppliedAdapter;

#[derive(Default)]
pub(super) struct Loaded {
    pub models: HashMap<u64, Decoder>,
    pub adapters: HashMap<u64, LoadedAdapter>,
}

pub(super) struct LoadedAdapter {
    pub adapter: Adapter,
    /// How often its arrays have changed.
    pub version: u64,
}

impl Loaded {
    pub fn model(&self, id: u64) -> Result<&Decoder> {
        self.models.get(&id).ok_or_else(model_is_gone)
    }

    pub fn adapter(&self, id: u64) -> Result<&LoadedAdapter> {
        self.adapters.get(&id).ok_or_else(adapter_is_gone)
    }

    /// An adapter in the state that it is in.
    pub fn applied(&self, id: u64, strength: f32) -> Result<AppliedAdapter> {
        Ok(AppliedAdapter {
            id,
            version: self.adapter(id)?.version,
            strength: strength.to_bits(),
        })
    }

    pub fn adapter_mut(&mut self, id: u64) -> Result<&mut LoadedAdapter> {
        self.adapters.get_mut(&id).ok_or_else(adapter_is_gone)
    }

    /// An adapter to get ready for use, and the model that it is for.
    pub fn adapter_of(&mut self, model: u64, id: u64) -> Result<(&Decoder, &mut LoadedAdapter)> {
        Ok((
            self.models.get(&model).ok_or_else(model_is_gone)?,
            self.adapters.get_mut(&id).ok_or_else(adapter_is_gone)?,
        ))
    }
}

fn model_is_gone() -> Error {
    Error::internal("the model is gone")
}

fn adapter_is_gone() -> Error {
    Error::internal("an adapter is gone")
}

impl Worker {
    pub(in crate::runtime) fn add_model(&mut self, id: u64, decoder: Decoder) {
        self.loaded.models.insert(id, decoder);
        // What was packed for the kernels has left its originals there.
        memory::give_back();
    }

    pub(in crate::runtime) fn drop_model(&mut self, id: u64) {
        self.loaded.models.remove(&id);
        self.times.remove(&id);
        self.caches.drop_model(id);
        memory::give_back();
    }

    pub(in crate::runtime) fn decoder(&self, model: u64) -> Result<&Decoder> {
        self.loaded.model(model)
    }

    pub(in crate::runtime) fn add_adapter(&mut self, id: u64, adapter: Adapter) {
        let version = 0;
        let loaded = LoadedAdapter { adapter, version };
        self.loaded.adapters.insert(id, loaded);
    }

    pub(in crate::runtime) fn drop_adapter(&mut self, id: u64) {
        self.loaded.adapters.remove(&id);
        self.drop_keys_of(id);
    }

    pub(in crate::runtime) fn adapter(&self, id: u64) -> Result<&Adapter> {
        Ok(&self.loaded.adapter(id)?.adapter)
    }

    /// How often an adapter's arrays have changed.
    pub(in crate::runtime) fn adapter_version(&self, id: u64) -> Result<u64> {
        Ok(self.loaded.adapter(id)?.version)
    }

    /// Changes an adapter's weights. Requests that run go on with the old ones.
    pub(in crate::runtime) fn change_adapter(
        &mut self,
        id: u64,
        change: impl FnOnce(&mut Adapter) -> Result<()>,
    ) -> Result<()> {
        let loaded = self.loaded.adapter_mut(id)?;
        change(&mut loaded.adapter)?;
        loaded.adapter.forget_made();
        loaded.version += 1;
        self.drop_keys_of(id);
        Ok(())
    }

    fn drop_keys_of(&mut self, adapter: u64) {
        self.caches.drop_adapter(adapter, &in_use(&self.running));
    }

    /// These adapters, each at its strength, to be fused into a model's weights.
    pub(in crate::runtime) fn set_to_fuse(
        &mut self,
        model: u64,
        adapters: &[(u64, f32)],
    ) -> Result<AdapterSet> {
        let mut set = AdapterSet::default();
        for (id, strength) in adapters {
            let (decoder, loaded) = self.loaded.adapter_of(model, *id)?;
            decoder.add_to_fuse(&mut set, &mut loaded.adapter, *strength)?;
        }
        Ok(set)
    }

    /// All rows' logits of a prompt with adapters and their strengths, f32.
    #[cfg(test)]
    pub(in crate::runtime) fn logits_for_tests(
        &mut self,
        model: u64,
        adapters: &[(u64, f32)],
        prompt: &[i32],
    ) -> Result<Vec<f32>> {
        use crate::mlx::{ops, Array};
        use crate::model::Rows;

        let mut set = AdapterSet::default();
        for (id, strength) in adapters {
            let (decoder, loaded) = self.loaded.adapter_of(model, *id)?;
            decoder.add_adapter(&mut set, &mut loaded.adapter, *strength)?;
        }
        let decoder = self.loaded.model(model)?;
        let mut caches = decoder.make_caches(None, 0);
        let prompt = Array::from_i32(prompt)?;
        let hidden = decoder.forward(&prompt, &mut caches, Rows::All, &set)?;
        let logits = decoder.logits(&hidden, &set)?;
        ops::astype(&logits, crate::dtype::Dtype::F32)?.to_f32()
    }
}
