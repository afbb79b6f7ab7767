//! Modules as parts compute with them: by their places on the list, with what a request's adapters add.

use super::decoder::{other_kind, Forward};
use super::layers::{Experts, Layer, Linear, Norm};
use super::modules::Site;
use super::rope::RotaryEmbedding;
use crate::error::{Error, Result};
use crate::mlx::Array;

impl<'a> Forward<'a> {
    pub fn linear_layer(&self, site: Site) -> Result<&'a Linear> {
        match self.live.layer(site)? {
            Layer::Linear(linear) => Ok(linear),
            _ => Err(other_kind()),
        }
    }

    pub fn norm_layer(&self, site: Site) -> Result<&'a Norm> {
        match self.live.layer(site)? {
            Layer::Norm(norm) => Ok(norm),
            _ => Err(other_kind()),
        }
    }

    pub fn experts_layer(&self, site: Site) -> Result<&'a Experts> {
        match self.live.layer(site)? {
            Layer::Experts(experts) => Ok(experts),
            _ => Err(other_kind()),
        }
    }

    pub fn number(&self, site: Site) -> Result<f32> {
        match self.live.layer(site)? {
            Layer::Number(number, _) => Ok(*number),
            _ => Err(other_kind()),
        }
    }

    /// x `[…, in]` → `[…, out]`
    pub fn linear(&self, site: Site, x: &Array) -> Result<Array> {
        let layer = self.linear_layer(site)?;
        match self.adapters.of(site) {
            Some(set) => layer.forward(x, set),
            None => layer.forward_each(x, self.adapters),
        }
    }

    /// x `[…, in]` → `[…, out]` f32
    pub fn logits(&self, site: Site, x: &Array) -> Result<Array> {
        let layer = self.linear_layer(site)?;
        match self.adapters.of(site) {
            Some(set) => layer.logits(x, set),
            None => self.adapters.each([x], |[x], set| layer.logits(&x, set)),
        }
    }

    /// x `[n, in]`, the experts of each row u32 `[n, k]` → `[n, k, out]`. `sorted`: the experts come in order.
    pub fn experts(&self, site: Site, x: &Array, chosen: &Array, sorted: bool) -> Result<Array> {
        self.experts_layer(site)?
            .forward(x, chosen, sorted, self.adapters.one(site)?)
    }

    /// x `[…, size]` → the same shape
    pub fn norm(&self, site: Site, x: &Array) -> Result<Array> {
        self.norm_layer(site)?.forward(x, self.adapters.one(site)?)
    }

    /// The weight of a norm, with what adapters have in its place.
    pub fn norm_weight(&self, site: Site) -> Result<&'a Array> {
        Ok(self.norm_layer(site)?.adapted(self.adapters.one(site)?))
    }

    /// tokens `[batch, n]` → `[batch, n, width]`
    pub fn rows(&self, site: Site, tokens: &Array) -> Result<Array> {
        match self.live.layer(site)? {
            Layer::Embedding(table) => table.rows(tokens),
            _ => Err(other_kind()),
        }
    }

    pub fn vector(&self, site: Site) -> Result<&'a Array> {
        match self.live.layer(site)? {
            Layer::Vector(vector) => Ok(vector),
            _ => Err(other_kind()),
        }
    }

    pub fn rope(&self, number: usize) -> Result<&'a RotaryEmbedding> {
        let rope = self.live.ropes.get(number);
        rope.ok_or_else(|| Error::internal("a rope that is not there"))
    }
}
