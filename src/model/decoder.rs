//! The decoder: embedding, blocks, norm, output layer, from any family's description.

use std::ops::Range;
use std::rc::Rc;

use super::adapter::{Adapter, AdapterSet};
use super::attention::Attention;
use super::cache::{AttentionMask, Cache};
use super::config::{DecoderConfig, NormPlacement, Rope};
use super::cost::{Costs, StepCost};
use super::layers::{add_residual, Embedding, Linear, Mlp, Norm};
use super::modules::{BlockModule, Site};
use super::rope::RotaryEmbedding;
use super::weights::{self, Weights};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::{fast, memory, ops, Array};

pub struct Decoder {
    pub(super) config: Rc<DecoderConfig>,
    embed_tokens: Embedding,
    /// Shared with what is kept to compute a block again (`training.rs`).
    pub(super) blocks: Vec<Rc<Block>>,
    norm: Norm,
    lm_head: Option<Linear>,
    /// The scalar that embeddings are multiplied by.
    embed_scale: Option<Array>,
    costs: Costs,
}

pub(super) struct Block {
    pub(super) attention: Attention,
    pub(super) mlp: Mlp,
    pub(super) norms: Norms,
}

/// Each `[hidden]`.
pub(super) enum Norms {
    Pre {
        attention: Norm,
        mlp: Norm,
    },
    Sandwich {
        attention: Norm,
        after_attention: Norm,
        mlp: Norm,
        after_mlp: Norm,
    },
}

impl Decoder {
    /// On the engine thread, from weights that were planned for `config`.
    pub fn new(config: DecoderConfig, weights: Weights<Array>) -> Result<Self> {
        let costs = Costs::new(&config, &weights, fast::active());
        let embed_scale = config
            .embed_scale
            .map(|scale| Array::scalar(f32::from(half::bf16::from_f32(scale)), Dtype::F32))
            .transpose()?;
        // Layers that turn alike share what they turn by.
        let mut ropes: Vec<(&Rope, RotaryEmbedding)> = Vec::with_capacity(2);
        let blocks = weights
            .layers
            .into_iter()
            .zip(&config.layers)
            .enumerate()
            .map(|(index, (block, layer))| {
                let known = ropes.iter().find(|(rope, _)| **rope == layer.rope);
                let rope = match known {
                    Some((_, rope)) => rope.clone(),
                    None => {
                        let rope = RotaryEmbedding::new(&layer.rope, config.attention.head_dim)?;
                        ropes.push((&layer.rope, rope.clone()));
                        rope
                    }
                };
                let block = Block::new(&config, index, block, rope)?;
                if fast::active() {
                    // What it was packed from: so there is never more than all weights and a block.
                    memory::give_back();
                }
                Ok(Rc::new(block))
            })
            .collect::<Result<_>>()?;
        Ok(Decoder {
            embed_tokens: Embedding::new(weights.embed_tokens)?,
            blocks,
            norm: norm(&config, weights.norm, Site::NORM)?,
            lm_head: weights
                .lm_head
                .map(|head| Linear::new(head, Site::LM_HEAD))
                .transpose()?,
            embed_scale,
            costs,
            config: Rc::new(config),
        })
    }

