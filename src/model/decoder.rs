//! The decoder: embedding, blocks, norm, output layer, from any family's description.

mod ahead;
mod live;
mod logits;
mod room;
mod stored;

use std::rc::Rc;

use super::adapter::{Adapter, AdapterSet};
use super::block::{Block, Kept, Past};
use super::cache::{Cache, CacheSpec, TokensSpec};
use super::config::DecoderConfig;
use super::cost::{Costs, StepCost};
use super::layers;
use super::modules::{Modules, Site};
use super::parts::per_layer::PerLayerInputs;
use super::parts::Part;
use super::plan::{Blueprint, Joined, Summed};
use super::rope::RotaryEmbedding;
use super::segments::{Adapters, Session};
use super::streams::Spread;
use super::texts::Dense;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::log;
use crate::mlx::gpu::{self, Step};
use crate::mlx::nn::AttentionMask;
use crate::mlx::{fast, ops, Array};
pub use live::Forward;
pub(super) use live::{other_kind, Live};

pub struct Decoder {
    pub(super) config: Rc<DecoderConfig>,
    /// Shared with what is kept to compute a block again (`training.rs`).
    pub(super) blocks: Vec<Rc<Block>>,
    pub(super) caches: Vec<CacheSpec>,
    pub(super) per_layer: Option<PerLayerInputs>,
    pub(super) spread: Option<Spread>,
    pub(super) summed: Summed,
    /// Behind the pooling of texts.
    pub(super) dense: Vec<Dense>,
    /// The modules' arrays.
    pub(super) live: Rc<Live>,
    /// On a GPU whose kernels know all of it.
    pub(super) step: Option<Step>,
    costs: Costs,
    /// It is the head of a model that predicts further tokens.
    pub(super) joined: Option<Joined>,
    ahead: Option<Box<Decoder>>,
}

/// Which rows of the last block's output are wanted. For the last alone, that block computes the keys and values of
/// all tokens and everything else once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    Last,
}

impl Decoder {
    /// On the engine thread, from weights that were planned for `config`.
    pub fn new(
        config: DecoderConfig,
        blueprint: Blueprint,
        modules: Modules<Array>,
    ) -> Result<Self> {
        let costs = Costs::new(&config, &blueprint, &modules, fast::active());
        let ahead = blueprint.ahead(&config).map(|(own, config)| {
            let costs = Costs::new(&config, own, &modules, fast::active());
            (config, own.clone(), costs)
        });
        let joined = blueprint.ahead.as_ref().map(|ahead| ahead.joined);
        let scale = config.embed.scale;
        let ropes = blueprint.ropes.iter().map(RotaryEmbedding::new);
        let live = Live {
            ropes: ropes.collect::<Result<_>>()?,
            modules: modules.all(),
            layers: layers::make(modules)?,
            embed_scale: scale
                .map(|scale| Array::scalar(scale, Dtype::F32))
                .transpose()?,
            clip_residual: config.clip_residual,
        };
        let live = Rc::new(live);
        let ahead = ahead.map(|(config, own, costs)| {
            let head = Decoder::of(config, own, live.clone(), costs);
            Box::new(Decoder { joined, ..head })
        });
        let mut decoder = Decoder::of(config, blueprint, live, costs);
        if let Err(error) = gpu::prepare() {
            log::warn!("MLX's own operations draw tokens on this GPU: {error}");
        }
        // A head wants what comes out of the last block, which a step does not give.
        if ahead.is_none() {
            decoder.step = decoder.make_step().unwrap_or_else(|error| {
                log::warn!("MLX's own operations decode on this GPU: {error}");
                None
            });
        }
        Ok(Decoder { ahead, ..decoder })
    }

    fn of(config: DecoderConfig, blueprint: Blueprint, live: Rc<Live>, costs: Costs) -> Self {
        Decoder {
            config: Rc::new(config),
            blocks: blueprint.blocks.into_iter().map(Rc::new).collect(),
            caches: blueprint.caches,
            per_layer: blueprint.per_layer,
            spread: blueprint.spread,
            summed: blueprint.summed,
            dense: Vec::new(),
            live,
            step: None,
            costs,
            joined: None,
            ahead: None,
        }
    }

