//! MiniMax M2: norms over all queries and all keys of a token, part of each head turned, experts chosen with a correction.

use super::experts::{self, Keys};
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Score;
use crate::model::config::{DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let score = config.opt_str("scoring_func")?;
    if score.is_some_and(|name| name != "sigmoid") {
        return Err(experts::unknown(config, "scoring_func", "sigmoid"));
    }
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    if config.opt_bool("use_qk_norm")?.unwrap_or(true) {
        attention.qk_norm = Some(shared::projection_norms(eps));
    }
    let mut rope = ropes::rope(config, attention.head_dim, Some(10_000.0))?;
    rope.dims = ropes::rotary_dim(config, attention.head_dim)?;
    attention.rope = Some(rope);
    let keys = Keys {
        experts: "num_local_experts",
        top_k: "num_experts_per_tok",
        intermediate: "intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.name = "block_sparse_moe";
    moe.names = experts::W_NAMES;
    moe.router.score = Score::Sigmoid;
    moe.router.correction = &["e_score_correction_bias"];
    moe.router.normalise = true;
    let block = shared::pre_norm(eps, attention, PartConfig::Moe(moe));
    let blocks = vec![block; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 196_608,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks, defaults)
}