    /// Empty caches for one session; `window` and `keep` turn the full ones into rotating ones.
    pub fn make_caches(&self, window: Option<i32>, keep: i32) -> Vec<Cache> {
        let extents = self.config.extents(window, keep);
        extents.into_iter().map(Cache::new).collect()
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// What `n` more tokens in these caches take.
    pub fn cost(&self, n: i32, caches: &[Cache]) -> StepCost {
        let rooms = caches.iter().zip(self.costs.tokens());
        let rooms: Vec<_> = rooms
            .map(|(cache, token)| cache.room_for(n, token))
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
        let n = tokens.dim(0);
        let mut h = self.embed(&ops::reshape(tokens, &[1, n])?, adapters)?;
        // Layers with the same window see the same part of the past, so they share a mask.
        let mut masks: Vec<(Option<i32>, AttentionMask)> = Vec::with_capacity(2);
        let last = self.blocks.len().saturating_sub(1);
        for (i, ((block, layer), cache)) in self
            .blocks
            .iter()
            .zip(&self.config.layers)
            .zip(caches)
            .enumerate()
        {
            let known = masks.iter().position(|(window, _)| *window == layer.window);
            let index = match known {
                Some(index) => index,
                None => {
                    masks.push((layer.window, cache.mask(n)?));
                    masks.len() - 1
                }
            };
            let rows = if i == last { rows } else { Rows::All };
            let mask = &masks[index].1;
            h = block.forward(&self.config, &h, mask, Some(cache), rows, adapters)?;
        }
        Ok(h)
    }

    /// tokens `[batch, n]` → what goes into the first block, `[batch, n, hidden]`
    pub(super) fn embed(&self, tokens: &Array, adapters: &AdapterSet) -> Result<Array> {
        let h = self.embed_tokens.forward(tokens, adapters)?;
        match &self.embed_scale {
            Some(scale) => ops::multiply(&h, &ops::astype(scale, h.dtype())?),
            None => Ok(h),
        }
    }

    /// hidden `[…, hidden]` as `forward` gave it → logits `[…, vocab]`
    pub fn logits(&self, hidden: &Array, adapters: &AdapterSet) -> Result<Array> {
        let h = self.norm.forward(hidden, self.config.norm_eps, adapters)?;
        match &self.lm_head {
            Some(head) => head.forward(&h, adapters),
            None => self.embed_tokens.as_linear(&h, adapters),
        }
    }

    /// The logits after the last of `tokens` `[n]` → `[vocab]`; the caches take the n tokens.
    pub fn next_logits(
        &self,
        tokens: &Array,
        caches: &mut [Cache],
        adapters: &AdapterSet,
    ) -> Result<Array> {
        let hidden = self.forward(tokens, caches, Rows::Last, adapters)?;
        ops::reshape(&self.logits(&hidden, adapters)?, &[self.config.vocab_size])
    }

    /// Adds an adapter to a set, at `strength` times its own scale.
    pub fn add_adapter(
        &self,
        set: &mut AdapterSet,
        adapter: &mut Adapter,
        strength: f32,
    ) -> Result<()> {
        set.add(adapter, strength, &|site| self.weight(site), &|norm| {
            stored_norm(&self.config, norm.clone())
        })
    }

    /// Whether the embedding is the output layer.
    pub fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    /// `[out, in]` of a linear layer, `[hidden, vocab]` of the embedding: as A and B of an adapter have it.
    pub fn weight_shape(&self, site: Site) -> Result<[i32; 2]> {
        let weight = self.weight(site)?;
        let [rows, columns] = [weight.dim(0), weight.dim(1)];
        Ok(if site == Site::EMBED_TOKENS {
            [columns, rows]
        } else {
            [rows, columns]
        })
    }

    /// The norm of each row of a module's base weight, f32: `[out]`, of the embedding `[vocab]`.
    pub fn row_norms(&self, site: Site) -> Result<Array> {
        let weight = ops::astype(&self.weight(site)?, Dtype::F32)?;
        ops::sqrt(&ops::sum(&ops::multiply(&weight, &weight)?, 1, false)?)
    }

    /// The tensors that a module was made of, of matrices these rows; norms among them. The output layer of a tied model is
    /// the embedding.
    pub(super) fn stored(&self, site: Site, rows: &Range<i32>) -> Result<weights::Linear<Array>> {
        match (&self.lm_head, site) {
            (Some(head), Site::LM_HEAD) => head.stored(rows),
            (None, Site::LM_HEAD) | (_, Site::EMBED_TOKENS) => self.embed_tokens.stored(rows),
            (_, Site::NORM) => Ok(self.norm.stored()),
            _ => match site.layer().and_then(|layer| self.blocks.get(layer)) {
                Some(block) => block.stored(site, rows),
                None => Err(Error::internal("the tensors of a module that is not there")),
            },
        }
    }

    /// The base weight of a linear layer or the embedding, unpacked.
    pub(super) fn weight(&self, site: Site) -> Result<Array> {
        if site == Site::EMBED_TOKENS || (site == Site::LM_HEAD && self.is_tied()) {
            return self.embed_tokens.weight();
        }
        if let Some(head) = self.lm_head.as_ref().filter(|head| head.site() == site) {
            return head.weight();
        }
        match site.layer().and_then(|layer| self.blocks.get(layer)) {
            Some(block) => block.weight(site),
            None => Err(Error::internal("an adapter of a module that is not there")),
        }
    }
}

/// Which rows of the last block's output are wanted. For the last alone, that block computes the keys and values of
/// all tokens and everything else once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    Last,
}

/// The last token of x `[1, n, hidden]` → `[1, 1, hidden]`
pub(super) fn last_row(x: &Array) -> Result<Array> {
    match x.dim(1) {
        1 => Ok(x.clone()),
        n => ops::slice(x, &[0, n - 1, 0], &[1, n, x.dim(2)]),
    }
}

/// Gemma's norms multiply by one plus the stored weight; the sum is made once, in the weight's type.
fn stored_norm(config: &DecoderConfig, weight: Array) -> Result<Array> {
    if config.norm_plus_one {
        ops::add(&Array::scalar(1.0, weight.dtype())?, &weight)
    } else {
        Ok(weight)
    }
}

fn norm(config: &DecoderConfig, weight: Array, site: Site) -> Result<Norm> {
    Ok(Norm::new(
        stored_norm(config, weight.clone())?,
        weight,
        site,
    ))
}

