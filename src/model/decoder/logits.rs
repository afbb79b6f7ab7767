//! From what comes out of the last block to logits.

use super::{AdapterSet, Adapters, Decoder, Forward};
#[cfg(test)]
use super::{Cache, Rows};
use crate::error::Result;
use crate::mlx::{nn, ops, Array};
use crate::model::layers::Layer;
use crate::model::modules::Site;

impl Decoder {
    /// hidden `[…, hidden]` as `forward` gave it → logits `[…, vocab]`
    pub fn logits(&self, hidden: &Array, adapters: &AdapterSet) -> Result<Array> {
        self.logits_by(hidden, Adapters::One(adapters))
    }

    /// The same of rows that may have different adapters: `[1, n, hidden]` → `[1, n, vocab]`
    pub(in crate::model) fn logits_by(&self, hidden: &Array, adapters: Adapters) -> Result<Array> {
        let with = self.live.with_each(adapters);
        let h = self.normed(&with, hidden)?;
        self.logits_of_normed(&h, adapters)
    }

    /// h `[…, hidden]` behind the last norm → logits `[…, vocab]`
    pub(in crate::model) fn logits_of_normed(
        &self,
        h: &Array,
        adapters: Adapters,
    ) -> Result<Array> {
        let logits = match self.is_tied() {
            false => (self.live.with_each(adapters)).linear(Site::LM_HEAD, h)?,
            true => {
                let set = adapters.one(Site::EMBED_TOKENS)?;
                self.live.embedding()?.as_linear(h, set)?
            }
        };
        self.scaled(logits)
    }

    /// Logits as they come out of the last layer → as they are drawn from
    pub(in crate::model) fn scaled(&self, mut logits: Array) -> Result<Array> {
        if let Some(scale) = self.config.logits.scale {
            logits = ops::multiply(&logits, &Array::scalar(scale, logits.dtype())?)?;
        }
        match self.config.logits.softcap {
            Some(cap) => nn::softcap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// hidden `[…, hidden]` as `forward` gave it → the same, through the norm behind the blocks
    pub(in crate::model) fn normed(&self, with: &Forward, hidden: &Array) -> Result<Array> {
        match self.config.norm {
            Some(_) => with.norm(Site::NORM, hidden),
            None => Ok(hidden.clone()),
        }
    }

    /// The logits after the last of `tokens` `[n]` → `[vocab]`; the caches take the n tokens.
    #[cfg(test)]
    pub fn next_logits(
        &self,
        tokens: &Array,
        caches: &mut [Cache],
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let hidden = self.forward(tokens, caches, Rows::Last, adapters)?;
        self.logits_of_last(&hidden, adapters)
    }

    /// hidden `[1, 1, hidden]` as `forward` gave it → `[vocab]`
    pub fn logits_of_last(&self, hidden: &Array, adapters: &AdapterSet) -> Result<Array> {
        ops::reshape(&self.logits(hidden, adapters)?, &[self.config.vocab_size])
    }

    /// Whether the embedding is the output layer.
    pub fn is_tied(&self) -> bool {
        matches!(self.live.layer(Site::LM_HEAD), Ok(Layer::Tied))
    }
}
