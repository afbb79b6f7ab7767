//! OLMoE: norms over all queries and all keys of a token, and experts.

use super::experts::{self, Keys};
use super::olmo2;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::model::config::{DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let keys = Keys {
        experts: "num_experts",
        top_k: "num_experts_per_tok",
        intermediate: "intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
    moe.router.normalise = config.opt_bool("norm_topk_prob")?.unwrap_or(false);
    let eps = shared::norm_eps(config, None)?;
    let block = shared::pre_norm(eps, olmo2::attention(config)?, PartConfig::Moe(moe));
    let blocks = vec![block; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 4096,
        tie_word_embeddings: true,
    };
    shared::decoder(config, eps, blocks, defaults)
}
