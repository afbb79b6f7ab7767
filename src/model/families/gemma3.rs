//! Gemma 3: scaled embeddings, norms of one plus the weight before and after each part, and five sliding layers with
//! a local rope base for each layer that sees everything.

use super::shared;
use crate::error::{Error, Result};
use crate::load::{Limits, Object};
use crate::model::config::{
    Activation, DecoderConfig, Layer, MlpConfig, NormPlacement, Rope, RopeScaling,
};

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
        ignored: &["vision_tower.", "multi_modal_projector."],
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
    attention.qk_norm = true;
    let scalar = config
        .opt_f32("query_pre_attn_scalar", 1e-3..=1e6)?
        .unwrap_or(256.0);
    attention.scale = shared::inverse_root(scalar.into());
    Ok(DecoderConfig {
        hidden_size,
        vocab_size,
        context: shared::context(config, 32_768)?,
        norm_eps: shared::norm_eps(config, Some(1e-6))?,
        norm_plus_one: true,
        norm_placement: NormPlacement::Sandwich,
        embed_scale: Some((hidden_size as f32).sqrt()),
        tie_word_embeddings: None,
        attention,
        mlp: MlpConfig {
            intermediate_size: shared::intermediate_size(config, Some(6912))?,
            bias: false,
            activation: Activation::GeluTanh,
        },
        layers: layers(config)?,
        clip_residual: true,
        names: shared::TEXT_NAMES,
        ignored: &[],
    })
}

fn layers(config: &Object) -> Result<Vec<Layer>> {
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
    let (global, local) = ropes(config)?;
    Ok(sliding
        .into_iter()
        .map(|slides| match slides {
            true => Layer {
                rope: local.clone(),
                window: Some(window),
            },
            false => Layer {
                rope: global.clone(),
                window: None,
            },
        })
        .collect())
}

/// Rope of the layers that see everything, and of the sliding ones. transformers 5 writes one object for each kind.
fn ropes(config: &Object) -> Result<(Rope, Rope)> {
    let plain = |base| Rope {
        base,
        traditional: false,
        scaling: RopeScaling::None,
    };
    let nested = config
        .opt_object("rope_parameters")?
        .filter(|parameters| parameters.has("full_attention"));
    let local_base = config.opt_f32("rope_local_base_freq", 1.0..=1e12)?;
    let Some(parameters) = nested else {
        return Ok((
            shared::rope(config, Some(1_000_000.0))?,
            plain(local_base.unwrap_or(10_000.0)),
        ));
    };
    let full = parameters.object("full_attention")?;
    let base = shared::theta(&full)?.unwrap_or(1_000_000.0);
    let global = Rope {
        base,
        traditional: false,
        scaling: shared::rope_scaling(&full)?,
    };
    let sliding = parameters.opt_object("sliding_attention")?;
    let nested_local = sliding
        .map(|sliding| shared::theta(&sliding))
        .transpose()?
        .flatten();
    Ok((
        global,
        plain(nested_local.or(local_base).unwrap_or(10_000.0)),
    ))
}
