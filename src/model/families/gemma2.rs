//! Gemma 2: gemma's norms and scaled embeddings, scores and logits bounded by caps, a window on every other layer.

use super::gemma3::{norm, sandwich};
use super::{ropes, shared};
use crate::error::Result;
use crate::load::Object;
use crate::mlx::nn::Activation;
use crate::model::config::{DecoderConfig, EmbedConfig, LogitsConfig};
use crate::model::parts::mlp::MlpConfig;

pub fn read(config: &Object) -> Result<DecoderConfig> {
    shared::check_activation(config, &["gelu_pytorch_tanh", "gelu_tanh"])?;
    let hidden_size = shared::hidden_size(config, None)?;
    let eps = shared::norm_eps(config, None)?;
    let mut attention = shared::attention(config, hidden_size, (None, None, Some(256)))?;
    attention.softcap = cap(config, "attn_logit_softcapping", 50.0)?;
    let scalar = config.opt_f32("query_pre_attn_scalar", 1e-3..=1e6)?;
    attention.scale = shared::inverse_root(scalar.unwrap_or(144.0).into());
    attention.rope = Some(ropes::rope(config, attention.head_dim, Some(10_000.0))?);
    let count = shared::layer_count(config, None)?;
    // mlx-lm lets all layers see everything, which is another model beyond the window.
    let sliding = match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => (0..count).map(|layer| layer % 2 == 0).collect(),
    };
    let mut attentions = vec![attention; count];
    let window = shared::window(config, Some(4096))?;
    shared::slide(&mut attentions, &sliding, window);
    let inner = shared::intermediate_size(config, None)?;
    let mlp = MlpConfig::new(inner, Activation::GeluTanh);
    let blocks = attentions.into_iter();
    let blocks = blocks.map(|attention| sandwich(eps, attention, mlp.clone()));
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, None)?,
        context: shared::context(config, 8192)?,
        embed: EmbedConfig {
            scale: Some((hidden_size as f32).sqrt()),
            ..EmbedConfig::default()
        },
        blocks: blocks.collect(),
        norm: Some(norm("norm", eps)),
        both_ways: false,
        tie_word_embeddings: Some(true),
        logits: LogitsConfig {
            scale: None,
            softcap: cap(config, "final_logit_softcapping", 30.0)?,
        },
        clip_residual: false,
        names: shared::TEXT_NAMES,
        ignored: Vec::new(),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// None where the config says null.
pub fn cap(config: &Object, key: &str, default: f32) -> Result<Option<f32>> {
    let own = config.opt_f32(key, 1e-3..=1e6)?;
    Ok(match config.names(key) {
        true => own,
        false => Some(default),
    })
}
