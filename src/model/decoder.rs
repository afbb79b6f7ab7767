//! The decoder: embedding, blocks, norm, output layer, from any family's description.

use super::attention::Attention;
use super::cache::{AttentionMask, Cache};
use super::config::{DecoderConfig, NormPlacement};
use super::layers::{add_residual, Embedding, Linear, Mlp};
use super::rope::RotaryEmbedding;
use super::weights::{self, Weights};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::mlx::{ops, Array};

pub struct Decoder {
    config: DecoderConfig,
    embed_tokens: Embedding,
    blocks: Vec<Block>,
    /// `[hidden]`
    norm: Array,
    lm_head: Option<Linear>,
    /// The scalar that embeddings are multiplied by.
    embed_scale: Option<Array>,
}

struct Block {
    attention: Attention,
    mlp: Mlp,
    norms: Norms,
}

/// Each `[hidden]`.
enum Norms {
    Pre {
        attention: Array,
        mlp: Array,
    },
    Sandwich {
        attention: Array,
        after_attention: Array,
        mlp: Array,
        after_mlp: Array,
    },
}

impl Decoder {
    /// On the engine thread, from weights that were planned for `config`.
    pub fn new(config: DecoderConfig, weights: Weights<Array>) -> Result<Self> {
        let norm = |weight: Array| stored_norm(&config, weight);
        let embed_scale = config
            .embed_scale
            .map(|scale| Array::scalar(f32::from(half::bf16::from_f32(scale)), Dtype::F32))
            .transpose()?;
        let blocks = weights
            .layers
            .into_iter()
            .zip(&config.layers)
            .map(|(block, layer)| {
                Block::new(
                    &config,
                    block,
                    RotaryEmbedding::new(&layer.rope, config.attention.head_dim)?,
                )
            })
            .collect::<Result<_>>()?;
        Ok(Decoder {
            embed_tokens: Embedding::new(weights.embed_tokens)?,
            blocks,
            norm: norm(weights.norm)?,
            lm_head: weights.lm_head.map(Linear::new).transpose()?,
            embed_scale,
            config,
        })
    }

    /// Empty caches for one session; `window` and `keep` turn the full ones into rotating ones.
    pub fn make_caches(&self, window: Option<i32>, keep: i32) -> Vec<Cache> {
        self.config
            .layers
            .iter()
            .map(|layer| match (layer.window, window) {
                (Some(size), _) => Cache::rotating(size, 0),
                (None, Some(size)) => Cache::rotating(size, keep),
                (None, None) => Cache::full(),
            })
            .collect()
    }

    /// What `n` more tokens in these caches would take, in bytes.
    pub fn cost(&self, n: i32, caches: &[Cache]) -> Cost {
        let DecoderConfig {
            attention,
            mlp,
            hidden_size,
            vocab_size,
            ..
        } = &self.config;
        let size = |n: i32| u64::try_from(n).unwrap_or(0);
        let element = size(self.norm.dtype().size() as i32);
        let token = 2 * size(attention.kv_heads) * size(attention.head_dim) * element;
        let before: u64 = caches.iter().map(Cache::nbytes).sum();
        let after = caches.iter().map(|cache| cache.nbytes_after(n, token));
        // One layer at a time is copied: as it grows, or into one piece where attention is not fused. Activations: a few
        // rows of each width, in f32 at worst, and the scores before and after the softmax, again where attention is not
        // fused. Of the logits, what sampling makes of them.
        let longest = caches.iter().map(|cache| size(cache.length_after(n))).max();
        let longest = longest.unwrap_or(0);
        let scores = 2 * size(n) * size(attention.heads) * longest;
        let heads = size(attention.heads) + 2 * size(attention.kv_heads);
        let row = 4 * size(*hidden_size)
            + 3 * size(mlp.intermediate_size)
            + 2 * heads * size(attention.head_dim);
        let work = 4 * (size(n) * row + scores + 8 * size(*vocab_size));
        Cost {
            kv: after.clone().sum(),
            more: after.clone().sum::<u64>().saturating_sub(before)
                + caches
                    .iter()
                    .zip(after)
                    .filter(|(cache, after)| cache.nbytes() != *after)
                    .map(|(_, after)| after)
                    .max()
                    .unwrap_or(0)
                    .max(longest * token)
                + work,
        }
    }

