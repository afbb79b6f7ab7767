//! Granite 3: llama with multipliers on embeddings, scores, residuals and logits.

use super::{llama, shared};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, EmbedConfig, LogitsConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let decoder = multiplied(config, llama::read(config)?)?;
    Ok(DecoderConfig {
        context: shared::context(config, 2048)?,
        ..decoder
    })
}

/// With the multipliers that the config has.
pub fn multiplied(config: &Object, mut decoder: DecoderConfig) -> Result<DecoderConfig> {
    let multiplier = |key: &str| -> Result<f32> {
        let own = config.opt_f32(key, 1e-6..=1e6)?;
        Ok(own.unwrap_or(1.0))
    };
    let residual = multiplier("residual_multiplier")?;
    let scale = config.opt_f32("attention_multiplier", 1e-6..=1e6)?;
    let blocks = decoder.blocks.iter_mut();
    for half in blocks.flat_map(|block| &mut block.halves) {
        half.multiplier = residual;
        if let (PartConfig::Attention(attention), Some(scale)) = (&mut half.part, scale) {
            attention.scale = scale;
        }
    }
    decoder.embed = EmbedConfig {
        scale: Some(multiplier("embedding_multiplier")?),
        ..EmbedConfig::default()
    };
    decoder.logits = LogitsConfig {
        scale: Some(1.0 / multiplier("logits_scaling")?),
        softcap: None,
    };
    Ok(decoder)
}
