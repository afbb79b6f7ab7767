//! Phi 3 and 4: llama with queries, keys and values in one matrix and the MLP's halves in another.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::mlp::MlpShape;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.fused = true;
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);
    let mut mlp = shared::silu_mlp(config)?;
    mlp.shape = MlpShape::Fused;
    let eps = shared::norm_eps(config, None)?;
    let block = shared::pre_norm(eps, attention, PartConfig::Mlp(mlp));
    let blocks = vec![block; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 131_072,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks, defaults)
}
