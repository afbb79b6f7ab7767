//! Llama 1 to 3, Mistral, and the many models that share their shape (SmolLM, DeepSeek-R1-Distill-Llama).

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    let attention_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    (attention.qkv_bias, attention.o_bias) = (attention_bias, attention_bias);

    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);
    let mut attentions = vec![attention; shared::layer_count(config, None)?];
    shared::windows(config, &mut attentions)?;
    let defaults = Defaults {
        context: 2048,
        tie_word_embeddings: true,
    };
    shared::llama_like(config, attentions, defaults)
}
