//! A block: halves, one after the other, each added to what went into it.

use super::config::{BlockConfig, HalfConfig};
use super::cost::{Known, TypesOf};
use super::decoder::{last_row, Forward, Rows};
use super::fused;
use super::modules::Site;
use super::parts::{Part, PartTypes};
use super::plan::Scope;
use super::segments::{Seen, Session};
use super::streams::Streams;
use super::texts::Texts;
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::nn;
use crate::mlx::{ops, Array};

#[derive(Clone)]
pub struct Block {
    pub(super) halves: Vec<Half>,
    /// `[1]`: what comes out is multiplied by it.
    pub(super) scalar: Option<Site>,
    /// Its halves compute one of several versions of each row.
    pub(super) streams: Option<Streams>,
}

/// `out_norm(x + multiplier * post_norm(part(norm(x))))`
#[derive(Clone)]
pub(super) struct Half {
    /// `[hidden]`
    pub norm: Option<Site>,
    pub part: Part,
    /// `[hidden]`
    pub post_norm: Option<Site>,
    pub multiplier: f32,
    /// `[hidden]`
    pub out_norm: Option<Site>,
}

/// What sessions have of the tokens before, by the number of the cache.
pub(super) struct Past<'a> {
    /// Whose rows there are, one after the other.
    pub sessions: Vec<Session<'a>>,
    /// Without caches: keys and values of the blocks before, `[batch, kv_heads, n, head_dim]`.
    pub kept: &'a mut [Kept],
    /// The rows are these texts, which see nothing of each other, and nothing is kept of them.
    pub texts: Option<&'a Texts>,
    /// `[batch, n, width]`: what the block gets of the tokens beside x.
    pub per_layer: Option<Array>,
}

/// Keys and values.
pub(super) type Kept = Option<(Array, Array)>;

/// The types of a block's arrays, as MLX promotes them.
pub(super) struct BlockTypes {
    /// By the number of the cache.
    pub kept: Vec<(usize, Dtype)>,
    pub output: Dtype,
}

impl Block {
    pub fn declare(scope: &mut Scope, config: &BlockConfig, hidden: i32) -> Result<Self> {
        let halves = config.halves.iter();
        let halves = halves.map(|half| Half::declare(scope, half, hidden));
        let halves = halves.collect::<Result<_>>()?;
        let scalar = config.scalar.map(|name| scope.vector(name, 1));
        let streams = config.streams;
        let streams = streams.map(|streams| Streams::declare(scope, streams, hidden));
        Ok(Block {
            halves,
            scalar: scalar.transpose()?,
            streams: streams.transpose()?,
        })
    }

    /// The numbers of the caches that it puts something into.
    pub fn keeps(&self) -> impl Iterator<Item = usize> + '_ {
        let halves = self.halves.iter().map(|half| &half.part);
        let halves = halves.filter(|part| !part.borrows());
        halves.filter_map(Part::cache)
    }

    /// The numbers of other blocks' caches that it looks at.
    pub fn borrows(&self) -> impl Iterator<Item = usize> + '_ {
        let halves = self.halves.iter().map(|half| &half.part);
        let halves = halves.filter(|part| part.borrows());
        halves.filter_map(Part::cache)
    }

    /// x `[1, n, hidden]`, or versions of it `[count, 1, n, hidden]` → the wanted rows of the same
    pub fn forward(&self, with: &Forward, x: &Array, past: &mut Past, rows: Rows) -> Result<Array> {
        let y = match &self.streams {
            Some(streams) => self.side_by_side(streams, with, x, (past, rows))?,
            None => self.sum(with, x, past, rows)?,
        };
        match self.scalar {
            Some(site) => ops::multiply(&y, &ops::astype(with.vector(site)?, y.dtype())?),
            None => Ok(y),
        }
    }

    /// x `[count, 1, n, hidden]` → the wanted rows of the same
    fn side_by_side(
        &self,
        streams: &Streams,
        with: &Forward,
        x: &Array,
        (past, rows): (&mut Past, Rows),
    ) -> Result<Array> {
        let expected = streams.predict(with, x)?;
        let mut h = streams.active(&expected)?;
        for (number, half) in self.halves.iter().enumerate() {
            let y = half.among(with, &h, past, rows)?;
            h = match number {
                0 => streams.beside(with, half.norm, &h, &y)?,
                _ => y,
            };
        }
        streams.correct(with, &expected, &h, past.per_layer.as_ref())
    }

    /// All halves.
    fn sum(&self, with: &Forward, x: &Array, past: &mut Past, rows: Rows) -> Result<Array> {
        // What mixes nothing gives all of them.
        let wanted = |h: Array| match rows {
            Rows::All => Ok(h),
            Rows::Last => last_row(&h),
        };
        if let Some(h) = fused::halves(&self.halves, with, x, past, rows)? {
            return wanted(h);
        }
        let mut h = x.clone();
        for half in &self.halves {
            h = half.among(with, &h, past, rows)?;
        }
        wanted(h)
    }

    /// `x`: the type of what goes in.
    pub fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> BlockTypes {
        let (mut kept, mut output) = (Vec::new(), x);
        for half in &self.halves {
            let types = half.types(of, output);
            kept.extend(half.part.cache().zip(types.kept));
            output = types.output;
        }
        if let Some(streams) = &self.streams {
            output = streams.types(of, output);
        }
        BlockTypes { kept, output }
    }

    /// Numbers of a token that are there while it is computed operation by operation; of halves that are one, if any are,
    /// only what goes in and comes out.
    pub fn row(&self, hidden: u64, kernels: bool) -> u64 {
        // Norms, residuals and what the parts give.
        let halves = self
            .halves
            .iter()
            .map(|half| match kernels && half.part.is_known() {
                true => 4 * hidden,
                false => 4 * hidden + half.part.row(hidden),
            });
        let halves: u64 = halves.sum();
        halves + self.beside(hidden)
    }

    /// The same of what is beside the halves.
    fn beside(&self, hidden: u64) -> u64 {
        self.streams
            .as_ref()
            .map_or(0, |streams| streams.row(hidden))
    }

    /// Numbers of a token, among `width` in its row, that gradients need.
    pub fn training_row(&self, hidden: u64, width: u64) -> u64 {
        let halves = self.halves.iter();
        let of = |half: &Half| 4 * hidden + half.part.training_row(hidden, width);
        halves.map(of).sum::<u64>() + 2 * self.beside(hidden)
    }
}