    /// With what the folder has behind the pooling of texts.
    pub fn with_dense(mut self, dense: Vec<Dense>) -> Self {
        self.dense = dense;
        self
    }

    /// Empty caches for one session; `window` and `keep` turn the full ones into rotating ones.
    pub fn make_caches(&self, window: Option<i32>, keep: i32) -> Vec<Cache> {
        let specs = self.caches.iter();
        specs.map(|spec| Cache::new(spec, window, keep)).collect()
    }

    /// What each of its caches keeps, and in which type.
    pub fn kept(&self) -> Vec<(CacheSpec, Dtype)> {
        let specs = self.caches.iter().cloned();
        specs.zip(self.costs.kept()).collect()
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Whether the keys of a sequence with so many tokens are turned otherwise than those of a short one.
    pub fn is_long(&self, tokens: i32) -> bool {
        self.live.ropes.iter().any(|rope| rope.is_long(tokens))
    }

    /// The number of the cache that has the keys which a block's attention looks at: its own or an earlier block's.
    ///
    /// Errors: `InvalidArgument` beyond the last block, `Unsupported` where a block has no keys.
    pub fn keys_of(&self, layer: u32) -> Result<usize> {
        let block = usize::try_from(layer)
            .ok()
            .and_then(|at| self.blocks.get(at));
        let block = block.ok_or_else(|| {
            let layers = self.blocks.len();
            Error::invalid(format!(
                "layer is {layer}, and the model has {layers} layers, the first of which is 0"
            ))
        })?;
        let parts = || block.halves.iter().map(|half| &half.part);
        let keys = parts().find_map(|part| match part {
            Part::Attention(attention) => Some(attention.cache()),
            _ => None,
        });
        keys.ok_or_else(|| {
            let keeps = match parts().find(|part| part.cache().is_some()) {
                Some(Part::Mla(_)) => "keeps a latent of each token",
                Some(_) => "keeps a state of all tokens",
                None => "looks at no other tokens",
            };
            Error::unsupported(format!("layer {layer} has no keys: it {keeps}"))
        })
    }

    /// tokens i32 or u32 `[n]` → the last block's output, `[1, n, hidden]` or for `Rows::Last` `[1, 1, hidden]`; the
    /// caches take the n tokens.
    pub fn forward(
        &self,
        tokens: &Array,
        caches: &mut [Cache],
        rows: Rows,
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let session = self.session(tokens.dim(0), caches)?;
        self.through_blocks(tokens, vec![session], rows, Adapters::One(adapters))
    }

    /// With the masks of its new rows.
    pub(super) fn session<'a>(&self, rows: i32, caches: &'a mut [Cache]) -> Result<Session<'a>> {
        let masks = self.masks(|index, _| match caches.get(index) {
            Some(cache) => cache.mask(rows),
            None => Ok(AttentionMask::None),
        })?;
        Ok(Session {
            rows,
            singly: false,
            unsure: 0,
            masks,
            caches,
        })
    }

    /// As `forward`, of the rows of one session after the other; of several all rows are wanted.
    pub(super) fn through_blocks(
        &self,
        tokens: &Array,
        sessions: Vec<Session>,
        rows: Rows,
        adapters: Adapters,
    ) -> Result<Array> {
        if let Some(step) = &self.step {
            step.settle();
        }
        let with = self.live.with_each(adapters);
        let tokens = ops::reshape(tokens, &[1, tokens.dim(0)])?;
        let mut h = self.embed(&tokens, adapters.one(Site::EMBED_TOKENS)?)?;
        let per_layer = self.per_layer(&with, &tokens, &h)?;
        h = self.spread(&with, h)?;
        let h = self.blocks_of(&with, h, (sessions, per_layer), rows)?;
        self.join(&with, h)
    }

    /// h `[1, n, hidden]`, or versions of it → what comes out of the last block
    fn blocks_of(
        &self,
        with: &Forward,
        mut h: Array,
        (sessions, per_layer): (Vec<Session>, Vec<Array>),
        rows: Rows,
    ) -> Result<Array> {
        let mut per_layer = per_layer.into_iter();
        let last = self.last_of_all_rows();
        // Without caches what blocks keep is put here.
        let mut kept: Vec<Kept> = vec![None; self.caches.len()];
        let mut past = Past {
            sessions,
            kept: &mut kept,
            texts: None,
            per_layer: None,
        };
        for (i, block) in self.blocks.iter().enumerate() {
            let rows = if i >= last { rows } else { Rows::All };
            past.per_layer = per_layer.next();
            h = block.forward(with, &h, &mut past, rows)?;
        }
        Ok(h)
    }

    /// What goes into the first block: h `[batch, n, hidden]`, in several versions where the model has some
    pub(super) fn spread(&self, with: &Forward, h: Array) -> Result<Array> {
        match &self.spread {
            Some(spread) => spread.forward(with, &h),
            None => Ok(h),
        }
    }

    /// What came out of the last block → `[batch, n, hidden]`
    pub(super) fn join(&self, with: &Forward, h: Array) -> Result<Array> {
        match &self.spread {
            Some(spread) => spread.join(with, &h),
            None => Ok(h),
        }
    }

    /// The last block that needs all rows: those behind it keep nothing of them.
    fn last_of_all_rows(&self) -> usize {
        let keeps = |block: &Rc<Block>| block.keeps().next().is_some();
        let last = self.blocks.iter().rposition(keeps);
        last.unwrap_or(self.blocks.len().saturating_sub(1))
    }

    /// tokens `[batch, n]` and what `embed` made of them → what each block gets beside; empty: nothing
    pub(super) fn per_layer(
        &self,
        with: &Forward,
        tokens: &Array,
        h: &Array,
    ) -> Result<Vec<Array>> {
        match &self.per_layer {
            Some(inputs) => inputs.forward(with, tokens, h),
            None => Ok(Vec::new()),
        }
    }

    /// By cache. Those with the same window see the same part of the past, so they share a mask.
    pub(super) fn masks(
        &self,
        make: impl Fn(usize, &TokensSpec) -> Result<AttentionMask>,
    ) -> Result<Vec<Rc<AttentionMask>>> {
        let mut known: Vec<(Option<i32>, Rc<AttentionMask>)> = Vec::with_capacity(2);
        let mut masks = Vec::with_capacity(self.caches.len());
        let none = Rc::new(AttentionMask::None);
        for (index, spec) in self.caches.iter().enumerate() {
            let CacheSpec::Tokens(spec) = spec else {
                masks.push(none.clone());
                continue;
            };
            let mask = match known.iter().find(|(window, _)| *window == spec.window) {
                Some((_, mask)) => mask.clone(),
                None => {
                    let mask = Rc::new(make(index, spec)?);
                    known.push((spec.window, mask.clone()));
                    mask
                }
            };
            masks.push(mask);
        }
        Ok(masks)
    }

    /// tokens `[batch, n]` → what goes into the first block, `[batch, n, hidden]`
    pub(super) fn embed(&self, tokens: &Array, adapters: &AdapterSet) -> Result<Array> {
        let mut h = self.live.embedding()?.forward(tokens, adapters)?;
        if let Some(scale) = &self.live.embed_scale {
            h = ops::multiply(&h, &ops::astype(scale, h.dtype())?)?;
        }
        match self.config.embed.norm {
            Some(eps) => ops::rms_norm(&h, None, eps),
            None => Ok(h),
        }
    }

    /// As `forward` of each of the tokens alone, one after the other, of all rows.
    pub fn forward_singly(
        &self,
        tokens: &Array,
        caches: &mut [Cache],
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let mut session = self.session(tokens.dim(0), caches)?;
        session.singly = !self.borrows();
        self.through_blocks(tokens, vec![session], Rows::All, Adapters::One(adapters))
    }
}

/// The last token of x `[1, n, hidden]` → `[1, 1, hidden]`
pub fn last_row(x: &Array) -> Result<Array> {
    last_rows(x, 1)
}

/// The last n tokens of x `[…, tokens, hidden]`
pub(super) fn last_rows(x: &Array, n: i32) -> Result<Array> {
    let tokens = x.dim(-2);
    if tokens == n {
        return Ok(x.clone());
    }
    let (mut start, stop) = (vec![0; x.shape().len()], x.shape().to_vec());
    if let [.., first, _] = start.as_mut_slice() {
        *first = tokens - n;
    }
    ops::slice(x, &start, &stop)
}
