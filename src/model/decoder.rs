//! The decoder: embedding, blocks, norm, output layer, from any family's description.

use std::ops::Range;
use std::rc::Rc;

use super::adapter::{Adapter, AdapterSet};
use super::block::{Block, Kept, Past};
use super::cache::{Cache, CacheSpec, Tokens, TokensSpec};
use super::config::DecoderConfig;
use super::cost::{Costs, StepCost};
use super::layers::{self, computed_norm, Embedding, Layer};
use super::modules::{Kind, Module, Modules, Site, Tensors};
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
use crate::mlx::gpu::Step;
use crate::mlx::nn::{self, AttentionMask};
use crate::mlx::{self, fast, ops, Array};

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

/// What parts compute with.
pub(super) struct Live {
    /// By site.
    layers: Vec<Layer>,
    modules: Vec<Module>,
    pub(super) ropes: Vec<RotaryEmbedding>,
    /// The scalar that embeddings are multiplied by.
    embed_scale: Option<Array>,
    clip_residual: bool,
}

/// The model's arrays and a request's adapters, as parts look at them.
pub struct Forward<'a> {
    pub(super) live: &'a Live,
    pub adapters: Adapters<'a>,
    pub clip_residual: bool,
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

    /// The head that predicts further tokens, as a decoder of its own with this one's arrays.
    pub fn take_ahead(&mut self) -> Option<Decoder> {
        self.ahead.take().map(|ahead| *ahead)
    }

    /// Whether it is such a head: what goes in is what came out of its model, and the next tokens.
    pub fn is_ahead(&self) -> bool {
        self.joined.is_some()
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

    /// What `n` more tokens in these caches take; `singly`: as rows of a pass.
    pub fn cost(&self, n: i32, singly: bool, caches: &[Cache]) -> StepCost {
        let singly = singly && !self.borrows();
        let rooms = caches.iter().zip(self.costs.caches());
        let rooms: Vec<_> = rooms
            .map(|(cache, bytes)| cache.room_for(n, singly, bytes))
            .collect();
        let longest = caches.iter().map(|cache| cache.length_after(n)).max();
        self.costs.step(n, longest.unwrap_or(0), &rooms)
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

    /// As `forward` of the last row, and of all rows, for a head that predicts further tokens. What is computed of all rows is not to the
    /// bit what is computed of the last alone; so the last block computes both, and its caches take the tokens twice. None of all rows
    /// where they cannot: it then gives the last one only.
    pub fn forward_twice(
        &self,
        tokens: &Array,
        caches: &mut [Cache],
        adapters: &AdapterSet,
    ) -> Result<(Array, Option<Array>)> {
        let n = tokens.dim(0);
        let goes_back = |cache: &Cache| {
            let full = |tokens: &Tokens| tokens.extent().window().is_none();
            cache.as_tokens().is_some_and(full)
        };
        let own: Vec<usize> = self
            .blocks
            .last()
            .map_or(Vec::new(), |b| b.keeps().collect());
        let twice = (own.iter()).all(|&at| caches.get(at).is_some_and(goes_back));
        let plain = self.spread.is_none() && self.per_layer.is_none();
        let last = self.blocks.last().filter(|_| twice && plain && n > 1);
        let Some((last, behind)) = last.zip(self.blocks.len().checked_sub(1)) else {
            let hidden = self.forward(tokens, caches, Rows::Last, adapters)?;
            return Ok((hidden, None));
        };
        let with = self.live.with(adapters);
        let tokens = ops::reshape(tokens, &[1, n])?;
        let mut h = self.embed(&tokens, adapters)?;
        let session = self.session(n, caches)?;
        let mut kept: Vec<Kept> = vec![None; self.caches.len()];
        let mut past = Past {
            sessions: vec![session],
            kept: &mut kept,
            texts: None,
            per_layer: None,
        };
        for block in self.blocks.iter().take(behind) {
            h = block.forward(&with, &h, &mut past, Rows::All)?;
        }
        let alone = last.forward(&with, &h, &mut past, Rows::Last)?;
        let missing = || Error::internal("a session without its caches");
        let caches = &mut past.sessions.first_mut().ok_or_else(missing)?.caches;
        // Else what is written next would be another array.
        let own_caches = own.iter().filter_map(|&at| caches.get(at));
        let mut wanted: Vec<&Array> = own_caches.flat_map(Cache::arrays).collect();
        wanted.push(&alone);
        mlx::eval(&wanted)?;
        for &at in &own {
            let cache = caches.get_mut(at).ok_or_else(missing)?;
            cache.cut(cache.offset() - n)?;
        }
        let all = last.forward(&with, &h, &mut past, Rows::All)?;
        let caches = &past.sessions.first().ok_or_else(missing)?.caches;
        let own_caches = own.iter().filter_map(|&at| caches.get(at));
        let mut wanted: Vec<&Array> = own_caches.flat_map(Cache::arrays).collect();
        wanted.push(&all);
        mlx::eval(&wanted)?;
        Ok((alone, Some(all)))
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

    /// Whether a block looks at another one's keys and values: it sees those that are there when all rows are.
    pub(super) fn borrows(&self) -> bool {
        self.blocks
            .iter()
            .any(|block| block.borrows().next().is_some())
    }

    /// Bytes of what is held until it is known which of `n` tokens stay.
    pub fn held_by(&self, n: i32, caches: &[Cache]) -> u64 {
        let caches = caches.iter().zip(self.costs.caches());
        let held = caches.map(|(cache, bytes)| cache.held_by(n, bytes));
        held.fold(0, u64::saturating_add)
    }

    /// Of `n` tokens that are to go into these caches together, so many may go, so that any can be taken back.
    pub fn most_taken_back(&self, n: i32, caches: &[Cache]) -> i32 {
        if self.borrows() && caches.iter().any(|cache| cache.is_turned_by(n)) {
            return 0;
        }
        let most = caches.iter().map(|cache| cache.most_taken_back(n));
        most.min().unwrap_or(n)
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

    /// Of a head: tokens i32 `[n]`, and what came out of the model, or with `own` of the head, for the tokens before each of them,
    /// `[1, n, hidden]` → what comes out of the head's block
    pub(super) fn through_head(
        &self,
        tokens: &Array,
        (hidden, own): (&Array, bool),
        sessions: Vec<Session>,
        rows: Rows,
    ) -> Result<Array> {
        let joined = self.joined.ok_or_else(|| Error::internal("no head"))?;
        let none = AdapterSet::default();
        let with = self.live.with(&none);
        let tokens = ops::reshape(tokens, &[1, tokens.dim(0)])?;
        let embedding = with.norm(joined.embedding_norm, &self.embed(&tokens, &none)?)?;
        let hidden = match joined.normed && !own {
            true => self.normed(&with, hidden)?,
            false => hidden.clone(),
        };
        let hidden = with.norm(joined.hidden_norm, &hidden)?;
        let embedding = ops::astype(&embedding, hidden.dtype())?;
        // [1, n, 2 * hidden]
        let both = ops::concatenate(&[&embedding, &hidden], -1)?;
        let h = with.linear(joined.project, &both)?;
        self.blocks_of(&with, h, (sessions, Vec::new()), rows)
    }

    /// Of a head, as `forward`: the caches take the tokens, each with what came out of the model for the one before it.
    pub fn forward_ahead(
        &self,
        tokens: &Array,
        hidden: &Array,
        caches: &mut [Cache],
    ) -> Result<Array> {
        let session = self.session(tokens.dim(0), caches)?;
        self.through_head(tokens, (hidden, false), vec![session], Rows::Last)
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

    /// hidden `[…, hidden]` as `forward` gave it → logits `[…, vocab]`
    pub fn logits(&self, hidden: &Array, adapters: &AdapterSet) -> Result<Array> {
        self.logits_by(hidden, Adapters::One(adapters))
    }

    /// The same of rows that may have different adapters: `[1, n, hidden]` → `[1, n, vocab]`
    pub(super) fn logits_by(&self, hidden: &Array, adapters: Adapters) -> Result<Array> {
        let with = self.live.with_each(adapters);
        let h = self.normed(&with, hidden)?;
        self.logits_of_normed(&h, adapters)
    }

    /// h `[…, hidden]` behind the last norm → logits `[…, vocab]`
    pub(super) fn logits_of_normed(&self, h: &Array, adapters: Adapters) -> Result<Array> {
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
    pub(super) fn scaled(&self, mut logits: Array) -> Result<Array> {
        if let Some(scale) = self.config.logits.scale {
            logits = ops::multiply(&logits, &Array::scalar(scale, logits.dtype())?)?;
        }
        match self.config.logits.softcap {
            Some(cap) => nn::softcap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// hidden `[…, hidden]` as `forward` gave it → the same, through the norm behind the blocks
    pub(super) fn normed(&self, with: &Forward, hidden: &Array) -> Result<Array> {
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

    /// Whether the embedding is the output layer.
    pub fn is_tied(&self) -> bool {
        matches!(self.live.layer(Site::LM_HEAD), Ok(Layer::Tied))
    }

    /// The norm of each row of a module's base weight, f32: `[out]`, of the embedding `[vocab]`.
    pub fn row_norms(&self, site: Site) -> Result<Array> {
        let weight = ops::astype(&self.weight(site)?, Dtype::F32)?;
        ops::sqrt(&ops::sum(&ops::multiply(&weight, &weight)?, -1, false)?)
    }

    /// The tensors that a module was made of, of matrices these rows. The output layer of a tied model is the embedding.
    pub(super) fn stored(&self, site: Site, rows: &Range<i32>) -> Result<Tensors<Array>> {
        let own = self.live.layer(site)?.stored(rows)?;
        let tied = || self.live.layer(Site::EMBED_TOKENS)?.stored(rows);
        let stored = match own {
            Some(stored) => Some(stored),
            None => tied()?,
        };
        stored.ok_or_else(|| Error::internal("a module without tensors"))
    }

    /// The base weight of a linear layer or the embedding, unpacked.
    pub(super) fn weight(&self, site: Site) -> Result<Array> {
        self.live.weight(site)
    }
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

    pub(super) fn layer(&self, site: Site) -> Result<&Layer> {
        let layer = self.layers.get(site.index);
        layer.ok_or_else(|| Error::internal("a module that is not there"))
    }

    pub(super) fn is_linear(&self, index: usize) -> bool {
        matches!(self.layers.get(index), Some(Layer::Linear(_)))
    }

    /// What embeddings of this type are multiplied by.
    pub(super) fn scale_of_embeddings(&self, dtype: Dtype) -> Result<f32> {
        let Some(scale) = &self.embed_scale else {
            return Ok(1.0);
        };
        let scale = ops::astype(&ops::astype(scale, dtype)?, Dtype::F32)?;
        Ok(scale.to_f32()?.first().copied().unwrap_or(1.0))
    }

    pub(super) fn embedding(&self) -> Result<&Embedding> {
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

pub(super) fn other_kind() -> Error {
    Error::internal("a module of another kind")
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