impl Half {
    fn declare(scope: &mut Scope, config: &HalfConfig, hidden: i32) -> Result<Self> {
        let norm = |norm: &Option<_>, scope: &mut Scope| {
            let norm = norm.as_ref().map(|norm| scope.norm(norm, hidden));
            norm.transpose()
        };
        Ok(Half {
            norm: norm(&config.norm, scope)?,
            part: Part::declare(scope, &config.part, hidden)?,
            post_norm: norm(&config.post_norm, scope)?,
            multiplier: config.multiplier,
            out_norm: norm(&config.out_norm, scope)?,
        })
    }

    /// As one operation where the kernels know all of it.
    fn among(&self, with: &Forward, x: &Array, past: &mut Past, rows: Rows) -> Result<Array> {
        if let Some(made) = fused::halves(std::slice::from_ref(self), with, x, past, rows)? {
            return Ok(made);
        }
        let number = self.part.cache();
        let seen = Seen { past, number };
        self.forward(with, x, seen, rows)
    }

    fn forward(&self, with: &Forward, x: &Array, seen: Seen, rows: Rows) -> Result<Array> {
        let normed = |x: Array, norm: Option<Site>| match norm {
            Some(norm) => with.norm(norm, &x),
            None => Ok(x),
        };
        let r = self
            .part
            .forward(with, &normed(x.clone(), self.norm)?, seen, rows)?;
        let r = normed(r, self.post_norm)?;
        let x = match rows {
            Rows::Last if self.part.mixes() => last_row(x)?,
            _ => x.clone(),
        };
        let sum = match with.clip_residual && x.dtype() == Dtype::F16 {
            true => clipped_sum(&x, &r),
            false => nn::add_times(&x, &r, self.multiplier),
        };
        normed(sum?, self.out_norm)
    }

    fn types<T: Known>(&self, of: &TypesOf<T>, x: Dtype) -> PartTypes {
        let normed = |x: Dtype, norm: Option<Site>| norm.map_or(x, |norm| of.norm(norm, x));
        let part = self.part.types(of, normed(x, self.norm));
        PartTypes {
            kept: part.kept,
            output: normed(x.wider(normed(part.output, self.post_norm)), self.out_norm),
        }
    }
}

/// `x + y` of float16, made in f32 and clipped to what f16 holds.
fn clipped_sum(x: &Array, y: &Array) -> Result<Array> {
    let bound = f32::from(half::f16::MAX);
    let sum = ops::add(&ops::astype(x, Dtype::F32)?, &ops::astype(y, Dtype::F32)?)?;
    let (low, high) = (
        Array::scalar(-bound, Dtype::F32)?,
        Array::scalar(bound, Dtype::F32)?,
    );
    ops::astype(&ops::clip(&sum, &low, &high)?, Dtype::F16)
}
