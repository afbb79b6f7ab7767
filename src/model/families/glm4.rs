//! GLM 4 (0414): norms before and after each part, neighbours turned in half of each head, the MLP's halves in one matrix.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{BlockConfig, DecoderConfig, HalfConfig, PartConfig};
use crate::model::parts::mlp::MlpShape;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qkv_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let mut rope = ropes::rope(config, attention.head_dim, Some(10_000.0))?;
    rope.traditional = config.opt_bool("rope_traditional")?.unwrap_or(true);
    attention.rope = Some(rope);
    let mut mlp = shared::silu_mlp(config)?;
    mlp.shape = MlpShape::Fused;
    let eps = shared::norm_eps(config, None)?;
    let half = |before, part, after| {
        HalfConfig::after(shared::norm(before, eps), part).then(shared::norm(after, eps))
    };
    let block = BlockConfig::of(vec![
        half(
            "input_layernorm",
            PartConfig::Attention(attention),
            "post_self_attn_layernorm",
        ),
        half(
            "post_attention_layernorm",
            PartConfig::Mlp(mlp),
            "post_mlp_layernorm",
        ),
    ]);
    let blocks = vec![block; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks, defaults)
}
