//! Rows in several versions side by side (AltUp): a block predicts all of them from what came in, computes one, and corrects
//! the others by what became of it.

use super::config::{NormConfig, StreamsConfig};
use super::cost::{size, Known, TypesOf};
use super::decoder::{last_rows, Forward};
use super::modules::Site;
use super::parts::PerLayer;
use super::plan::Scope;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};

/// What a block has beside its halves.
#[derive(Clone)]
pub struct Streams {
    config: StreamsConfig,
    /// `[hidden]`
    router_norm: Site,
    /// `[count, hidden]`
    router: Site,
    /// `[count * count, count]`
    prediction: Site,
    /// `[count, count]`
    correction: Site,
    /// `[hidden]`
    scale: Site,
    /// `[rank, hidden]`, `[hidden, rank]`
    laurel: [Site; 2],
    /// `[hidden]`
    laurel_norm: Site,
    per_layer: PerLayer,
    /// `[hidden]`
    per_layer_norm: Site,
}

/// The versions of what goes into the first block, and one out of those that come out of the last.
#[derive(Clone)]
pub struct Spread {
    /// `[hidden, hidden]` for each version but the first.
    projections: Vec<Site>,
    /// The same.
    back: Vec<Site>,
}

impl StreamsConfig {
    /// Weights that a token is multiplied with.
    pub fn parameters(&self, hidden: u64) -> u64 {
        2 * hidden * (size(self.laurel_rank) + size(self.per_layer) + size(self.count))
    }
}

fn norm(name: &'static str, config: &StreamsConfig) -> NormConfig {
    NormConfig {
        name,
        eps: config.eps,
        plus_one: false,
        layer: false,
        bias: false,
    }
}

impl Streams {
    pub fn declare(scope: &mut Scope, config: StreamsConfig, hidden: i32) -> Result<Self> {
        let (count, rank) = (config.count, config.laurel_rank);
        let mut altup = scope.within("altup");
        let (router_norm, router) = (
            altup.norm(&norm("router_norm", &config), hidden)?,
            altup.linear("modality_router", [count, hidden], false)?,
        );
        // Their numbers are clipped before they multiply, so they are no layers that an adapter adds to.
        let (prediction, correction) = (
            altup.numbers("prediction_coefs.weight", &[count * count, count])?,
            altup.numbers("correction_coefs.weight", &[count, count])?,
        );
        let scale = altup.vector("correct_output_scale", hidden)?;
        let mut laurel = scope.within("laurel");
        let products = [
            laurel.linear("linear_left", [rank, hidden], false)?,
            laurel.linear("linear_right", [hidden, rank], false)?,
        ];
        Ok(Streams {
            router_norm,
            router,
            prediction,
            correction,
            scale,
            laurel: products,
            laurel_norm: laurel.norm(&norm("post_laurel_norm", &config), hidden)?,
            per_layer: PerLayer::declare(scope, config.per_layer, hidden)?,
            per_layer_norm: scope.norm(&norm("post_per_layer_input_norm", &config), hidden)?,
            config,
        })
    }

    /// x `[count, batch, n, hidden]` → what all versions are expected to be, of the same shape
    pub fn predict(&self, with: &Forward, x: &Array) -> Result<Array> {
        let count = self.config.count;
        let mix = self.mix(with, &self.active(x)?)?;
        let [batch, n] = [x.dim(1), x.dim(2)];
        // [batch, n, count * count] → [batch, n, from, to]
        let all = self.product(with, &mix, self.prediction)?;
        let all = ops::reshape(&all, &[batch, n, count, count])?;
        let all = ops::transpose(&all, &[0, 1, 3, 2])?;
        let wide = ops::astype(x, Dtype::F32)?;
        // [batch, n, hidden, count]
        let apart = ops::transpose(&wide, &[1, 2, 3, 0])?;
        let mixed = ops::transpose(&ops::matmul(&apart, &all)?, &[3, 0, 1, 2])?;
        ops::astype(&ops::add(&mixed, &wide)?, x.dtype())
    }

