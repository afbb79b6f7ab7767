//! GLM 4.5 to 4.7: half of each head turned, dense layers first, then experts out of the best groups beside a shared one.

use super::experts::{self, Keys};
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::{Groups, Score};
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::moe::MoeConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.qkv_bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    if config.opt_bool("use_qk_norm")?.unwrap_or(false) {
        attention.qk_norm = Some(shared::head_norms(eps));
    }
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);

    let (moe, mlp) = (moe(config)?, shared::silu_mlp(config)?);
    let count = shared::layer_count(config, None)?;
    let dense = config.opt_u32("first_k_dense_replace", 0..=shared::LIMITS.layers)?;
    let dense = dense.unwrap_or(0) as usize;
    let blocks = (0..count).map(|layer| {
        let part = match layer < dense {
            true => PartConfig::Mlp(mlp.clone()),
            false => PartConfig::Moe(moe.clone()),
        };
        shared::pre_norm(eps, attention.clone(), part)
    });
    let defaults = Defaults {
        context: 131_072,
        tie_word_embeddings: false,
    };
    Ok(DecoderConfig {
        // A head that predicts further tokens, as one more layer.
        ignored: vec![format!("model.layers.{count}.")],
        ..shared::decoder(config, eps, blocks.collect(), defaults)?
    })
}

fn moe(config: &Object) -> Result<MoeConfig> {
    for (key, known) in [("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")] {
        if config.opt_str(key)?.is_some_and(|name| name != known) {
            return Err(experts::unknown(config, key, known));
        }
    }
    let mut moe = moe_of(config)?;
    let shared = config.opt_u32("n_shared_experts", 0..=shared::LIMITS.experts)?;
    if let Some(shared @ 1..) = shared {
        let inner = i64::from(moe.intermediate_size) * i64::from(shared);
        let inner = i32::try_from(inner);
        let inner = inner.map_err(|_| config.wrong("n_shared_experts", "a smaller number"))?;
        moe.shared = Some(experts::shared_expert("shared_experts", inner));
    }
    Ok(moe)
}

/// Without what all tokens go through.
pub fn moe_of(config: &Object) -> Result<MoeConfig> {
    let keys = Keys {
        experts: "n_routed_experts",
        top_k: "num_experts_per_tok",
        intermediate: "moe_intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.router.score = Score::Sigmoid;
    moe.router.correction = &["gate.e_score_correction_bias"];
    moe.router.normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(true);
    let scale = config.opt_f32("routed_scaling_factor", 1e-6..=1e6)?;
    moe.router.scale = scale.unwrap_or(1.0);
    moe.router.groups = groups(config, &moe)?;
    Ok(moe)
}

fn groups(config: &Object, moe: &MoeConfig) -> Result<Option<Groups>> {
    let number = |key: &str| -> Result<i32> {
        let number = config.opt_u32(key, 1..=shared::LIMITS.experts)?;
        let number = i32::try_from(number.unwrap_or(1));
        number.map_err(|_| config.wrong(key, "a smaller number"))
    };
    let (count, chosen) = (number("n_group")?, number("topk_group")?);
    if count <= 1 {
        return Ok(None);
    }
    if moe.experts % count != 0 {
        let must = format!("a divisor of n_routed_experts, {}", moe.experts);
        return Err(config.wrong("n_group", &must));
    }
    let reachable = i64::from(moe.experts / count) * i64::from(chosen);
    if chosen > count || i64::from(moe.top_k) > reachable {
        let must = format!("at most n_group, {count}, and enough for num_experts_per_tok");
        return Err(config.wrong("topk_group", &must));
    }
    Ok(Some(Groups { count, chosen }))
}
