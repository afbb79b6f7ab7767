//! Qwen 3, dense: each query and key head has a norm, head_dim is the config's own, no biases.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, Some(128)))?;
    attention.qk_norm = Some(shared::head_norms(shared::norm_eps(config, None)?));
    attention.rope = Some(ropes::rope(config, attention.head_dim, None)?);
    let attentions = vec![attention; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: false,
    };
    shared::llama_like(config, attentions, defaults)
}
