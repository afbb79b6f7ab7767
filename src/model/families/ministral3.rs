//! Ministral 3: llama with stretched positions and queries that grow with them.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Temperature;
use crate::model::config::DecoderConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.rope = Some(ropes::rope(config, attention.head_dim, None)?);
    if let Some(rope) = config.opt_object("rope_parameters")? {
        if let Some(beta) = rope.opt_f32("llama_4_scaling_beta", 0.0..=1e3)? {
            const KEY: &str = "original_max_position_embeddings";
            attention.temperature = Some(Temperature {
                beta,
                original_context: rope.u32(KEY, 1..=shared::LIMITS.context)?,
            });
        }
    }
    let mut attentions = vec![attention; shared::layer_count(config, None)?];
    shared::windows(config, &mut attentions)?;
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: true,
    };
    shared::llama_like(config, attentions, defaults)
}
