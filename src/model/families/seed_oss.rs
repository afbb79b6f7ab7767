//! Seed OSS: llama with biases that the config names one by one.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qkv_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    attention.o_bias = config.opt_bool("attention_out_bias")?.unwrap_or(false);
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);
    let attentions = vec![attention; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 524_288,
        tie_word_embeddings: true,
    };
    shared::llama_like(config, attentions, defaults)
}
