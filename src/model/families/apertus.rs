//! Apertus: norms of query and key heads, and an MLP of one branch through an xIELU.

use super::ropes;
use super::shared::{self, Defaults};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{BlockConfig, DecoderConfig, HalfConfig, PartConfig};
use crate::model::parts::mlp::{MlpConfig, MlpShape};

pub fn read(config: &Object) -> Result<DecoderConfig> {
    shared::check_activation(config, &["xielu"])?;
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, None))?;
    let bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    (attention.qkv_bias, attention.o_bias) = (bias, bias);
    attention.qk_norm = Some(shared::head_norms(eps));
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(12_000_000.0))?);
    let mut mlp = MlpConfig::new(shared::intermediate_size(config, None)?, Activation::Silu);
    mlp.shape = MlpShape::Xielu;
    mlp.bias = config.opt_bool("mlp_bias")?.unwrap_or(false);
    let half = |name, part| HalfConfig::after(shared::norm(name, eps), part);
    let block = BlockConfig::of(vec![
        half("attention_layernorm", PartConfig::Attention(attention)),
        half("feedforward_layernorm", PartConfig::Mlp(mlp)),
    ]);
    let blocks = vec![block; shared::layer_count(config, None)?];
    let defaults = Defaults {
        context: 65_536,
        tie_word_embeddings: false,
    };
    shared::decoder(config, eps, blocks, defaults)
}