    /// x `[count, batch, n, hidden]` → the version that is computed, `[batch, n, hidden]`
    pub fn active(&self, x: &Array) -> Result<Array> {
        one(x, self.config.active)
    }

    /// What the first half made of x, `[batch, n, hidden]`, and a small product of x (laurel) → the same shape. `h` may have
    /// the last rows only.
    pub fn beside(
        &self,
        with: &Forward,
        norm: Option<Site>,
        x: &Array,
        h: &Array,
    ) -> Result<Array> {
        let x = last_rows(x, h.dim(1))?;
        let normed = match norm {
            Some(norm) => with.norm(norm, &x)?,
            None => x,
        };
        let [left, right] = self.laurel;
        let product = with.linear(right, &with.linear(left, &normed)?)?;
        let laurel = ops::add(&normed, &with.norm(self.laurel_norm, &product)?)?;
        times(&ops::add(h, &laurel)?, 0.5f64.sqrt())
    }

    /// What was expected, `[count, batch, n or more, hidden]`, corrected by what was computed, h `[batch, n, hidden]` → `[count,
    /// batch, n, hidden]`; with the block's own embeddings in all but the first.
    pub fn correct(
        &self,
        with: &Forward,
        expected: &Array,
        h: &Array,
        own: Option<&Array>,
    ) -> Result<Array> {
        let [batch, n, hidden] = [h.dim(0), h.dim(1), h.dim(2)];
        let count = self.config.count;
        let expected = last_rows(expected, n)?;
        let mix = self.mix(with, h)?;
        let by = self.product(with, &mix, self.correction)?;
        let by = ops::add(&by, &Array::scalar(1.0, Dtype::F32)?)?;
        // [batch, n, count] → [count, batch, n, 1]
        let by = ops::reshape(&by, &[batch, n, count, 1])?;
        let by = ops::transpose(&by, &[2, 0, 1, 3])?;
        let news = ops::subtract(h, &self.active(&expected)?)?;
        let news = ops::reshape(&news, &[1, batch, n, hidden])?;
        let corrected = ops::add(&ops::multiply(&news, &by)?, &expected)?;
        let corrected = ops::astype(&corrected, h.dtype())?;
        let mut opens = self.active(&corrected)?;
        if self.config.scaled {
            opens = ops::multiply(&opens, with.vector(self.scale)?)?;
        }
        let own = self.per_layer.forward(with, &opens, own)?;
        let own = with.norm(self.per_layer_norm, &own)?;
        let first = ops::slice(&corrected, &[0; 4], &[1, batch, n, hidden])?;
        let others = ops::slice(&corrected, &[1, 0, 0, 0], &[count, batch, n, hidden])?;
        let others = ops::add(&others, &own)?;
        let first = ops::astype(&first, others.dtype())?;
        ops::concatenate(&[&first, &others], 0)
    }

    /// x `[batch, n, hidden]` → what versions are mixed by, f32 `[batch, n, count]`
    fn mix(&self, with: &Forward, x: &Array) -> Result<Array> {
        let normed = with.norm(self.router_norm, x)?;
        let normed = times(&normed, 1.0 / f64::from(x.dim(2).max(1)))?;
        let routed = with.linear(self.router, &normed)?;
        ops::tanh(&ops::astype(&routed, Dtype::F32)?)
    }

    /// x f32 `[batch, n, count]` by clipped numbers `[out, count]` → `[batch, n, out]`
    fn product(&self, with: &Forward, x: &Array, numbers: Site) -> Result<Array> {
        let mut weight = ops::astype(with.vector(numbers)?, Dtype::F32)?;
        if let Some(clip) = self.config.clip {
            let bound = |bound: f32| Array::scalar(bound, Dtype::F32);
            weight = ops::clip(&weight, &bound(-clip)?, &bound(clip)?)?;
        }
        ops::matmul(x, &ops::transpose(&weight, &[1, 0])?)
    }

