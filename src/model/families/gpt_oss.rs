//! gpt-oss: heads with sinks, windows on every other layer, biases everywhere, experts with a clamped gate.

use super::experts::{self, Keys};
use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::{Activation, Score};
use crate::model::config::{DecoderConfig, PartConfig};
use crate::model::plan::{ExpertNames, Fused};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, Some(2880))?;
    let eps = shared::norm_eps(config, Some(1e-5))?;
    let mut attention = shared::attention(config, hidden_size, (Some(64), Some(8), Some(64)))?;
    attention.sinks = true;
    (attention.qkv_bias, attention.o_bias) = (true, true);
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(150_000.0))?);
    let count = shared::layer_count(config, Some(36))?;
    let sliding = match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => (0..count).map(|layer| layer % 2 == 0).collect(),
    };
    let window = shared::window(config, Some(128))?;
    let mut attentions = vec![attention; count];
    shared::slide(&mut attentions, &sliding, window);

    let keys = Keys {
        experts: "num_local_experts",
        top_k: "num_experts_per_tok",
        intermediate: "intermediate_size",
    };
    let mut moe = experts::moe(config, keys)?;
    moe.names = ExpertNames {
        stacked: "experts",
        each: None,
        fused: Some(Fused::InTurn),
        ..experts::NAMES
    };
    moe.bias = true;
    let limit = config.opt_f32("swiglu_limit", 1e-3..=1e6)?;
    moe.activation = Activation::SwigluClamped {
        alpha: 1.702,
        limit: limit.unwrap_or(7.0),
    };
    moe.router.names = &["router"];
    moe.router.bias = true;
    moe.router.score = Score::SoftmaxOfChosen;
    let blocks = attentions.into_iter();
    let blocks = blocks.map(|of| shared::pre_norm(eps, of, PartConfig::Moe(moe.clone())));
    let defaults = Defaults {
        context: 131_072,
        tie_word_embeddings: false,
    };
    let mut decoder = shared::decoder(config, eps, blocks.collect(), defaults)?;
    decoder.hidden_size = hidden_size;
    Ok(decoder)
}
