//! Gemma 3: scaled embeddings, norms of one plus the weight before and after each part, and five sliding layers with
//! a local rope base for each layer that sees everything.

use super::{ropes, shared};
use crate::error::{Error, Result};
use crate::load::{Limits, Object};
use crate::mlx::nn::Activation;
use crate::model::config::{
    BlockConfig, DecoderConfig, EmbedConfig, HalfConfig, LogitsConfig, NormConfig, PartConfig,
};
use crate::model::parts::attention::{AttentionConfig, QkNorm, QkNormOver};
use crate::model::parts::mlp::MlpConfig;
use crate::model::rope::Rope;

const TEXT_VOCAB: u32 = 262_144;
/// With the image tokens.
const WRAPPER_VOCAB: u32 = 262_208;

/// `gemma3_text`.
pub fn read(config: &Object) -> Result<DecoderConfig> {
    read_text(
        config,
        (4, 1),
        shared::vocab_size(config, Some(TEXT_VOCAB))?,
    )
}

/// The text model of a `gemma3` folder; its vision tower is not run.
pub fn read_wrapper(config: &Object) -> Result<DecoderConfig> {
    let text = config.object("text_config")?;
    let vocab_size = if config.has("vocab_size") {
        shared::vocab_size(config, None)?
    } else {
        shared::vocab_size(&text, Some(WRAPPER_VOCAB))?
    };
    Ok(DecoderConfig {
        names: shared::INSIDE_NAMES,
        ignored: shared::words(&["vision_tower.", "multi_modal_projector."]),
        ..read_text(&text, (8, 4), vocab_size)?
    })
}

fn read_text(
    config: &Object,
    (heads, kv_heads): (u32, u32),
    vocab_size: i32,
) -> Result<DecoderConfig> {
    shared::check_activation(config, &["gelu_pytorch_tanh", "gelu_tanh"])?;
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if config.has(key) {
            return Err(Error::unsupported(format!(
                "{} is not supported",
                config.place(key)
            )));
        }
    }
    let hidden_size = shared::hidden_size(config, Some(1152))?;
    let mut attention = shared::attention(
        config,
        hidden_size,
        (Some(heads), Some(kv_heads), Some(256)),
    )?;
    let eps = shared::norm_eps(config, Some(1e-6))?;
    attention.qk_norm = Some(QkNorm {
        eps,
        plus_one: true,
        over: QkNormOver::Heads,
    });
    let scalar = config
        .opt_f32("query_pre_attn_scalar", 1e-3..=1e6)?
        .unwrap_or(256.0);
    attention.scale = shared::inverse_root(scalar.into());
    let inner = shared::intermediate_size(config, Some(6912))?;
    let mlp = MlpConfig::new(inner, Activation::GeluTanh);
    let both_ways = config
        .opt_bool("use_bidirectional_attention")?
        .unwrap_or(false);
    let mut attentions = attentions(config, &attention)?;
    if both_ways {
        // As transformers has it: half of the window on each side.
        for attention in &mut attentions {
            attention.window = attention.window.map(|window| window / 2 + 1);
        }
    }
    let blocks = attentions
        .into_iter()
        .map(|attention| sandwich(eps, attention, mlp.clone()));
    // Rounded to bf16 whatever the weights are.
    let scale = f32::from(half::bf16::from_f32((hidden_size as f32).sqrt()));
    Ok(DecoderConfig {
        hidden_size,
        vocab_size,
        context: shared::context(config, 32_768)?,
        embed: EmbedConfig {
            scale: Some(scale),
            ..EmbedConfig::default()
        },
        blocks: blocks.collect(),
        norm: Some(norm("norm", eps)),
        both_ways,
        tie_word_embeddings: None,
        logits: LogitsConfig::default(),
        clip_residual: true,
        names: shared::TEXT_NAMES,
        ignored: Vec::new(),
        unconverted_norms: &[],
        ahead: None,
    })
}

/// One plus the weight.
pub fn norm(name: &'static str, eps: f32) -> NormConfig {
    NormConfig {
        name,
        eps,
        plus_one: true,
        layer: false,
        bias: false,
    }
}

/// Norms before and after each part.
pub fn sandwich(eps: f32, attention: AttentionConfig, mlp: MlpConfig) -> BlockConfig {
    let half =
        |before, part, after| HalfConfig::after(norm(before, eps), part).then(norm(after, eps));
    BlockConfig::of(vec![
        half(
            "input_layernorm",
            PartConfig::Attention(attention),
            "post_attention_layernorm",
        ),
        half(
            "pre_feedforward_layernorm",
            PartConfig::Mlp(mlp),
            "post_feedforward_layernorm",
        ),
    ])
}

/// The attention of each layer.
fn attentions(config: &Object, all: &AttentionConfig) -> Result<Vec<AttentionConfig>> {
    let count = shared::layer_count(config, Some(26))?;
    let sliding = match shared::sliding_layers(config, count)? {
        Some(sliding) => sliding,
        None => {
            let key = if config.has("sliding_window_pattern") {
                "sliding_window_pattern"
            } else {
                "_sliding_window_pattern"
            };
            let pattern = config
                .opt_u32(key, 1..=Limits::DEFAULT.layers)?
                .unwrap_or(6) as usize;
            (0..count).map(|layer| (layer + 1) % pattern != 0).collect()
        }
    };
    let window = shared::window(config, Some(512))?;
    let (global, local) = ropes(config, all.head_dim)?;
    let attention = |slides| AttentionConfig {
        rope: Some(if slides {
            local.clone()
        } else {
            global.clone()
        }),
        window: if slides { Some(window) } else { None },
        ..all.clone()
    };
    Ok(sliding.into_iter().map(attention).collect())
}

/// Rope of the layers that see everything, and of the sliding ones. transformers 5 writes one object for each kind.
pub fn ropes(config: &Object, dims: i32) -> Result<(Rope, Rope)> {
    let nested = config
        .opt_object("rope_parameters")?
        .filter(|parameters| parameters.has("full_attention"));
    let local_base = config.opt_f32("rope_local_base_freq", 1.0..=1e12)?;
    let Some(parameters) = nested else {
        return Ok((
            ropes::rope(config, dims, Some(1_000_000.0))?,
            ropes::plain(dims, local_base.unwrap_or(10_000.0)),
        ));
    };
    let full = parameters.object("full_attention")?;
    let global = ropes::of_layers(config, &full, dims, 1_000_000.0)?;
    let sliding = parameters.opt_object("sliding_attention")?;
    let nested_local = sliding
        .map(|sliding| ropes::theta(&sliding))
        .transpose()?
        .flatten();
    Ok((
        global,
        ropes::plain(dims, nested_local.or(local_base).unwrap_or(10_000.0)),
    ))
}
