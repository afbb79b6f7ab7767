//! ModernBERT: an encoder with rope, layer norms before each part, gated MLPs, and two layers with windows for each that sees
//! everything.

use super::bert::{activation, layer_norm};
use super::{ropes, shared};
use crate::error::Result;
use crate::load::{Limits, Object};
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, Names, PartConfig,
};
use crate::model::parts::attention::{AttentionConfig, AttentionNames};
use crate::model::parts::mlp::{MlpConfig, MlpShape};
use crate::model::rope::Rope;

const fn names(body: &'static str) -> Names {
    Names {
        body,
        head: "",
        embedding: "embeddings.tok_embeddings",
        layers: shared::LAYERS,
    }
}

const NAMES: &[Names] = &[names(""), names("model.")];

const ATTENTION: AttentionNames = AttentionNames {
    part: "attn",
    qkv_proj: "Wqkv",
    o_proj: "Wo",
    ..AttentionNames::USUAL
};

/// What trained heads are called, which embeddings are made without.
const HEADS: &[&str] = &["head.dense.", "head.norm.", "decoder.", "classifier."];

pub fn read(config: &Object) -> Result<DecoderConfig> {
    let hidden_size = shared::hidden_size(config, Some(768))?;
    let attention = shared::attention(config, hidden_size, (Some(12), None, None))?;
    let bias = config.opt_bool("attention_bias")?.unwrap_or(false);
    let attention = AttentionConfig {
        names: ATTENTION,
        fused: true,
        qkv_bias: bias,
        o_bias: bias,
        ..attention
    };
    let mlp = MlpConfig {
        fused_name: "Wi",
        names: [&[], &[], &["Wo"]],
        bias: config.opt_bool("mlp_bias")?.unwrap_or(false),
        shape: MlpShape::Fused,
        ..MlpConfig::new(
            shared::intermediate_size(config, Some(1152))?,
            activation(config, "hidden_activation")?,
        )
    };
    let eps = config.opt_f32("norm_eps", 0.0..=1.0)?.unwrap_or(1e-5);
    let norm_bias = config.opt_bool("norm_bias")?.unwrap_or(false);
    let norm = |name| layer_norm(name, eps, norm_bias);
    let count = shared::layer_count(config, Some(22))?;
    let sliding = match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => {
            let every = config
                .opt_u32("global_attn_every_n_layers", 1..=Limits::DEFAULT.layers)?
                .unwrap_or(3) as usize;
            (0..count).map(|layer| layer % every != 0).collect()
        }
    };
    let window = shared::size(config, "local_attention", shared::LIMITS.context, Some(128))?;
    let (global, local) = ropes(config, attention.head_dim)?;
    let blocks = sliding.into_iter().enumerate().map(|(layer, slides)| {
        let attention = PartConfig::Attention(AttentionConfig {
            rope: Some(if slides { &local } else { &global }.clone()),
            // Half of it on each side.
            window: slides.then_some(window / 2 + 1),
            ..attention.clone()
        });
        let mut attend = HalfConfig::after(norm("attn_norm"), attention);
        if layer == 0 {
            // The embeddings are normed already.
            attend.norm = None;
        }
        let feed = HalfConfig::after(norm("mlp_norm"), PartConfig::Mlp(mlp.clone()));
        BlockConfig::of(vec![attend, feed])
    });
    Ok(DecoderConfig {
        hidden_size,
        vocab_size: shared::vocab_size(config, Some(50_368))?,
        context: shared::context(config, 8192)?,
        embed: EmbedConfig {
            sum_norm: Some(norm("embeddings.norm")),
            ..EmbedConfig::default()
        },
        blocks: blocks.collect(),
        norm: Some(norm("final_norm")),
        both_ways: true,
        tie_word_embeddings: Some(true),
        logits: LogitsConfig::default(),
        clip_residual: false,
        names: NAMES,
        ignored: shared::words(HEADS),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// Of the layers that see everything, and of the others. transformers 5 writes one object for each kind.
fn ropes(config: &Object, dims: i32) -> Result<(Rope, Rope)> {
    let parameters = config.opt_object("rope_parameters")?;
    let of = |kind: &str, key: &str, base: f32| {
        let own = match &parameters {
            Some(parameters) => parameters.opt_object(kind)?,
            None => None,
        };
        match own {
            Some(own) => ropes::of_layers(config, &own, dims, base),
            None => {
                let base = config.opt_f32(key, 1.0..=1e12)?.unwrap_or(base);
                Ok(ropes::plain(dims, base))
            }
        }
    };
    Ok((
        of("full_attention", "global_rope_theta", 160_000.0)?,
        of("sliding_attention", "local_rope_theta", 10_000.0)?,
    ))
}