    /// tokens i32 or u32 `[n]` → the last block's output, `[1, n, hidden]` or for `Rows::Last` `[1, 1, hidden]`; the
    /// caches take the n tokens.
    pub fn forward(&self, tokens: &Array, caches: &mut [Cache], rows: Rows) -> Result<Array> {
        let n = tokens.dim(0);
        let mut h = self.embed_tokens.forward(&ops::reshape(tokens, &[1, n])?)?;
        if let Some(scale) = &self.embed_scale {
            h = ops::multiply(&h, &ops::astype(scale, h.dtype())?)?;
        }
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
            h = block.forward(&self.config, &h, &masks[index].1, cache, rows)?;
        }
        Ok(h)
    }

    /// hidden `[1, n, hidden]` as `forward` gave it → logits `[1, n, vocab]`
    pub fn logits(&self, hidden: &Array) -> Result<Array> {
        let h = ops::rms_norm(hidden, Some(&self.norm), self.config.norm_eps)?;
        match &self.lm_head {
            Some(head) => head.forward(&h),
            None => self.embed_tokens.as_linear(&h),
        }
    }

    /// The logits after the last of `tokens` `[n]` → `[vocab]`; the caches take the n tokens.
    pub fn next_logits(&self, tokens: &Array, caches: &mut [Cache]) -> Result<Array> {
        let hidden = self.forward(tokens, caches, Rows::Last)?;
        ops::reshape(&self.logits(&hidden)?, &[self.config.vocab_size])
    }
}

/// What the next tokens of a session would take, in bytes.
pub struct Cost {
    /// All its keys and values.
    pub kv: u64,
    /// More memory than now, at most.
    pub more: u64,
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

impl Block {
    fn new(
        config: &DecoderConfig,
        weights: weights::Block<Array>,
        rope: RotaryEmbedding,
    ) -> Result<Self> {
        let norm = |weight: Array| stored_norm(config, weight);
        let norms = match (
            config.norm_placement,
            weights.pre_feedforward_layernorm,
            weights.post_feedforward_layernorm,
        ) {
            (NormPlacement::Sandwich, Some(before), Some(after)) => Norms::Sandwich {
                attention: norm(weights.input_layernorm)?,
                after_attention: norm(weights.post_attention_layernorm)?,
                mlp: norm(before)?,
                after_mlp: norm(after)?,
            },
            _ => Norms::Pre {
                attention: norm(weights.input_layernorm)?,
                mlp: norm(weights.post_attention_layernorm)?,
            },
        };
        Ok(Block {
            attention: Attention {
                q_proj: Linear::new(weights.q_proj)?,
                k_proj: Linear::new(weights.k_proj)?,
                v_proj: Linear::new(weights.v_proj)?,
                o_proj: Linear::new(weights.o_proj)?,
                q_norm: weights.q_norm.map(norm).transpose()?,
                k_norm: weights.k_norm.map(norm).transpose()?,
                norm_eps: config.norm_eps,
                rope,
                config: config.attention.clone(),
            },
            mlp: Mlp {
                gate_proj: Linear::new(weights.gate_proj)?,
                up_proj: Linear::new(weights.up_proj)?,
                down_proj: Linear::new(weights.down_proj)?,
                activation: config.mlp.activation,
            },
            norms,
        })
    }

    /// x `[1, n, hidden]` → the wanted rows of the same
    fn forward(
        &self,
        config: &DecoderConfig,
        x: &Array,
        mask: &AttentionMask,
        cache: &mut Cache,
        rows: Rows,
    ) -> Result<Array> {
        let rms = |x: &Array, weight: &Array| ops::rms_norm(x, Some(weight), config.norm_eps);
        let add = |x: &Array, y: &Array| add_residual(x, y, config.clip_residual);
        let (Norms::Pre { attention, .. } | Norms::Sandwich { attention, .. }) = &self.norms;
        let r = self
            .attention
            .forward(&rms(x, attention)?, mask, cache, rows)?;
        let x = match rows {
            Rows::All => x.clone(),
            Rows::Last => last_row(x)?,
        };
        match &self.norms {
            Norms::Pre { mlp, .. } => {
                let h = add(&x, &r)?;
                let r = self.mlp.forward(&rms(&h, mlp)?)?;
                add(&h, &r)
            }
            Norms::Sandwich {
                after_attention,
                mlp,
                after_mlp,
                ..
            } => {
                let h = add(&x, &rms(&r, after_attention)?)?;
                let r = self.mlp.forward(&rms(&h, mlp)?)?;
                add(&h, &rms(&r, after_mlp)?)
            }
        }
    }
}