impl Block {
    fn new(
        config: &DecoderConfig,
        index: usize,
        weights: weights::Block<Array>,
        rope: RotaryEmbedding,
    ) -> Result<Self> {
        use BlockModule::*;
        let site = |module| Site::block(index, module);
        let norm = |weight: Array, module| norm(config, weight, site(module));
        let linear = |weights, module| Linear::new(weights, site(module));
        let norms = match (
            config.norm_placement,
            weights.pre_feedforward_layernorm,
            weights.post_feedforward_layernorm,
        ) {
            (NormPlacement::Sandwich, Some(before), Some(after)) => Norms::Sandwich {
                attention: norm(weights.input_layernorm, InputLayernorm)?,
                after_attention: norm(weights.post_attention_layernorm, PostAttentionLayernorm)?,
                mlp: norm(before, PreFeedforwardLayernorm)?,
                after_mlp: norm(after, PostFeedforwardLayernorm)?,
            },
            _ => Norms::Pre {
                attention: norm(weights.input_layernorm, InputLayernorm)?,
                mlp: norm(weights.post_attention_layernorm, PostAttentionLayernorm)?,
            },
        };
        Ok(Block {
            attention: Attention {
                q_proj: linear(weights.q_proj, QProj)?,
                k_proj: linear(weights.k_proj, KProj)?,
                v_proj: linear(weights.v_proj, VProj)?,
                o_proj: linear(weights.o_proj, OProj)?,
                q_norm: weights
                    .q_norm
                    .map(|weight| norm(weight, QNorm))
                    .transpose()?,
                k_norm: weights
                    .k_norm
                    .map(|weight| norm(weight, KNorm))
                    .transpose()?,
                norm_eps: config.norm_eps,
                rope,
                config: config.attention.clone(),
            },
            mlp: Mlp {
                gate_proj: linear(weights.gate_proj, GateProj)?,
                up_proj: linear(weights.up_proj, UpProj)?,
                down_proj: linear(weights.down_proj, DownProj)?,
                activation: config.mlp.activation,
            },
            norms,
        })
    }

    fn linears(&self) -> [&Linear; 7] {
        let (attention, mlp) = (&self.attention, &self.mlp);
        [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &mlp.gate_proj,
            &mlp.up_proj,
            &mlp.down_proj,
        ]
    }

    fn norms(&self) -> Vec<&Norm> {
        let attention = [&self.attention.q_norm, &self.attention.k_norm];
        let mut all: Vec<&Norm> = attention.into_iter().flatten().collect();
        match &self.norms {
            Norms::Pre { attention, mlp } => all.extend([attention, mlp]),
            Norms::Sandwich {
                attention,
                after_attention,
                mlp,
                after_mlp,
            } => all.extend([attention, after_attention, mlp, after_mlp]),
        }
        all
    }

    fn stored(&self, site: Site, rows: &Range<i32>) -> Result<weights::Linear<Array>> {
        if let Some(linear) = self.linears().into_iter().find(|one| one.site() == site) {
            return linear.stored(rows);
        }
        match self.norms().into_iter().find(|norm| norm.site() == site) {
            Some(norm) => Ok(norm.stored()),
            None => Err(Error::internal("the tensors of a module that is not there")),
        }
    }

    /// The base weight of one of its linear layers, unpacked.
    pub(super) fn weight(&self, site: Site) -> Result<Array> {
        let linears = self.linears();
        match linears.iter().find(|linear| linear.site() == site) {
            Some(linear) => linear.weight(),
            None => Err(Error::internal("an adapter of a module that is not there")),
        }
    }

    /// x `[1, n, hidden]` → the wanted rows of the same; without a cache `[batch, n, hidden]`
    pub(super) fn forward(
        &self,
        config: &DecoderConfig,
        x: &Array,
        mask: &AttentionMask,
        mut cache: Option<&mut Cache>,
        rows: Rows,
        adapters: &AdapterSet,
    ) -> Result<Array> {
        if let Some(cache) = cache.as_deref_mut() {
            if let Some(h) = self.fused(config, x, mask, cache, rows, adapters)? {
                return Ok(h);
            }
        }
        let rms = |x: &Array, norm: &Norm| norm.forward(x, config.norm_eps, adapters);
        let add = |x: &Array, y: &Array| add_residual(x, y, config.clip_residual);
        let (Norms::Pre { attention, .. } | Norms::Sandwich { attention, .. }) = &self.norms;
        let r = self
            .attention
            .forward(&rms(x, attention)?, mask, cache, rows, adapters)?;
        let x = match rows {
            Rows::All => x.clone(),
            Rows::Last => last_row(x)?,
        };
        match &self.norms {
            Norms::Pre { mlp, .. } => {
                let h = add(&x, &r)?;
                let r = self.mlp.forward(&rms(&h, mlp)?, adapters)?;
                add(&h, &r)
            }
            Norms::Sandwich {
                after_attention,
                mlp,
                after_mlp,
                ..
            } => {
                let h = add(&x, &rms(&r, after_attention)?)?;
                let r = self.mlp.forward(&rms(&h, mlp)?, adapters)?;
                add(&h, &rms(&r, after_mlp)?)
            }
        }
    }
}