    /// Numbers of a token that are there while all versions are computed.
    pub fn row(&self, hidden: u64) -> u64 {
        let versions = 8 * size(self.config.count) * hidden;
        versions + 8 * hidden + size(self.config.laurel_rank) + 3 * self.per_layer.width()
    }

    /// `h`: the type of what the halves give.
    pub fn types<T: Known>(&self, of: &TypesOf<T>, h: Dtype) -> Dtype {
        let opens = match self.config.scaled {
            true => of.linear(self.scale, h),
            false => h,
        };
        let own = self.per_layer.types(of, opens).output;
        h.wider(of.norm(self.per_layer_norm, own))
    }
}

impl Spread {
    pub fn declare(scope: &mut Scope, config: StreamsConfig, hidden: i32) -> Result<Self> {
        let mut all = |name: &str| {
            let one =
                |number: i32| scope.linear(&format!("{name}.{number}"), [hidden, hidden], false);
            (0..config.count - 1).map(one).collect::<Result<_>>()
        };
        Ok(Spread {
            projections: all("altup_projections")?,
            back: all("altup_unembed_projections")?,
        })
    }

    /// Versions of a row.
    pub fn count(&self) -> u64 {
        1 + self.projections.len() as u64
    }

    /// h `[batch, n, hidden]` → `[count, batch, n, hidden]`, all versions of one magnitude
    pub fn forward(&self, with: &Forward, h: &Array) -> Result<Array> {
        let [batch, n, hidden] = [h.dim(0), h.dim(1), h.dim(2)];
        let target = magnitude(h)?;
        let mut all = vec![h.clone()];
        for &site in &self.projections {
            all.push(as_large(&with.linear(site, h)?, &target)?);
        }
        let all = all.iter().map(|x| ops::reshape(x, &[1, batch, n, hidden]));
        let all = all.collect::<Result<Vec<_>>>()?;
        ops::concatenate(&all.iter().collect::<Vec<_>>(), 0)
    }

    /// h `[count, batch, n, hidden]` → their mean, `[batch, n, hidden]`
    pub fn join(&self, with: &Forward, h: &Array) -> Result<Array> {
        let first = one(h, 0)?;
        let target = magnitude(&first)?;
        let mut sum = first;
        for (&site, number) in self.back.iter().zip(1..) {
            let version = with.linear(site, &one(h, number)?)?;
            sum = ops::add(&sum, &as_large(&version, &target)?)?;
        }
        times(&sum, 1.0 / self.count() as f64)
    }
}

/// x `[count, batch, n, hidden]` → one of them, `[batch, n, hidden]`
fn one(x: &Array, number: i32) -> Result<Array> {
    let [batch, n, hidden] = [x.dim(1), x.dim(2), x.dim(3)];
    let own = ops::slice(x, &[number, 0, 0, 0], &[number + 1, batch, n, hidden])?;
    ops::reshape(&own, &[batch, n, hidden])
}

/// The root of the mean square of each row: `[…, hidden]` → `[…, 1]`
fn magnitude(x: &Array) -> Result<Array> {
    let mean = ops::mean(&ops::multiply(x, x)?, -1, true)?;
    // As transformers bounds it, so that a row of zeros is not divided by zero; mlx-lm has no bound.
    ops::sqrt(&ops::maximum(&mean, &Array::scalar(1e-5, x.dtype())?)?)
}

/// x `[…, hidden]` with the magnitude of another, `[…, 1]`
fn as_large(x: &Array, target: &Array) -> Result<Array> {
    ops::multiply(x, &ops::divide(target, &magnitude(x)?)?)
}

fn times(x: &Array, factor: f64) -> Result<Array> {
    ops::multiply(x, &Array::scalar(factor as f32, x.dtype())?)
}
