//! Qwen 3, dense: each query and key head has a norm, head_dim is the config's own, no biases.

use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, Some(128)))?;
    attention.qk_norm = true;
    let rope = shared::rope(config, None)?;
    let layers = shared::uniform_layers(shared::layer_count(config, None)?, rope);
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: false,
    };
    shared::llama_like(config, attention, layers, defaults)
}
