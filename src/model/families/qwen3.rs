//! Qwen 3, dense: each query and key head has a norm, head_dim is the config's own, no biases.

use super::shared;
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{Activation, DecoderConfig, MlpConfig, NormPlacement};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    shared::check_activation(config, &["silu"])?;
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, Some(128)))?;
    attention.qk_norm = true;
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, None)?,
        context: shared::context(config, 32_768)?,
        norm_eps: shared::norm_eps(config, None)?,
        norm_plus_one: false,
        norm_placement: NormPlacement::Pre,
        embed_scale: None,
        tie_word_embeddings: Some(config.opt_bool("tie_word_embeddings")?.unwrap_or(false)),
        attention,
        mlp: MlpConfig {
            intermediate_size: shared::intermediate_size(config, None)?,
            bias: false,
            activation: Activation::Silu,
        },
        layers: shared::uniform_layers(
            shared::layer_count(config, None)?,
            shared::rope(config, None)?,
        ),
        clip_residual: false,
        names: shared::TEXT_NAMES,
        ignored: &[],
    })
}
