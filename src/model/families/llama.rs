//! Llama 1 to 3, Mistral, and the many models that share their shape (SmolLM, DeepSeek-R1-Distill-Llama).

use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, Layer};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    (attention.qkv_bias, attention.o_bias) = (attention_bias, attention_bias);

    let rope = shared::rope(config, Some(10_000.0))?;
    let count = shared::layer_count(config, None)?;
    let layers = match shared::sliding_layers(config, count)? {
        Some(sliding) if sliding.contains(&true) => {
            let window = shared::window(config, None)?;
            let layer = |slides: bool| Layer {
                rope: rope.clone(),
                window: slides.then_some(window),
            };
            sliding.into_iter().map(layer).collect()
        }
        _ => shared::uniform_layers(count, rope),
    };
    let defaults = Defaults {
        context: 2048,
        tie_word_embeddings: true,
    };
    let mut decoder = shared::llama_like(config, attention, layers, defaults)?;
    decoder.mlp.bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
    Ok(decoder)
}
