//! Mixtral: llama's attention, and experts whose weights are a softmax over those that were chosen.

use super::experts::{self, Keys};
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Score;
use crate::model::config::{DecoderConfig, PartConfig};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(1_000_000.0))?);
    let keys = Keys {
        experts: "num_local_experts",
        top_k: "num_experts_per_tok",
        intermediate: "intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.name = "block_sparse_moe";
    moe.names = experts::W_NAMES;
    moe.router.score = Score::SoftmaxOfChosen;
    let eps = shared::norm_eps(config, None)?;
    let block = shared::pre_norm(eps, attention, PartConfig::Moe(moe));
    let blocks = vec![block; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 32_768,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks, defaults)
}
