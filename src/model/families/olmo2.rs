//! OLMo 2: norms behind attention and MLP and none before, and norms over all queries and all keys of a token.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::attention::AttentionConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let attentions = vec![attention(config)?; shared::layer_count(config, None)?];
    blocks(config, attentions, true)
}

/// Of all layers.
pub fn attention(config: &Object) -> Result<AttentionConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    let bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    (attention.qkv_bias, attention.o_bias) = (bias, bias);
    let eps = shared::norm_eps(config, None)?;
    attention.qk_norm = Some(shared::projection_norms(eps));
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);
    Ok(attention)
}

pub fn blocks(
    config: &Object,
    attentions: Vec<AttentionConfig>,
    tie_word_embeddings: bool,
) -> Result<DecoderConfig> {
    let (eps, mlp) = (shared::norm_eps(config, None)?, shared::silu_mlp(config)?);
    let blocks = attentions.into_iter();
    let blocks = blocks.map(|of| shared::post_norm(eps, of, PartConfig::Mlp(mlp.clone())));
    let defaults = Defaults {
        context: 4096,
        tie_word_embeddings,
    };
    shared::decoder(config, eps, blocks.collect(), defaults)
}
