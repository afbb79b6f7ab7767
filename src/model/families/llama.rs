//! Llama 1 to 3, Mistral, and the many models that share their shape (SmolLM, DeepSeek-R1-Distill-Llama).

use super::shared;
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{Activation, DecoderConfig, Layer, MlpConfig, NormPlacement};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    shared::check_activation(config, &["silu"])?;
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    (attention.qkv_bias, attention.o_bias) = (attention_bias, attention_bias);

    let rope = shared::rope(config, Some(10_000.0))?;
    let count = shared::layer_count(config, None)?;
    let layers = match shared::sliding_layers(config, count)? {
        Some(sliding) if sliding.contains(&true) => {
            let window = shared::window(config, None)?;
            sliding
                .into_iter()
                .map(|slides| Layer {
                    rope: rope.clone(),
                    window: slides.then_some(window),
                })
                .collect()
        }
        _ => shared::uniform_layers(count, rope),
    };
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, None)?,
        context: shared::context(config, 2048)?,
        norm_eps: shared::norm_eps(config, None)?,
        norm_plus_one: false,
        norm_placement: NormPlacement::Pre,
        embed_scale: None,
        tie_word_embeddings: Some(config.opt_bool("tie_word_embeddings")?.unwrap_or(true)),
        attention,
        mlp: MlpConfig {
            intermediate_size: shared::intermediate_size(config, None)?,
            bias: config.opt_bool("mlp_bias")?.unwrap_or(false),
            activation: Activation::Silu,
        },
        layers,
        clip_residual: false,
        names: shared::TEXT_NAMES,
        ignored: &[],
    })
}
