//! Qwen 2 and 1.5 with experts: qwen2's attention, and a shared expert behind a gate of its own.

use super::experts::{self, Keys};
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::attention::AttentionConfig;
use crate::model::parts::moe::MoeConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qkv_bias = config.opt_bool("qkv_bias")?.unwrap_or(true);
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(1_000_000.0))?);
    blocks(config, attention, shared_moe(config)?)
}

/// And one that all tokens go through, behind a gate.
pub fn shared_moe(config: &Object) -> Result<MoeConfig> {
    let mut moe = moe(config)?;
    let key = "shared_expert_intermediate_size";
    let inner = shared::size(config, key, shared::LIMITS.intermediate, None)?;
    let mut shared_expert = experts::shared_expert("shared_expert", inner);
    shared_expert.gate = Some("shared_expert_gate");
    moe.shared = Some(shared_expert);
    Ok(moe)
}

/// Experts as Qwen's configs describe them.
pub fn moe(config: &Object) -> Result<MoeConfig> {
    let keys = Keys {
        experts: "num_experts",
        top_k: "num_experts_per_tok",
        intermediate: "moe_intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.router.normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(false);
    Ok(moe)
}

/// Layers with experts, and those without.
pub fn blocks(
    config: &Object,
    attention: AttentionConfig,
    moe: MoeConfig,
) -> Result<DecoderConfig> {
    let eps = shared::norm_eps(config, None)?;
    let sparse = experts::sparse_layers(config, shared::layer_count(config, None)?)?;
    let mlp = match sparse.contains(&false) {
        true => Some(shared::silu_mlp(config)?),
        false => None,
    };
    let blocks = sparse.into_iter().map(|sparse| {
        let part = match &mlp {
            Some(mlp) if !sparse => PartConfig::Mlp(mlp.clone()),
            _ => PartConfig::Moe(moe.clone()),
        };
        shared::pre_norm(eps, attention.clone(), part)
    });
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks.collect(), defaults)
}
