//! Qwen 2 and 2.5: llama with biases on the queries, keys and values.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qkv_bias = true;
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(1_000_000.0))?);
    let attentions = vec![attention; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: true,
    };
    shared::llama_like(config, attentions, defaults)
}
