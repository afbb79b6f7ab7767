//! GLM 4.5 to 4.7: half of each head turned, dense layers first, then experts out of the best groups beside a shared one.

use super::experts;
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{BlockConfig, DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qkv_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    if config.opt_bool("use_qk_norm")?.unwrap_or(false) {
        attention.qk_norm = Some(shared::head_norms(eps));
    }
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);

    let (moe, mlp) = (
        experts::corrected(config, 1.0, 0)?,
        shared::silu_mlp(config)?,
    );
    let count = shared::layer_count(config, None)?;
    let dense = config.opt_u32("first_k_dense_replace", 0..=shared::LIMITS.layers)?;
    let dense = dense.unwrap_or(0) as usize;
    let block = |layer: usize| -> BlockConfig {
        let part = match layer < dense {
            true => PartConfig::Mlp(mlp.clone()),
            false => PartConfig::Moe(moe.clone()),
        };
        shared::pre_norm(eps, attention.clone(), part)
    };
    let blocks = (0..count).map(block);
    let ahead = config.opt_u32("num_nextn_predict_layers", 0..=u32::MAX)?;
    let defaults = Defaults {
        context: 131_072,
        tie_word_embeddings: false,
    };
    Ok(DecoderConfig {
        ahead: shared::ahead_behind(count, ahead, eps, block),
        // Further heads, and copies of the embedding and the output layer.
        ignored: vec![format!("model.layers.{count}.")],
        ..shared::decoder(config, eps, blocks.collect(), defaults)?
    })
}
