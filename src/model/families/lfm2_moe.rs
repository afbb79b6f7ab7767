//! LFM2 with experts: dense layers first, then experts by the sigmoid of their scores.

use super::experts::{self, Keys};
use super::{lfm2, shared};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::{Activation, Score};
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::parts::mlp::MlpConfig;
use crate::model::plan::ExpertNames;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let inner = shared::intermediate_size(config, None)?;
    let mlp = MlpConfig {
        name: "feed_forward",
        // Hugging Face's names behind mlx-lm's.
        names: [
            &["gate_proj", "w1"],
            &["up_proj", "w3"],
            &["down_proj", "w2"],
        ],
        ..MlpConfig::new(inner, Activation::Silu)
    };
    let keys = Keys {
        experts: "num_experts",
        intermediate: "moe_intermediate_size",
        top_k: "num_experts_per_tok",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.name = "feed_forward";
    moe.names = ExpertNames {
        fused: None,
        ..experts::W_NAMES
    };
    moe.router.score = Score::Sigmoid;
    if config.opt_bool("use_expert_bias")?.unwrap_or(true) {
        moe.router.correction = &["expert_bias"];
    }
    moe.router.normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(true);
    let scale = config.opt_f32("routed_scaling_factor", 1e-6..=1e6)?;
    moe.router.scale = scale.unwrap_or(1.0);
    let dense = config.u32("num_dense_layers", 0..=shared::LIMITS.layers)? as usize;
    lfm2::decoder(config, |layer| {
        Ok(match layer < dense {
            true => PartConfig::Mlp(mlp.clone()),
            false => PartConfig::Moe(moe.clone()),
        })
    })
}
